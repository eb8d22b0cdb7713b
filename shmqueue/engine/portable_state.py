"""The portable engine's state: what its numbers mean, how they are packed, and which of them cannot be true.

The layout and the rules by which states follow each other are in ``shmqueue.engine.portable``. Nothing here touches
shared memory.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from shmqueue.engine import RECORD_HEADER_SIZE

__all__ = ["NUMBER_MAX", "SLOT_SIZE", "Contradiction", "Room", "State", "unpack"]

_FIELDS = struct.Struct("=19Q")
_CHECKSUM = struct.Struct("=Q")
SLOT_SIZE: int = _FIELDS.size + _CHECKSUM.size
"""Bytes that a packed state takes."""
_OF_ZEROS = zlib.crc32(bytes(_FIELDS.size))  # makes the checksum of an all-zero state 0
NUMBER_MAX = 1 << 62  # no honest state comes near, and arithmetic below it cannot leave 64 bits


class Contradiction(Exception):
    """What was read from shared memory cannot be true; the message says why."""


class Room(NamedTuple):
    """How much room the ring of one segment may have: ``least`` bytes to begin with, ``most`` in the end."""

    least: int
    most: int


class State(NamedTuple):
    """What a queue holds. The figures from ``put_position`` to ``recoveries`` are those of ``Counters``.

    ``shut``: 0 open, 1 shut down, 2 shut down and the records dropped. ``size``: bytes of the ring as it is now.
    ``base``: the position whose offset in the ring is 0. ``maxsize``: most records from now on, and one more; 0: what
    the segment's header says. ``entries``: records that are handed out or were given back, in the lease table number
    ``table`` (0 or 1), whose checksum is ``table_check``; ``returned``: those given back.
    """

    serial: int
    put_position: int
    put_count: int
    get_position: int
    get_count: int
    dropped: int
    done: int
    high_water: int
    recoveries: int
    shut: int
    size: int
    base: int
    maxsize: int = 0
    entries: int = 0
    returned: int = 0
    table: int = 0
    table_check: int = 0
    acknowledged: int = 0
    redelivered: int = 0

    @property
    def available(self) -> int:
        """Records that can be taken: those in the ring, and those given back."""
        return self.put_count - self.get_count + self.returned

    @property
    def items(self) -> int:
        """Records in the ring."""
        return self.put_count - self.get_count

    @property
    def used(self) -> int:
        """Bytes in the queue."""
        return self.put_position - self.get_position

    @property
    def unfinished(self) -> int:
        """Records that are neither done nor dropped."""
        return max(0, self.put_count - self.dropped - self.done)

    @property
    def end(self) -> int:
        """The offset behind the last record if the ring were long enough that none wraps."""
        return (self.get_position - self.base) % self.size + self.used

    def offset(self, position: int) -> int:
        """Where in the ring the byte of that position is."""
        return (position - self.base) % self.size

    def without_records(self) -> State:
        """The state after all records were dropped."""
        # Fewer are dropped than there were if task_done() was called before there was an item.
        dropped = self.dropped + min(self.available, self.unfinished)
        return self._replace(get_position=self.put_position, get_count=self.put_count, dropped=dropped)

    def after_put(self, length: int, count: int) -> State:
        """The next state, after ``count`` records of ``length`` bytes together were added."""
        serial, put_position, put_count, get_position, get_count, dropped, done, high_water, *others = self
        put_count += count
        items = put_count - get_count
        if items > high_water:
            high_water = items
        return State(
            serial + 1, put_position + length, put_count, get_position, get_count, dropped, done, high_water, *others
        )

    def after_get(self, length: int, count: int) -> State:
        """The next state, after the oldest ``count`` records, of ``length`` bytes together, were taken."""
        serial, put_position, put_count, get_position, get_count, *others = self
        return State(serial + 1, put_position, put_count, get_position + length, get_count + count, *others)

    def with_ring(self, size: int, offset: int = 0) -> State:
        """The state in a ring of another size, with the oldest record at an offset of it."""
        return self._replace(size=size, base=self.get_position - offset)

    def has_place(self, length: int, room: Room) -> bool:
        """Whether ``length`` bytes more can be written to the ring as it is.

        They may wrap only as far as the ring can still grow: the growth puts what wraps behind the ring.
        """
        size, used = self.size, self.put_position - self.get_position
        end = (self.get_position - self.base) % size + used + length
        return end <= size or (used + length <= size and (size == room.most or end <= room.most))

    def contradiction(self, room: Room) -> str | None:
        """What cannot be true of this state, or None."""
        _, put_position, put_count, get_position, get_count, dropped, done, _, _, shut, size, base, *_ = self
        used, items = put_position - get_position, put_count - get_count
        if max(self) > NUMBER_MAX or shut > 2:
            return "the state holds an impossible number"
        if not room.least <= size <= room.most or base > get_position:
            return f"there cannot be a ring of {size} bytes from position {base} on"
        if not 0 <= used <= size:
            return f"the positions {put_position} and {get_position} contradict each other"
        if not 0 <= items * RECORD_HEADER_SIZE <= used or (items == 0) != (used == 0):
            return f"there cannot be {items} items in {used} bytes"
        if size < room.most < self.end:
            return f"the positions {put_position} and {get_position} leave the ring no way to grow"
        if self.returned > self.entries or self.entries > get_count or self.table > 1:
            return f"there cannot be {self.entries} leased items, of which {self.returned} were given back"
        if dropped > get_count or done > put_count:
            return "the counts contradict each other"
        return None

    def pack(self) -> bytes:
        """The bytes of a slot. ``unpack`` reads them back."""
        fields = _FIELDS.pack(*self)
        return fields + _CHECKSUM.pack(zlib.crc32(fields) ^ _OF_ZEROS)


def unpack(slot: bytes, room: Room) -> State | None:
    """The state in a slot, None if it is torn or corrupted. A size of 0 stands for the one to begin with."""
    (checksum,) = _CHECKSUM.unpack_from(slot, _FIELDS.size)
    if zlib.crc32(slot[: _FIELDS.size]) ^ _OF_ZEROS != checksum:
        return None
    state = State(*_FIELDS.unpack_from(slot))
    return state if state.size else state._replace(size=room.least)
