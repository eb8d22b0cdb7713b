"""Plain items to msgpack: scalars, and lists, dicts and tuples of those. ``plain_unpacking`` is the way back.

What is packed comes back equal and with its types, except that bytearray and memoryview arrive as bytes. A container
that an item refers to twice would come back as two containers, and could make a small item exponentially large, so it
is refused unless the caller asks for copies. A tuple is an array that begins with a mark, an extension of no bytes.

Nothing here recurses through Python or through msgpack's packer by more than ``_PACKER_DEPTH`` levels: a thread with a
small stack handles every item. The native engine has all of this in C; see ``python_plain.h``.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import msgpack

from shmqueue.interruptions import not_of_handler

__all__ = [
    "DEPTH_MAX",
    "HAS_GIL",
    "MARK",
    "MARK_CODE",
    "MSGPACK",
    "MSGPACK_TUPLES",
    "SCALARS",
    "TYPES",
    "NotPlain",
    "pack",
    "pack_copies",
    "pack_scalar",
]

SCALARS = frozenset({int, float, bool, type(None), str, bytes})
"""Types of which exact instances are scalars to msgpack, and come back as they were."""

_CONTAINERS = frozenset({dict, list, tuple})
_LEAVES = frozenset({bytearray, memoryview, msgpack.ExtType, msgpack.Timestamp})
TYPES = SCALARS | _CONTAINERS | _LEAVES
"""Types of which exact instances may be plain items; nothing else is."""

HAS_GIL = "free-threading build" not in sys.version

DEPTH_MAX = 1024  # containers inside of each other, as many as msgpack unpacks; see python_plain.h
_PACKER_DEPTH = 32  # msgpack's packer recurses, and takes about half a KiB of the C stack for each level

MSGPACK, MSGPACK_TUPLES = 0, 2  # methods of records; see serialization.py

# Extension codes below 0 are msgpack's own to give, and ExtType() refuses them: no item can hold one by accident.
MARK_CODE = -84
MARK: Any = msgpack.ExtType._make((MARK_CODE, b""))

_EMPTY: tuple[()] = ()  # there is only one, wherever it stands


class NotPlain(ValueError):
    """The item is not plain; the message says why."""


# ---- packing ----

_KEPT_PAYLOAD = 1 << 18  # bytes: a packer keeps the memory of the largest item it has packed


class _Packer:
    """One of msgpack's packers. It marks tuples, and remembers whether there were any."""

    __slots__ = ("has_tuples", "pack")

    def __init__(self) -> None:
        self.has_tuples = False
        self.pack: Callable[[Any], bytes] = msgpack.Packer(strict_types=True, default=self._marked).pack

    def _marked(self, value: Any) -> list[Any]:
        if type(value) is not tuple:
            raise _not_kept(value)
        self.has_tuples = True
        return [MARK, *value]


_idle_packers: list[_Packer] = []


def _pack(item: Any) -> tuple[int, bytes]:
    """By the packer, which recurses.

    Each call has a packer for itself: the garbage collector may run any code in the middle of it, which may put. One
    that has raised is not used again: what it has written of that item, all of it if there was no memory for the
    result, would come before the next one.
    """
    try:
        packer = _idle_packers.pop()
    except not_of_handler(IndexError):
        packer = _Packer()
    packer.has_tuples = False
    payload = packer.pack(item)
    method = MSGPACK_TUPLES if packer.has_tuples else MSGPACK
    if len(payload) <= _KEPT_PAYLOAD:
        _idle_packers.append(packer)
    return method, payload


def pack_scalar(item: Any) -> bytes:
    """msgpack for an item of one of the types in ``SCALARS``.

    Raises:
        Exception: msgpack does not keep it: an int of more than 64 bits, a str with lone surrogates.
    """
    return _pack(item)[1]


def pack(item: Any) -> tuple[int, bytes]:
    """The method and payload of a plain item's record.

    Raises:
        NotPlain: it is not plain, or refers to a container more than once.
        Exception: as ``pack_scalar``, for a scalar in it.
    """
    kind = type(item)
    if kind in _CONTAINERS:
        item = _unchanging(item)
        return _pack_container(item, _depth(item))
    if kind in TYPES:
        return _pack(item)
    raise _not_kept(item)


def _pack_container(item: Any, depth: int) -> tuple[int, bytes]:
    return _pack(item) if depth <= _PACKER_DEPTH else _pack_deep(item)


def _not_kept(item: Any) -> NotPlain:
    return NotPlain(f"msgpack does not keep {type(item).__name__}")


_count_references: Callable[[Any], int] = getattr(sys, "getrefcount", lambda value: -1)
_SINGLE = 1 + sum(map(_count_references, [[]]))
"""References to what is in one list and in one other container."""


def _depth(item: Any) -> int:
    """How deep containers are nested in one; the packer looks at all else.

    It works level by level, each of which the collector lists at once, which is the fastest way without C. (Keys of a
    dict are not listed if all of them are strings, as no containers are among them.)
    """
    containers = _CONTAINERS
    level: list[Any] = [item]
    seen = {id(item)}
    depth = 0
    while level:
        depth += 1
        values = gc.get_referents(*level)
        if containers.isdisjoint(map(type, values)):
            break
        level = [value for value in values if type(value) in containers and value is not _EMPTY]
        del values
        if sum(map(_count_references, level)) == _SINGLE * len(level):
            continue  # nothing else refers to them
        distinct = set(map(id, level))
        if len(distinct) < len(level) or not seen.isdisjoint(distinct):
            raise NotPlain("it refers to a container more than once")
        seen |= distinct
    if depth > DEPTH_MAX:
        raise _too_deep()
    return depth


