"""The portable engine: a ring of records in pure Python, for wherever CPython runs.

It may be slow, it may poll, and it keeps every other promise of the ``Engine`` protocol. All mutable state of a segment
is under one lock (``shmqueue.engine.portable_lock``, a shmlock lock that survives its owner's death), except where rule
3 below says otherwise.

    offset   bytes  what
         0      80  header      written once by segment.py
       128       1  selector    low byte of the current state's serial number
       129       1  putters     somebody may be asleep in a put: raised before each sleep, taken down by each commit
       130       1  getters     the same for a get
       131       1  nowhere     where stores go that must have no effect
       192      80  state[0]    what the queue holds: struct _State, then a CRC-32
       320      80  state[1]
      4096       -  data        ``capacity`` bytes of records, a ring

A record is  u32 payload length | u32 serialization method | payload,  unaligned; any part of it may wrap from the last
byte of the data to the first. Positions count bytes, and counts items, since the segment was made.

1. The current state is ``state[selector & 1]``; its serial number's low byte is the selector.
2. To commit, the lock's owner fills the other slot with the next serial number, then stores the selector: that one byte
   is the commit. Death before it has changed nothing, death after it everything.
3. Anyone may read the state without the lock: selector, slot, selector again. It counts if the selector has not
   moved, the checksum is right and the serial number fits the selector; else start over, or take the lock.
4. The records are the bytes [get_position, put_position), taken modulo capacity, oldest first. A putter writes only
   outside of them.
5. All zeros is a valid state.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from shmqueue.engine import RECORD_HEADER_SIZE, Counters, deadline_after
from shmqueue.engine.portable_lock import DeathSafeLock, Hold, Owner
from shmqueue.exceptions import (
    ShmQueueCorruptedError,
    ShmQueueNotInitializedError,
    ShmQueueValueError,
)
from shmqueue.segment import HEADER_SIZE, Segment

if TYPE_CHECKING:
    from shmqueue.engine import Buffer

__all__ = ["PortableEngine"]

_T = TypeVar("_T")

SHORTEST_PAUSE = 50e-6
LONGEST_PAUSE = 10e-3
"""Seconds between two looks for an item or for room, at first and in the end."""

LOCK_PATIENCE = 1.0
"""Seconds that a call which must not block waits for the lock: a living owner has it for microseconds."""

_SELECTOR, _PUTTERS, _GETTERS, _NOWHERE = 128, 129, 130, 131
_NO_BYTES = slice(0, 0)
_WRITE_NOTHING = (
    _NO_BYTES,
    b"",
    _NO_BYTES,
    b"",
    _NO_BYTES,
    b"",
    _NOWHERE,
)  # the plan of who was overtaken, see _commit
_SLOTS = (192, 320)
_PEEKS = 8  # attempts to read the state without the lock

_RECORD = struct.Struct("=II")
_RECORD_LENGTH_MAX = 0xFFFFFFFF
_STATE = struct.Struct("=9Q")
_CHECKSUM = struct.Struct("=Q")
_SLOT_SIZE = _STATE.size + _CHECKSUM.size
_OF_ZEROS = zlib.crc32(bytes(_STATE.size))  # makes the checksum of an all-zero state 0
_NUMBER_MAX = 1 << 62  # no honest state comes near, and arithmetic below it cannot leave 64 bits


class _State(NamedTuple):
    """One slot. The figures but the first are those of ``Counters``."""

    serial: int
    put_position: int
    put_count: int
    get_position: int
    get_count: int
    dropped: int
    done: int
    high_water: int
    recoveries: int

    @property
    def items(self) -> int:
        return self.put_count - self.get_count

    @property
    def used(self) -> int:
        return self.put_position - self.get_position

    @property
    def unfinished(self) -> int:
        return max(0, self.put_count - self.dropped - self.done)

    def contradiction(self, capacity: int) -> str | None:
        """What cannot be true of this state, or None."""
        if max(self) > _NUMBER_MAX:
            return "the state holds an impossible number"
        if not 0 <= self.used <= capacity:
            return f"the positions {self.put_position} and {self.get_position} contradict each other"
        if not 0 <= self.items * RECORD_HEADER_SIZE <= self.used or (self.items == 0) != (self.used == 0):
            return f"there cannot be {self.items} items in {self.used} bytes"
        if self.dropped > self.get_count or self.done > self.put_count:
            return "the counts contradict each other"
        return None


class _Contradiction(Exception):
    """What was read from shared memory cannot be true; the message says why."""


_Step: TypeAlias = "tuple[_State | None, _T | None, bytes]"
"""A state to commit, or None; a result, or None for not yet; the bytes of the records that the state adds."""

_Attempt: TypeAlias = "Callable[[_State], _Step[_T]]"
"""What is done under the lock: a look at the state and the records. It writes nothing, and may be done twice."""


class PortableEngine:
    """A handle on the records of one segment; see ``Engine`` for what the methods do.

    All methods may be called from several threads, and from signal handlers and finalizers.
    """

    def __init__(self, segment: Segment) -> None:
        self._name = segment.name
        self._capacity = segment.header.capacity
        self._maxsize = segment.header.maxsize
        with segment.descriptor_to_map() as fd:
            self._memory = mmap.mmap(fd, segment.file_size)
        self._lock = DeathSafeLock(segment)
        self._calls: dict[int, int] = {}  # thread -> its calls in flight; more than 1 if a signal handler calls
        self._closing = False
        self._broken: str | None = None
        _live.add(self)

    # ---- the protocol ----

    def put(self, method: int, payload: Buffer, block: bool, timeout: float | None, /) -> bool:
        block = bool(block)  # which may run any code, as in the three below
        self._require_usable()
        return self._put(self._record(method, payload), 1, block, timeout)

    def put_many(self, records: Sequence[tuple[int, Buffer]], block: bool, timeout: float | None, /) -> int:
        block = bool(block)
        self._require_usable()
        encoded = [self._record(method, payload) for method, payload in records]
        count = self._fitting(encoded)
        return count if count and self._put(b"".join(encoded[:count]), count, block, timeout) else 0

    def get(self, block: bool, timeout: float | None, /) -> tuple[int, bytes] | None:
        block = bool(block)
        return self._counted(lambda: self._until(_has_items, self._take_one, _GETTERS, block, timeout))

    def get_many(self, most: int, block: bool, timeout: float | None, /) -> list[tuple[int, bytes]]:
        block = bool(block)
        if most < 1:
            raise ValueError("get_many() takes at least one record")

        def take(state: _State) -> _Step[list[tuple[int, bytes]]]:
            return self._take(state, most)

        return self._counted(lambda: self._until(_has_items, take, _GETTERS, block, timeout)) or []

    def clear(self, /) -> int:
        return self._counted(lambda: self._at_once(_drop_all))

    def task_done(self, /) -> bool:
        return self._counted(lambda: self._at_once(_finish_one))

    def join(self, timeout: float | None, /) -> bool:
        return self._counted(lambda: self._wait_until_finished(timeout))

    def qsize(self, /) -> int:
        return self._counted(self._current).items

    def counters(self, /) -> tuple[int, int, int, int, int, int, int, int, bool, bool]:
        return self._counted(self._figures)

    def close(self, /) -> None:
        """As the protocol says. In a signal handler that interrupted a call, unmapping is left to that call."""
        self._closing = True
        me = threading.get_ident()
        while any(calls for thread, calls in list(self._calls.items()) if thread != me):
            time.sleep(SHORTEST_PAUSE)
        self._lock.close()
        self._unmap_if_idle()

    # ---- calls in flight ----

    def _counted(self, call: Callable[[], _T]) -> _T:
        """Make a call that ``close`` waits for.

        The count is set and set back, not raised and lowered: then an exception may come at any moment.
        """
        me = threading.get_ident()
        before = self._calls.get(me, 0)
        try:
            self._calls[me] = before + 1
            self._require_usable()  # after counting: either this sees close() or close() sees this
            return call()
        finally:
            self._calls[me] = before
            if self._closing:
                self._unmap_if_idle()

    def _unmap_if_idle(self) -> None:
        if not any(list(self._calls.values())):
            self._memory.close()

    def _require_usable(self) -> None:
        if self._closing:
            raise ShmQueueNotInitializedError(f"queue {self._name!r} was shut down")
        if self._broken is not None:
            raise ShmQueueCorruptedError(
                f"queue {self._name!r} is damaged: {self._broken}; this handle will not touch it any more"
            )

    def _is_closing(self) -> bool:
        return self._closing

    def _after_fork_in_child(self) -> None:
        self._calls = {}  # the other threads do not exist here

    # ---- waiting ----

    def _until(
        self,
        ready: Callable[[_State], bool],
        attempt: _Attempt[_T],
        flag: int,
        block: bool,
        timeout: float | None,
    ) -> _T | None:
        """Make the attempt as soon as the state, read without the lock, looks ``ready``. None: not in time."""
        block = block and (timeout is None or timeout > 0)
        deadline = deadline_after(timeout if block else LOCK_PATIENCE)
        pause = SHORTEST_PAUSE
        while True:
            state = self._peek()
            if state is None or ready(state):
                result = self._locked(attempt, deadline)
                if result is not None:
                    return result
            self._require_usable()
            if not block:
                return None
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                pause = min(pause, left)
            self._memory[flag] = 1
            time.sleep(pause)
            self._require_usable()
            pause = min(1.25 * pause, LONGEST_PAUSE)

    def _wait_until_finished(self, timeout: float | None) -> bool:
        deadline = deadline_after(timeout)
        pause = SHORTEST_PAUSE
        while self._current().unfinished:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                pause = min(pause, left)
            time.sleep(pause)
            self._require_usable()
            pause = min(1.25 * pause, LONGEST_PAUSE)
        return True

    def _at_once(self, attempt: _Attempt[_T]) -> _T:
        """Make an attempt that has a result whatever the state is."""
        result = self._locked(attempt, None)
        if result is None:  # without a deadline the lock is given up only for close()
            self._require_usable()
            raise AssertionError("unreachable")
        return result

    # ---- the state ----

    def _current(self) -> _State:
        """The state at one moment."""
        return self._peek() or self._at_once(lambda state: (None, state, b""))

    def _figures(self) -> tuple[int, int, int, int, int, int, int, int, bool, bool]:
        state = self._current()
        return Counters(
            put_position=state.put_position,
            put_count=state.put_count,
            get_position=state.get_position,
            get_count=state.get_count,
            dropped=state.dropped,
            done=state.done,
            high_water=state.high_water,
            recoveries=state.recoveries,
            putters_waiting=bool(self._memory[_PUTTERS]),
            getters_waiting=bool(self._memory[_GETTERS]),
        )

    def _peek(self) -> _State | None:
        """The state by rule 3; None if it moves too fast, or is damaged, which the lock's owner will find."""
        memory = self._memory
        for _ in range(_PEEKS):
            selector = memory[_SELECTOR]
            start = _SLOTS[selector & 1]
            slot = memory[start : start + _SLOT_SIZE]
            if memory[_SELECTOR] == selector:
                state = _unpack(slot)
                if state is not None and state.serial & 0xFF == selector and not state.contradiction(self._capacity):
                    return state
        return None

    def _locked(self, attempt: _Attempt[_T], deadline: float | None) -> _T | None:
        """Make the attempt under the lock and commit what it says. None: it was too early for it, or the lock taken.

        An exception at any moment, such as KeyboardInterrupt, releases the lock and takes back what was committed:
        nobody can have built on it yet. So an item is taken and delivered, or not taken. Only from the system call that
        unlocks until the caller has the result is it too late for that, as whenever a Python function returns.
        """
        while True:
            owner, hold = self._lock.owner(), Hold()
            selector = None
            try:
                if not owner.acquire(hold, deadline, self._is_closing):
                    return None
                selector = self._memory[_SELECTOR]
                following, result, data = attempt(self._load(selector))
                done = self._commit(owner, hold, selector, following, data)
                owner.release(hold)
                if done:
                    return result
            except BaseException as error:
                try:
                    overtaken = owner.hold is not hold
                    if selector is not None:  # no jump between the look at the hold and the store, as in _commit
                        self._memory[(_NOWHERE, _SELECTOR)[owner.hold is hold]] = selector
                finally:
                    try:
                        owner.release(hold)
                    finally:
                        owner.release(hold)  # in case a second Ctrl-C interrupted the first one
                if not isinstance(error, _Contradiction):
                    raise
                if not overtaken:  # else it may have read what others were just writing
                    self._broken = str(error)
                    self._require_usable()

    def _load(self, selector: int) -> _State:
        """The state, under the lock."""
        start = _SLOTS[selector & 1]
        state = _unpack(self._memory[start : start + _SLOT_SIZE])
        if state is None or state.serial & 0xFF != selector:
            raise _Contradiction("the state's checksum is wrong")
        contradiction = state.contradiction(self._capacity)
        if contradiction is not None:
            raise _Contradiction(contradiction)
        return state

    def _commit(self, owner: Owner, hold: Hold, selector: int, following: _State | None, data: bytes) -> bool:
        """Write ``data`` behind the last record and make ``following`` the current state. False: we were overtaken."""
        if hold.recovered:
            following = following or self._load(selector)
            following = following._replace(recoveries=following.recoveries + 1)
        if following is None:
            return owner.hold is hold
        following = following._replace(serial=following.serial + 1)
        fields = _STATE.pack(*following)
        slot = fields + _CHECKSUM.pack(zlib.crc32(fields) ^ _OF_ZEROS)
        new_selector = following.serial & 0xFF
        at = slice(_SLOTS[new_selector & 1], _SLOTS[new_selector & 1] + _SLOT_SIZE)
        start = HEADER_SIZE + (following.put_position - len(data)) % self._capacity
        end = min(start + len(data), HEADER_SIZE + self._capacity)
        first, rest = data[: end - start], data[end - start :]
        at_first, at_rest = slice(start, end), slice(HEADER_SIZE, HEADER_SIZE + len(rest))
        memory = self._memory
        plans = (_WRITE_NOTHING, (at_first, first, at_rest, rest, at, slot, _SELECTOR))
        # From here on nothing is called and nothing jumps, so that no signal handler can overtake; see portable_lock.
        at_first, first, at_rest, rest, at, slot, at_selector = plans[owner.hold is hold]
        memory[at_first] = first
        memory[at_rest] = rest
        memory[at] = slot
        memory[_PUTTERS] = 0
        memory[_GETTERS] = 0
        memory[at_selector] = new_selector
        return at_selector == _SELECTOR

    # ---- put ----

    def _record(self, method: int, payload: Buffer) -> bytes:
        data = bytes(payload)
        if len(data) > min(self._capacity - RECORD_HEADER_SIZE, _RECORD_LENGTH_MAX):
            raise ShmQueueValueError(
                f"item of {len(data)} bytes can never fit: queue {self._name!r} holds {self._capacity} bytes "
                f"(buffer_size), of which a record's header takes {RECORD_HEADER_SIZE}"
            )
        return _RECORD.pack(len(data), method) + data

    def _fitting(self, records: list[bytes]) -> int:
        """How many of the records, from the first, an empty queue could hold together."""
        most = min(len(records), self._maxsize or len(records))
        size = 0
        for index in range(most):
            size += len(records[index])
            if size > self._capacity:
                return index
        return most

    def _put(self, data: bytes, count: int, block: bool, timeout: float | None) -> bool:
        has_room, add = self._room_for(data, count), self._adding(data, count)
        return self._counted(lambda: self._until(has_room, add, _PUTTERS, block, timeout)) is True

    def _room_for(self, data: bytes, count: int) -> Callable[[_State], bool]:
        most_used = self._capacity - len(data)
        most_items = self._maxsize - count if self._maxsize else _NUMBER_MAX
        return lambda state: state.used <= most_used and state.items <= most_items

    def _adding(self, data: bytes, count: int) -> _Attempt[bool]:
        has_room = self._room_for(data, count)

        def add(state: _State) -> _Step[bool]:
            if not has_room(state):
                return None, None, b""
            following = state._replace(
                put_position=state.put_position + len(data),
                put_count=state.put_count + count,
                high_water=max(state.high_water, state.items + count),
            )
            return following, True, data

        return add

    # ---- get ----

    def _take_one(self, state: _State) -> _Step[tuple[int, bytes]]:
        following, records, nothing = self._take(state, 1)
        return following, records[0] if records else None, nothing

    def _take(self, state: _State, most: int) -> _Step[list[tuple[int, bytes]]]:
        count = min(most, state.items)
        if count == 0:
            return None, None, b""
        records = []
        position = state.get_position
        for _ in range(count):
            used = state.put_position - position
            if used < RECORD_HEADER_SIZE:
                raise _Contradiction("there are fewer records than the state says")
            length, method = _RECORD.unpack(self._copy_out(position, RECORD_HEADER_SIZE))
            if length > used - RECORD_HEADER_SIZE:
                raise _Contradiction(f"a record of {length} bytes in a queue that holds {used}")
            records.append((method, self._copy_out(position + RECORD_HEADER_SIZE, length)))
            position += RECORD_HEADER_SIZE + length
        following = state._replace(get_position=position, get_count=state.get_count + count)
        if following.items * RECORD_HEADER_SIZE > following.used or (following.items == 0) != (following.used == 0):
            raise _Contradiction("the records' lengths contradict the state")
        return following, records, b""

    def _copy_out(self, position: int, length: int) -> bytes:
        start = position % self._capacity
        to_end = self._capacity - start
        first = HEADER_SIZE + start
        if length <= to_end:
            return self._memory[first : first + length]
        return self._memory[first : first + to_end] + self._memory[HEADER_SIZE : HEADER_SIZE + length - to_end]


def _unpack(slot: bytes) -> _State | None:
    """The state in a slot, None if it is torn or damaged."""
    (checksum,) = _CHECKSUM.unpack_from(slot, _STATE.size)
    if zlib.crc32(slot[: _STATE.size]) ^ _OF_ZEROS != checksum:
        return None
    return _State._make(_STATE.unpack_from(slot))


def _has_items(state: _State) -> bool:
    return state.put_count != state.get_count


def _drop_all(state: _State) -> _Step[int]:
    count = state.items
    dropped = state.dropped + min(count, state.unfinished)  # fewer, if task_done() was called before there was an item
    following = state._replace(get_position=state.put_position, get_count=state.put_count, dropped=dropped)
    return following, count, b""


def _finish_one(state: _State) -> _Step[bool]:
    return (state._replace(done=state.done + 1), True, b"") if state.unfinished else (None, False, b"")


_live: weakref.WeakSet[PortableEngine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for engine in list(_live):
        engine._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
