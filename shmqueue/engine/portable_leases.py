"""The portable engine's lease table: which records are handed out, and where their payloads lie meanwhile.

A record that is handed out is moved out of the ring, so that a slow holder never holds it up. Behind the ring lie, from
a multiple of ``SYSTEM_PAGESIZE`` on:

    two tables   each of ``MOST`` entries, of which ``State.table`` is the current one and ``State.entries`` are used
    windows      as many bytes as the queue's capacity, a TiB at most, for the payloads of the entries

A change writes all entries that remain into the other table, and the payload of a new one into bytes of the windows
that no entry names; the state that is committed afterwards names that table and its checksum. So what is written before
the commit means nothing until then. Nothing here touches shared memory.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from shmqueue.engine.portable_state import Contradiction, State
from shmqueue.segment import HEADER_SIZE, SYSTEM_PAGESIZE

__all__ = [
    "MOST",
    "Entry",
    "LeaseArea",
    "Move",
    "oldest_returned",
    "replaced",
]

MOST = 1024
"""Records that can be handed out at once."""

_WINDOWS_MOST = 1 << 40  # bytes: addresses are not unlimited, and the whole file is mapped

_FIELDS = struct.Struct("=10Q")


class Entry(NamedTuple):
    """One record that was handed out.

    ``number``: which of all records that were ever put. ``attempt``: how often it was handed out. ``is_returned``: 1 if
    it was requeued and waits. ``pid``, ``started``, ``handle``: the holder. ``since``: when it was handed out, on the
    monotonic clock, in ns. ``start``, ``length``: its payload in the windows, in bytes.
    """

    number: int
    method: int
    attempt: int
    is_returned: int
    pid: int
    started: int
    handle: int
    since: int
    start: int
    length: int


class Move(NamedTuple):
    """What is written before a commit that changes the table: at slices of the file, bytes."""

    window: slice
    payload: bytes
    table: slice
    entries: bytes


class LeaseArea:
    """Where the tables and the windows of one segment lie.

    Args:
        capacity: most bytes of records, of the queue.
    """

    def __init__(self, capacity: int) -> None:
        start = HEADER_SIZE + _whole_pages(capacity)
        self._tables = start, start + _TABLE_SIZE
        self._windows = start + 2 * _TABLE_SIZE
        self._room = min(capacity, _WINDOWS_MOST)

    @staticmethod
    def data_size(capacity: int) -> int:
        """Bytes of the file behind the header, the ring's included; no other capacity has the same."""
        return capacity + SYSTEM_PAGESIZE + 2 * _TABLE_SIZE + min(capacity, _WINDOWS_MOST)

    def table(self, state: State) -> slice:
        """Where the entries of a state lie in the file."""
        start = self._tables[state.table]
        return slice(start, start + state.entries * _FIELDS.size)

    def window(self, entry: Entry) -> slice:
        """Where the payload of an entry lies in the file."""
        return slice(self._windows + entry.start, self._windows + entry.start + entry.length)

    def pages_of(self, entry: Entry) -> tuple[int, int]:
        """Start and length, in the file, of the whole pages that belong to the entry alone."""
        start = _whole_pages(self._windows + entry.start)
        return start, (self._windows + entry.start + entry.length) // SYSTEM_PAGESIZE * SYSTEM_PAGESIZE - start

    def entries(self, state: State, table: bytes) -> list[Entry]:
        """The entries of a state.

        Raises:
            Contradiction: the table is not what the state says, or says what cannot be.
        """
        if zlib.crc32(table) != state.table_check or len(table) != state.entries * _FIELDS.size:
            raise Contradiction("the lease table's checksum is wrong")
        entries = list(map(Entry._make, _FIELDS.iter_unpack(table)))
        if any(entry.start + entry.length > self._room for entry in entries):
            raise Contradiction("a leased record lies where none can be")
        if sum(entry.is_returned for entry in entries) != state.returned:
            raise Contradiction("the lease table contradicts the state")
        return entries

    def free_start(self, entries: Iterable[Entry], length: int) -> int | None:
        """Where in the windows ``length`` bytes are free; None where there are none in one piece."""
        start = 0
        for entry in sorted(entries, key=lambda entry: entry.start):
            if entry.start - start >= length:
                break
            start = entry.start + entry.length
        return start if start + length <= self._room else None

    def change(self, state: State, entries: Sequence[Entry], payload: tuple[slice, bytes] | None) -> tuple[State, Move]:
        """The state with these entries, and what must be written before it is committed."""
        packed = b"".join(_FIELDS.pack(*entry) for entry in entries)
        following = state._replace(
            table=1 - state.table,
            entries=len(entries),
            returned=sum(entry.is_returned for entry in entries),
            table_check=zlib.crc32(packed),
        )
        at, data = payload or (slice(0, 0), b"")
        return following, Move(at, data, self.table(following), packed)


def oldest_returned(entries: Iterable[Entry]) -> Entry | None:
    """The entry that is handed out next."""
    return min((entry for entry in entries if entry.is_returned), default=None)  # by number


def replaced(entries: Iterable[Entry], old: Entry, new: Entry | None) -> list[Entry]:
    """The entries with another one, or none, in the place of ``old``."""
    others = [entry for entry in entries if entry != old]
    return others if new is None else [*others, new]


def _whole_pages(size: int) -> int:
    return -(-size // SYSTEM_PAGESIZE) * SYSTEM_PAGESIZE


_TABLE_SIZE = _whole_pages(MOST * _FIELDS.size)
