"""What workers do with the blocks of ``put_view`` and ``get_view``. They keep them open; the director knows a block by
its number."""

from __future__ import annotations

import itertools
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

__all__ = ["Viewed", "begin_get", "begin_put", "end", "write"]

_open: dict[int, tuple[AbstractContextManager[Any], Any]] = {}  # the blocks of this process
_numbers = itertools.count(1)


class Viewed(NamedTuple):
    """A block that a worker is in: its number there, a copy of the bytes, and whether they may be written."""

    number: int
    contents: bytes
    is_writable: bool


def _enter(block: AbstractContextManager[Any]) -> Viewed:
    view = memoryview(block.__enter__())
    number = next(_numbers)
    _open[number] = (block, view)
    return Viewed(number, bytes(view), not view.readonly)


def begin_put(queue: Any, length: int, **options: Any) -> Viewed:
    """Begin a ``put_view`` block. Which bytes are there at first is not defined."""
    return _enter(queue.put_view(length, **options))


def begin_get(queue: Any, **options: Any) -> Viewed:
    """Begin a ``get_view`` block."""
    return _enter(queue.get_view(**options))


def write(_: Any, number: int, data: bytes) -> None:
    """Write from the first byte of a block on."""
    _open[number][1][: len(data)] = data


class _Planned(Exception):
    """What a block raises."""


def end(_: Any, number: int, raises: bool = False) -> None:
    """End a block; ``raises``: as one ends that raises an exception."""
    block, view = _open.pop(number)
    view.release()
    error = _Planned() if raises else None
    try:
        block.__exit__(type(error) if error is not None else None, error, None)
    except _Planned:
        pass