def _too_deep() -> NotPlain:
    return NotPlain(f"containers are nested more than {DEPTH_MAX} deep")


def _pack_deep(item: Any) -> tuple[int, bytes]:
    """What the packer would write, without recursion."""
    packer = msgpack.Packer(strict_types=True, autoreset=False)
    method = MSGPACK
    stack: list[Iterator[Any]] = [iter((item,))]
    while stack:
        for value in stack[-1]:
            kind = type(value)
            if kind is dict:
                packer.pack_map_header(len(value))
                stack.append(chain.from_iterable(value.items()))
                break
            if kind is list:
                packer.pack_array_header(len(value))
                stack.append(iter(value))
                break
            if kind is tuple:
                method = MSGPACK_TUPLES
                packer.pack_array_header(1 + len(value))
                packer.pack(MARK)
                stack.append(iter(value))
                break
            packer.pack(value)
        else:
            stack.pop()
    return method, packer.bytes()


# ---- what other threads may change meanwhile ----


def _unchanging(item: Any) -> Any:
    """The item if this Python has a GIL, which msgpack's packer holds; else a copy of its containers.

    A container to which it refers more than once is one container in the copy, too.

    Raises:
        NotPlain: it contains itself.
    """
    return item if HAS_GIL else _copied(item)


def _copied(item: Any) -> Any:
    copies: dict[int, Any] = {}  # by address
    kept: list[Any] = []  # what has those addresses
    root: list[Any] = []
    stack: list[tuple[Any, Iterator[Any], list[Any]]] = [([], iter((item,)), root)]
    is_open: set[int] = set()
    while stack:
        container, values, copied = stack[-1]
        for value in values:
            if type(value) not in _CONTAINERS or value is _EMPTY:
                copied.append(value)
            elif id(value) in copies:
                copied.append(copies[id(value)])
            elif id(value) in is_open:
                raise NotPlain("it contains itself")
            else:
                kept.append(value)
                is_open.add(id(value))
                as_values: Any = chain.from_iterable(value.copy().items()) if type(value) is dict else tuple(value)
                stack.append((value, iter(as_values), []))
                break
        else:
            stack.pop()
            if stack:
                is_open.remove(id(container))
                copy = copies[id(container)] = _as_before(type(container), copied)
                stack[-1][2].append(copy)
    return root[0]


def _as_before(kind: Any, values: list[Any]) -> Any:
    if kind is dict:
        return dict(zip(values[::2], values[1::2], strict=True))
    return values if kind is list else tuple(values)


# ---- copies of what an item refers to more than once ----

_COPIES = 64  # as often as what is in an item may be written, on the average
_COPIES_AT_LEAST = 100_000  # values that may be written anyway


def pack_copies(item: Any) -> tuple[int, bytes]:
    """As ``pack``, but a container to which an item refers more than once is written each time.

    Raises:
        NotPlain: it is not plain; or it contains itself; or the copies would be too many.
    """
    if type(item) not in _CONTAINERS:
        return pack(item)
    item = _unchanging(item)
    return _pack_container(item, _depth_with_copies(item))


class _Open:
    """A container whose size, in values, is being found out."""

    __slots__ = ("container", "depth", "size", "values")

    def __init__(self, container: Any) -> None:
        kind = type(container)
        self.container = container
        self.depth, self.size = 1, 1
        self.values: Iterator[Any] = chain.from_iterable(container.items()) if kind is dict else iter(container)


def _depth_with_copies(item: Any) -> int:
    sizes: dict[int, tuple[int, int]] = {}  # of containers by address: values with all copies, and depth
    distinct = 0
    stack = [_Open(item)]
    is_open = {id(item)}
    while True:
        frame = stack[-1]
        for value in frame.values:
            distinct += 1
            if type(value) in SCALARS or type(value) in _LEAVES:
                frame.size += 1
                continue
            if type(value) not in _CONTAINERS:
                raise _not_kept(value)
            known = sizes.get(id(value))
            if known is None:
                if id(value) in is_open:
                    raise NotPlain("it contains itself")
                stack.append(_Open(value))
                is_open.add(id(value))
                break
            frame.size += known[0]
            frame.depth = max(frame.depth, 1 + known[1])
        else:
            stack.pop()
            is_open.remove(id(frame.container))
            sizes[id(frame.container)] = frame.size, frame.depth
            if not stack:
                break
            stack[-1].size += frame.size
            stack[-1].depth = max(stack[-1].depth, 1 + frame.depth)
    if frame.depth > DEPTH_MAX:
        raise _too_deep()
    most = max(_COPIES_AT_LEAST, _COPIES * distinct)
    if frame.size > most:
        raise NotPlain(
            f"it refers to some containers more than once: with a copy for each reference it has more than {most} "
            f"values, where {distinct} are distinct"
        )
    return frame.depth
