"""Items to put: nested Python values, class instances, and sizes around the edges of records, pages and buffers."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

__all__ = ["Thing", "is_alike", "is_same", "values"]


class Thing:
    """An instance of a class that only pickle can carry."""

    def __init__(self, content: Any) -> None:
        self.content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and is_same(self.content, other.content)

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"Thing({self.content!r})"


def is_same(one: Any, other: Any) -> bool:
    """Whether two items are equal and of the same types, all the way down; NaN is the same as NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            is_same(key, key_there) and is_same(one[key], other[key_there])
            for key, key_there in zip(one, other, strict=True)
        )
    return bool(one == other)


def is_alike(one: Any, other: Any) -> bool:
    """Whether an item could be the other one, changed on its way (a list for a tuple, say)."""
    return bool(_plain(one) == _plain(other))


def _plain(item: Any) -> Any:
    if isinstance(item, (list, tuple, set, frozenset)):
        return [_plain(each) for each in item]
    if isinstance(item, dict):
        return [[_plain(key), _plain(value)] for key, value in item.items()]
    if isinstance(item, (bytes, bytearray, str)):
        return item.decode("latin-1") if not isinstance(item, str) else item
    if isinstance(item, Thing):
        return _plain(item.content)
    if isinstance(item, float) and math.isnan(item):
        return "NaN"
    return item


_EDGES = [edge + shift for edge in (0, 32, 256, 4096, 65536) for shift in (-12, -9, -8, -5, -1, 0, 1, 3)]

_scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.binary(max_size=10))
_keys = st.one_of(st.integers(), st.text(max_size=5), st.tuples(st.integers(), st.booleans()))
_nested = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(_keys, inner, max_size=3),
        inner.map(Thing),
    ),
    max_leaves=6,
)
_sized = st.builds(
    lambda size, kind: kind(size),
    st.sampled_from([edge for edge in _EDGES if edge >= 0]),
    st.sampled_from([bytes, lambda size: "x" * size, bytearray]),
)

values: st.SearchStrategy[Any] = st.one_of(
    st.integers(0, 9),
    _scalars,
    st.tuples(_scalars, st.tuples(_scalars)),
    _nested,
    _sized,
    st.sets(st.integers(0, 5)),
    st.frozensets(st.integers(0, 5)),
)
"""Items; the first choice, to which a failing program shrinks, is a small number."""
