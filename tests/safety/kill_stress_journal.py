"""A worker's journal: what it was about to do and what it has done, on which its death has no influence.

A file that only grows, with one write() for each line; it belongs to one worker, and is read after its end. What a
killed worker has written stays: the kernel has it. At most the last line is cut off, which is then not read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import NamedTuple

_LINE = Struct("<IIQQ")


class What(IntEnum):
    """``BEGIN_*`` stands before an operation, the others after it.

    ``count`` is of items, ``producer`` and ``number`` are those of the first one.
    """

    BEGIN_OPEN = 0
    OPENED = 1
    BEGIN_CLOSE = 2
    CLOSED = 3
    BEGIN_PUT = 4
    PUT = 5
    FULL = 6
    BEGIN_GET = 7
    GOT = 8  # one for each item, then GET_ENDS
    GET_ENDS = 9
    BEGIN_DONE = 10  # task_done(), `count` times
    DONE = 11
    LEFT = 12  # the worker ends in good order
    BEGIN_LEASE = 13
    LEASED = 14  # then HANDED, or HANDED alone: there was none
    HANDED = 15
    BEGIN_ACK = 16  # of the item `number` of the producer `count`, as in the next three
    ACKED = 17
    BEGIN_REQUEUE = 18
    REQUEUED = 19


class Line(NamedTuple):
    what: int
    count: int  # type: ignore[assignment]  # it hides the method of tuple
    number: int
    time: int
    """Nanoseconds of the monotonic clock; of ``GOT`` and ``LEASED``, the producer.

    Of the latter, ``count`` is the attempt, or 0 where it was not told.
    """


class Journal:
    """For the worker to write."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, what: What, count: int = 0, number: int = 0) -> None:
        os.write(self._fd, _LINE.pack(what, count, number, time.monotonic_ns()))

    def write_got(self, names: Iterable[tuple[int, int]]) -> None:
        """What a get has returned, at once."""
        lines = [_LINE.pack(What.GOT, 1, number, producer) for producer, number in names]
        lines.append(_LINE.pack(What.GET_ENDS, len(lines), 0, time.monotonic_ns()))
        os.write(self._fd, b"".join(lines))

    def write_leased(self, name: tuple[int, int] | None, attempt: int) -> None:
        """What a lease has returned, at once."""
        line = b"" if name is None else _LINE.pack(What.LEASED, attempt, name[1], name[0])
        os.write(self._fd, line + _LINE.pack(What.HANDED, 0, 0, time.monotonic_ns()))


def last_line(path: Path) -> tuple[int, Line | None]:
    """How many whole lines there are as yet, and the last one."""
    try:
        with path.open("rb", buffering=0) as file:
            count = os.fstat(file.fileno()).st_size // _LINE.size
            line = os.pread(file.fileno(), _LINE.size, (count - 1) * _LINE.size) if count else b""
    except FileNotFoundError:  # it has not come so far
        return 0, None
    return count, Line(*_LINE.unpack(line)) if line else None


def read_journal(path: Path) -> Iterator[Line]:
    """Its whole lines."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:  # killed before it began
        return
    whole = len(data) // _LINE.size * _LINE.size
    for fields in _LINE.iter_unpack(memoryview(data)[:whole]):
        yield Line(*fields)
