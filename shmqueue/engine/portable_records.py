"""Where the portable engine's records lie, in the ring and in the windows of leases, and how they are copied out.

Rules 4, 6 and 7 of ``portable.py``. Everything here is a part of attempts, which write nothing themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import TYPE_CHECKING

from shmqueue import clock
from shmqueue.engine import RECORD_HEADER_SIZE
from shmqueue.engine.portable_commit import NO_BYTES, Commits, Step
from shmqueue.engine.portable_lock import Hold
from shmqueue.engine.portable_state import Contradiction, State
from shmqueue.exceptions import ShmQueueShutDown
from shmqueue.messages import never_fits
from shmqueue.segment import HEADER_SIZE, Segment

if TYPE_CHECKING:
    from shmqueue.engine import Payload

__all__ = ["LONGEST_WRITTEN", "Records"]

_RECORD = Struct("=II")
_LONG = 0xFFFFFFFF  # stands for a length that comes as a number of 64 bits
_LONG_RECORD = Struct("=IIQ")
_SHORT = 64  # bytes of a record, or what follows it, that are copied before its length is known

LONGEST_WRITTEN = _LONG - 64
"""Bytes of an item that its user writes, in either engine."""


class Records(Commits):
    """A handle that finds records."""

    def __init__(self, segment: Segment, report: Callable[[int], None]) -> None:
        super().__init__(segment)
        self._capacity = segment.header.shape.capacity
        self._limit = segment.header.shape.limit
        self._first_maxsize = segment.header.shape.maxsize
        self._report = report
        self._told = 0  # what was reported last
        self._has_grown = False  # since then

    # ---- records ----

    def _record(self, method: int, payload: Payload) -> bytes:
        parts = payload if isinstance(payload, tuple) else (payload,)
        length = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
        self._require_to_fit(length)
        head = _RECORD.pack(length, method) if length < _LONG else _LONG_RECORD.pack(_LONG, method, length)
        return b"".join((head, *parts))

    def _require_to_fit(self, length: int) -> None:
        if length > self._capacity - (RECORD_HEADER_SIZE if length < _LONG else _LONG_RECORD.size):
            raise never_fits(self._name, length, self._capacity, self._limit)

    def _record_at(self, state: State, hold: Hold, position: int) -> tuple[tuple[int, bytes], int]:
        """A copy of the record at a position, as (method, payload), and the bytes that it takes."""
        used = state.put_position - position
        if used < RECORD_HEADER_SIZE:
            raise Contradiction("there are fewer records than the state says")
        data = self._copy_out(state, hold, position, min(used, _SHORT))
        length, method = _RECORD.unpack_from(data)
        if length == _LONG:
            return self._long_record(state, hold, position, data)
        end = RECORD_HEADER_SIZE + length
        if end > used:
            raise Contradiction(f"a record of {length} bytes in a queue that holds {used}")
        if end > _SHORT:
            return (method, self._copy_out(state, hold, position + RECORD_HEADER_SIZE, length)), end
        return (method, data[RECORD_HEADER_SIZE:end]), end

    def _long_record(self, state: State, hold: Hold, position: int, data: bytes) -> tuple[tuple[int, bytes], int]:
        """``_record_at`` for a record whose first bytes say that it is a long one."""
        used = state.put_position - position
        if used < _LONG_RECORD.size:
            raise Contradiction("there are fewer records than the state says")
        _, method, length = _LONG_RECORD.unpack_from(data)
        end = _LONG_RECORD.size + length
        if length < _LONG or end > used:
            raise Contradiction(f"a record of {length} bytes in a queue that holds {used}")
        return (method, self._copy_out(state, hold, position + _LONG_RECORD.size, length)), end

    def _after_get(self, state: State, length: int, count: int) -> State:
        following = state.after_get(length, count)
        items, used = following.items, following.used
        if items * RECORD_HEADER_SIZE > used or (items == 0) != (used == 0):
            raise Contradiction("the records' lengths contradict the state")
        return self._trimmed(state, following)

    def _copy_out(self, state: State, hold: Hold, position: int, length: int) -> bytes:
        """A copy of bytes of the ring. They are not even looked at after we were overtaken: the memory may be gone."""
        memory, owner = self._memory, hold.owner
        start = HEADER_SIZE + state.offset(position)
        end = min(start + length, HEADER_SIZE + state.size)
        at = slice(start, end)
        data = memory[(NO_BYTES, at)[owner.hold is hold]]  # no jump and no call between the look and the copying
        if start + length > end:
            at = slice(HEADER_SIZE, HEADER_SIZE + length - (end - start))
            data += memory[(NO_BYTES, at)[owner.hold is hold]]
        if len(data) != length:
            raise Contradiction("the lock was lost")
        return data

    def _copy_at(self, place: slice, hold: Hold) -> bytes:
        memory, owner = self._memory, hold.owner
        data = memory[(NO_BYTES, place)[owner.hold is hold]]  # no jump and no call between the look and the copying
        if len(data) != place.stop - place.start:
            raise Contradiction("the lock was lost")
        return data

    # ---- memory ----

    def _larger(self, state: State, length: int, hold: Hold) -> State:
        """The state in a ring that has place for ``length`` bytes more."""
        if self._ring.is_elastic and not state.used:
            state = state.with_ring(state.size)  # from the start again, which needs the least memory
        if state.has_place(length, self._ring.room):
            return state
        larger = state.with_ring(self._ring.larger(state, length, hold), state.offset(state.get_position))
        self._has_grown = True
        return larger

    def _trimmed(self, state: State, following: State) -> State:
        """The state that follows after records of ``state`` were taken, in a smaller ring if this one is too large."""
        size = self._ring.smaller(state, following)
        return following if size is None else following.with_ring(size)

    def _give_back(self) -> None:
        """Make the ring of an empty queue as small as it was, if nobody has the lock just now."""

        def shrink(state: State, hold: Hold) -> Step[bool]:
            return (None if state.used else state.with_ring(self._ring.room.least)), True, b""

        state = self._peek()
        if state is not None and not state.used and state.size > self._ring.room.least:
            self._locked(shrink, clock.monotonic())

    def _tell(self, error: int) -> None:
        """Report that the ring cannot grow, or with 0 that it can again, when that has changed."""
        if error != self._told:
            self._told, self._has_grown = error, False  # before: the function called may use this queue
            self._report(error)

    # ---- limits ----

    def _require_open_to_all(self, state: State) -> None:
        if state.shut:
            raise ShmQueueShutDown(f"queue {self._name!r} was shut down for all processes")

    def _maxsize_in(self, state: State) -> int:
        return state.maxsize - 1 if state.maxsize else self._first_maxsize
