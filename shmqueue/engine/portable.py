"""The portable engine: a ring of records in pure Python, for wherever CPython runs.

It may be slow, it may poll, and it keeps every other promise of the ``Engine`` protocol. All mutable state of a segment
is under one lock (``shmqueue.engine.portable_lock``, which survives its owner's death), except where rule 3 below says
otherwise.

    offset   bytes  what
         0     128  header      written once by shmqueue.segment
       128       1  selector    low byte of the current state's serial number
       129       1  putters     somebody may be asleep in a put: raised before each sleep, taken down by each commit
       130       1  getters     the same for a get
       131       1  nowhere     where stores go that must have no effect
       132       1  owned       the lock's owner is at work: an owner that finds it set follows a dead one
       136      32  claim       of a put that others overtake, see portable_claim.py; a hint, written without the lock
       192     160  state[0]    what the queue holds: the fields of State in portable_state.py, then a CRC-32
       448     160  state[1]
      4096       -  data        the ring: ``size`` bytes of records; behind it room for it to grow to ``capacity``
         -       -  leases      two tables of what is handed out, and its payloads: see portable_leases.py

A record is  u32 payload length | u32 serialization method | payload,  unaligned; any part of it may wrap from the last
byte of the ring to the first. A length of 2**32 - 1 or more is written as that number, and as u64 behind the method.
Positions count bytes, and counts items, since the segment was made.

1. The current state is ``state[selector & 1]``; its serial number's low byte is the selector.
2. To commit, the lock's owner fills the other slot with the next serial number, then stores the selector: that one byte
   is the commit. Death before it has changed nothing, death after it everything.
3. Anyone may read the state without the lock: selector, slot, selector again. It counts if the selector has not
   moved, the checksum is right and the serial number fits the selector; else start over, or take the lock.
4. The records are the bytes [get_position, put_position), oldest first; the byte of a position p is the one at
   (p - base) % size in the ring. A putter writes only outside of them.
5. All zeros is a valid state: ``size`` 0 stands for the size to begin with.
6. The ring of an elastic queue has memory; what is behind it need not have any, and is not even read. To grow, the
   lock's owner reserves the memory, copies to behind the ring what wraps, which changes nothing yet, and commits the
   new size and a base that leaves the oldest record where it is. Records wrap only so far that this is possible.
7. To shrink, when there are few records or none, the owner copies them to the start of the ring, where there must be
   none, commits the smaller size and then, as the last thing before the lock is free, gives back what is behind it.
   Death in between leaves memory there that the next one to grow uses.
8. A record that is handed out leaves the ring: its payload is copied to where no entry of the lease table has one, the
   other table is written, and the commit makes that one the current one. Finishing it, or giving it back, writes the
   other table again. Records that were given back are taken first.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias, TypeVar, cast

from shmqueue import clock
from shmqueue.engine import RECORD_HEADER_SIZE, Counters, deadline_after, seconds_until
from shmqueue.engine.portable_claim import Claim
from shmqueue.engine.portable_leases import MOST, Entry, Move, oldest_returned, replaced
from shmqueue.engine.portable_loan import PortableLoan, contents_of
from shmqueue.engine.portable_lock import NOTHING, NOWHERE, DeathSafeLock, Hold, Owner, let_others_run
from shmqueue.engine.portable_memory import RingMemory
from shmqueue.engine.portable_processes import Process, is_alive, this_image, this_process
from shmqueue.engine.portable_reservation import PortableReservation, head_of
from shmqueue.engine.portable_state import SLOT_SIZE, Contradiction, State, unpack
from shmqueue.exceptions import (
    ShmQueueClosedError,
    ShmQueueCorruptedError,
    ShmQueueError,
    ShmQueueShutDown,
    ShmQueueValueError,
)
from shmqueue.messages import lock_timed_out, never_fits
from shmqueue.segment import HEADER_SIZE, Segment
from shmqueue.threads import WeakRegistry, sleep

if TYPE_CHECKING:
    from shmqueue.engine import Buffer, Payload

__all__ = ["PortableEngine"]

_T = TypeVar("_T")

SHORTEST_PAUSE = 50e-6
LONGEST_PAUSE = 10e-3
"""Seconds between two looks for an item or for room, at first and in the end."""

MOST_LOOKS = 64
"""Looks for the next commit before the first pause."""

LONG = 50e-3
"""Seconds after which a getter that found nothing takes it that the memory is not needed soon."""

LOCK_PATIENCE = 1.0
"""Seconds that a call which must not block waits for the lock: a living owner has it for microseconds."""

LOOK_FOR_DEAD = 0.1
"""Seconds between two checks whether the holders of leases still live."""

_SELECTOR, _PUTTERS, _GETTERS = 128, 129, 130
_WAITERS = slice(_PUTTERS, _GETTERS + 1)
_NO_BYTES = slice(0, 0)
_WRITE_NOTHING = (
    _NO_BYTES,
    b"",
    _NO_BYTES,
    b"",
    _NO_BYTES,
    b"",
    NOWHERE,
    NOTHING,
)  # the plan of an overtaken call, see _commit
_SLOTS = slice(192, 192 + SLOT_SIZE), slice(448, 448 + SLOT_SIZE)
_PEEKS = 8  # attempts to read the state without the lock

_RECORD = Struct("=II")
_LONG = 0xFFFFFFFF  # stands for a length that comes as a number of 64 bits
_LONG_RECORD = Struct("=IIQ")
_LONGEST_WRITTEN = _LONG - 64  # bytes of an item that its user writes, in either engine
_SHORT = 64  # bytes of a record, or what follows it, that are copied before its length is known

_Step: TypeAlias = "tuple[State | None, _T | None, bytes | Move]"
"""A state to commit, or None; a result, or None for not yet; the bytes of the records that the state adds, or what else
is written before it is committed."""

_Attempt: TypeAlias = "Callable[[State, Hold], _Step[_T]]"
"""What is done under the lock: a look at the state and the records. It writes nothing, and may be done twice."""


_LOCKED = object()
"""Stands for the result of an attempt that could not be made."""


class _TooMany(Exception):
    """``maxsize`` has become less than the number of records that are to be put together."""


class PortableEngine:
    """A handle on the records of one segment; see ``Engine`` for what the methods do.

    All methods may be called from several threads, and from signal handlers and finalizers.
    """

    def __init__(self, segment: Segment, report: Callable[[int], None]) -> None:
        self._name = segment.name
        self._capacity = segment.header.shape.capacity
        self._limit = segment.header.shape.limit
        self._first_maxsize = segment.header.shape.maxsize
        self._threshold = segment.header.shape.threshold
        self._ring = RingMemory(segment)
        self._memory = self._ring.map
        self._report = report
        self._told = 0  # what was reported last
        self._has_grown = False  # since then
        self.while_waiting: Callable[[bool], Exception | None] | None = None
        self.lock_patience = LOCK_PATIENCE
        self._lock = DeathSafeLock(segment, self._memory)
        self._looks = MOST_LOOKS
        self._known: tuple[bytes, State | None] = b"", None  # a slot that was checked, and what it says
        self._calls: dict[int, int] = {}  # thread -> its calls in flight; more than 1 if a signal handler calls
        self._pid = os.getpid()  # in which those calls are
        self._closing = False
        self._broken: str | None = None
        self._handle = next(_handles)  # tells its loans from those of other handles in this process
        self._loans = 0  # that this handle may have
        self._looked = -LOOK_FOR_DEAD  # when it last looked whether the holders of loans live: not yet
        _live.add(self)

    # ---- the protocol ----

    def put(self, method: int, payload: Payload, block: bool, timeout: float | None, /) -> bool:
        block = bool(block)  # which may run any code, as in the three below
        self._require_usable()
        return self._put(self._record(method, payload), 1, block, timeout)

    def reserve(self, length: int, block: bool, timeout: float | None, /) -> PortableReservation | None:
        block = bool(block)
        self._require_usable()
        if length < 0:
            raise ValueError("a reservation has at least 0 bytes")
        if length > _LONGEST_WRITTEN:
            raise ShmQueueValueError(f"put_view() writes {_LONGEST_WRITTEN} bytes at most, not {length}")
        size = length + len(head_of(length))
        self._require_to_fit(size)
        has_room = self._room_for(RECORD_HEADER_SIZE + size, 1)

        def look(state: State, hold: Hold) -> _Step[bool]:
            self._require_open_to_all(state)
            return None, has_room(state) or None, b""

        def ready(state: State) -> bool:
            return state.shut > 0 or has_room(state)

        is_room = self._counted(lambda: self._until(ready, look, _do_nothing, _PUTTERS, block, timeout))
        return PortableReservation(self, length, block, timeout) if is_room else None

    def put_many(self, records: Sequence[tuple[int, Buffer]], block: bool, timeout: float | None, /) -> int:
        block = bool(block)
        self._require_usable()
        encoded = [self._record(method, payload) for method, payload in records]
        deadline = deadline_after(timeout)
        while True:
            count = self._fitting(encoded)
            try:
                put = count > 0 and self._put(b"".join(encoded[:count]), count, block, seconds_until(deadline))
                return count if put else 0
            except _TooMany:
                pass  # somebody has made maxsize smaller meanwhile

    def get(self, block: bool, timeout: float | None, /) -> tuple[int, bytes] | None:
        block = bool(block)
        return self._counted(lambda: self._get(self._take_one, block, timeout))

    def get_many(self, most: int, block: bool, timeout: float | None, /) -> list[tuple[int, bytes]]:
        block = bool(block)
        if most < 1:
            raise ValueError(f"max_items must be at least 1, not {most}")

        def take(state: State, hold: Hold) -> _Step[list[tuple[int, bytes]]]:
            return self._take(state, hold, most)

        return self._counted(lambda: self._get(take, block, timeout)) or []

    def peek(self, block: bool, timeout: float | None, /) -> tuple[int, int, bytes] | None:
        block = bool(block)
        return self._counted(lambda: self._until(_has_news, self._copy_one, self._idle, _GETTERS, block, timeout))

    def take(self, number: int, /) -> bool:
        def take(state: State, hold: Hold) -> _Step[bool]:
            entries = self._entries(state, hold) if state.returned else []
            entry = oldest_returned(entries)
            if entry is not None and entry.number == number:
                following, move = self._without(state, hold, entries, entry)
                return following, True, move
            if entry is not None or not state.items or state.get_count != number:
                return None, False, b""
            _, length = self._record_at(state, hold, state.get_position)
            return self._after_get(state, length, 1), True, b""

        return self._counted(lambda: self._locked(take, deadline_after(LOCK_PATIENCE))) is True

    def clear(self, /) -> int:
        return self._counted(lambda: self._at_once(self._drop_all))

    def task_done(self, /) -> bool:
        return self._counted(lambda: self._at_once(_finish_one))

    def join(self, timeout: float | None, /) -> bool:
        return self._counted(lambda: self._watch(lambda state: not state.unfinished, NOWHERE, timeout))

    def qsize(self, /) -> int:
        return self._counted(self._current).available

    def counters(self, /) -> tuple[int, int, int, int, int, int, int, int, bool, bool, bool]:
        return self._counted(self._figures)

    def wait(self, records: bool, timeout: float | None, /) -> bool:
        if records:
            return self._counted(lambda: self._watch(_has_news, _GETTERS, timeout))
        return self._counted(lambda: self._watch(lambda state: state.shut or not state.available, _PUTTERS, timeout))

    def moment(self, kind: int, /) -> int:
        return self._counted(self._current).serial

    def pass_on(self, /) -> None:
        """Nobody sleeps: all look by themselves."""

    def shut_down(self, immediate: bool, /) -> None:
        form = 2 if immediate else 1
        self._counted(lambda: self._at_once(lambda state, hold: self._shut(state, hold, form)))

    def maxsize(self, /) -> int:
        return self._maxsize_in(self._counted(self._current))

    def prefault(self) -> bool:
        """False: beside what a call costs here, page faults are nothing."""
        self.qsize()  # raises what any method raises after close()
        return False

    def set_maxsize(self, maxsize: int, /) -> None:
        self._counted(lambda: self._at_once(lambda state, hold: (state._replace(maxsize=maxsize + 1), True, b"")))

    def close(self, /) -> None:
        """As the protocol says. In a signal handler that interrupted a call, unmapping is left to that call."""
        if self._pid != os.getpid():
            self._after_fork_in_child()  # a finalizer may come before the hook
        again, self._closing = self._closing, True
        me = threading.get_ident()
        while any(calls for thread, calls in list(self._calls.items()) if thread != me):
            if sys.is_finalizing():  # those threads have stopped for good, so the memory stays mapped
                break
            sleep(SHORTEST_PAUSE)
        if not again and not self._calls.get(me):
            self._in_the_end(me, self._give_back)
            if self._loans:
                self._in_the_end(me, lambda: self._return_loans_of(this_process(), self._handle))
        self._lock.close(is_idle=not any(list(self._calls.values())))
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
            self._ring.close()

    def _in_the_end(self, me: int, act: Callable[[], object]) -> None:
        try:
            self._calls[me] = 1  # so that no other thread that closes unmaps meanwhile
            act()
        except Exception:
            pass  # closing is more important, and the memory goes back with the queue at the latest
        finally:
            self._calls[me] = 0

    def _require_usable(self) -> None:
        if self._closing:
            raise ShmQueueClosedError(f"queue {self._name!r} is closed")
        if self._broken is not None:
            raise ShmQueueCorruptedError(
                f"queue {self._name!r} is corrupted: {self._broken}; this handle does not touch it any more"
            )

    @property
    def name(self) -> str:
        return self._name

    @property
    def is_open(self) -> bool:
        return not self._closing

    def _is_closing(self) -> bool:
        return self._closing

    def _after_fork_in_child(self) -> None:
        self._calls, self._pid = {}, os.getpid()  # the other threads do not exist here
        self._loans = 0  # they are the parent's

    # ---- waiting ----

    def _until(
        self,
        ready: Callable[[State], object],
        attempt: _Attempt[_T],
        unmet: Callable[[float], None],
        flag: int,
        block: bool,
        timeout: float | None,
    ) -> _T | None:
        """Make the attempt as soon as the state, read without the lock, looks ``ready``. None: not in time.

        ``unmet`` is called after each look that had no result, with the seconds since the first one.

        Raises:
            ShmQueueFull, ShmQueueEmpty: it looked ready, and the lock was not released in time.
        """
        block = block and (timeout is None or timeout > 0)
        began = clock.monotonic()
        deadline = deadline_after(timeout if block else self.lock_patience)
        pause = 0.0
        if flag == _GETTERS:
            self._return_loans_of_the_dead(began)  # what a dead process had may be older than all that is there
        end: Exception | None = None
        while True:
            state = self._known[1]  # what was true a moment ago is worth an attempt
            if state is None or not ready(state):
                state = self._peek()
            if state is None or ready(state):
                result = self._locked(attempt, deadline)
                if result is not None and result is not _LOCKED:
                    return result
                if result is _LOCKED:
                    self._require_usable()
                    raise lock_timed_out(self._name, flag == _PUTTERS)
            self._require_usable()
            unmet(clock.monotonic() - began)
            if end is not None:
                raise end
            if not block:
                return None
            if (pause or not self._sees_commit(state)) and not self._sleep(pause or SHORTEST_PAUSE, deadline, flag):
                return None
            pause = min(1.25 * pause, LONGEST_PAUSE) or SHORTEST_PAUSE
            if self.while_waiting is not None:
                end = self.while_waiting(flag == _PUTTERS)

    def _sees_commit(self, state: State | None) -> bool:
        """Look for the next commit for a moment, which is the shorter the more often there was none."""
        seen = state.serial & 0xFF if state is not None else -1
        for _ in range(self._looks):
            if self._memory[_SELECTOR] != seen:
                self._looks = min(2 * self._looks, MOST_LOOKS)
                return True
            let_others_run()
        self._looks = max(self._looks // 2, 1)
        return False

    def _watch(self, condition: Callable[[State], object], flag: int, timeout: float | None) -> bool:
        """Wait until the state, read without the lock, meets the condition. False: not in time."""
        deadline = deadline_after(timeout)
        pause = SHORTEST_PAUSE
        while not condition(self._current()):
            if not self._sleep(pause, deadline, flag):
                return False
            pause = min(1.25 * pause, LONGEST_PAUSE)
        return True

    def _sleep(self, pause: float, deadline: float | None, flag: int) -> bool:
        """Sleep until the next look, at the deadline at the latest. False: it is over."""
        if deadline is not None:
            left = deadline - clock.monotonic()
            if left <= 0:
                return False
            pause = min(pause, left)
        self._memory[flag] = 1
        sleep(pause)
        self._require_usable()
        return True

    def _at_once(self, attempt: _Attempt[_T]) -> _T:
        """Make an attempt that has a result whatever the state is."""
        result = self._locked(attempt, None)
        if result is None or result is _LOCKED:  # without a deadline, waiting for the lock ends only for close()
            self._require_usable()
            raise AssertionError("unreachable")
        return result

    # ---- the state ----

    def _current(self) -> State:
        """The state at one moment."""
        return self._peek() or self._at_once(lambda state, hold: (None, state, b""))

    def _figures(self) -> tuple[int, int, int, int, int, int, int, int, bool, bool, bool]:
        state = self._current()
        return Counters(
            put_position=state.put_position,
            put_count=state.put_count,
            get_position=state.get_position,
            get_count=state.get_count - state.returned,
            dropped=state.dropped,
            done=state.done,
            high_water=state.high_water,
            recoveries=state.recoveries,
            putters_waiting=bool(self._memory[_PUTTERS]),
            getters_waiting=bool(self._memory[_GETTERS]),
            is_shut_down=state.shut > 0,
        )

    def _peek(self) -> State | None:
        """The state by rule 3; None if it moves too fast, or is corrupted, which the lock's owner will find."""
        memory = self._memory
        for _ in range(_PEEKS):
            selector = memory[_SELECTOR]
            slot = memory[_SLOTS[selector & 1]]
            if memory[_SELECTOR] == selector:
                try:
                    return self._state_in(slot, selector)
                except Contradiction:
                    pass
        return None

    def _state_in(self, slot: bytes, selector: int) -> State:
        known, state = self._known
        if slot == known and state is not None and state.serial & 0xFF == selector:
            return state  # nothing has changed since it was checked
        state = unpack(slot, self._ring.room)
        if state is None or state.serial & 0xFF != selector:
            raise Contradiction("the state's checksum is wrong")
        contradiction = state.contradiction(self._ring.room)
        if contradiction is not None:
            raise Contradiction(contradiction)
        self._known = slot, state
        return state

    def _locked(self, attempt: _Attempt[_T], deadline: float | None) -> _T | None:
        """Make the attempt under the lock and commit what it says. None: it was too early for it.

        ``_LOCKED``: the lock was not released before the deadline, or this handle is being closed.

        An exception at any moment, such as KeyboardInterrupt, releases the lock and takes back what was committed:
        nobody can have built on it yet. So an item is taken and delivered, or not taken. Only from the system calls
        that give memory back and unlock until the caller has the result is it too late for that, as whenever a Python
        function returns.
        """
        while True:
            hold = self._lock.hold()
            owner = hold.owner
            selector = None
            try:
                if not owner.acquire(hold, deadline, self._is_closing):
                    return cast("_T", _LOCKED)
                selector = self._memory[_SELECTOR]
                state = self._state_in(self._memory[_SLOTS[selector & 1]], selector)
                following, result, data = attempt(state, hold)
                done = self._commit(owner, hold, state, following, data)
                owner.release(hold)
                if done:
                    return result
            except BaseException as error:
                try:
                    overtaken = owner.hold is not hold
                    if selector is not None:  # no jump between the look at the hold and the store, as in _commit
                        hold.last = NOTHING  # what it would give back is in use again
                        self._memory[(NOWHERE, _SELECTOR)[owner.hold is hold]] = selector
                finally:
                    try:
                        owner.release(hold)
                    finally:
                        try:
                            owner.release(hold)  # in case a second Ctrl-C interrupted the first one
                        finally:
                            owner.let_go(hold)  # in case there was no memory for it
                if not isinstance(error, Contradiction):
                    raise
                if not overtaken:  # else it may have read what others were just writing
                    self._broken = str(error)
                    self._require_usable()

    def _commit(self, owner: Owner, hold: Hold, state: State, following: State | None, data: bytes | Move) -> bool:
        """Write ``data`` behind the last record and make ``following`` the current state. False: we were overtaken."""
        if hold.recovered:
            following = following or state
            following = following._replace(recoveries=following.recoveries + 1)
        if following is None:
            return owner.hold is hold
        serial = state.serial + 1
        if following.serial != serial:
            following = following._replace(serial=serial)
        slot = following.pack()
        new_selector = serial & 0xFF
        at = _SLOTS[new_selector & 1]
        at_first, first, at_rest, rest = _NO_BYTES, b"", _NO_BYTES, b""
        if isinstance(data, Move):
            at_first, first, at_rest, rest = data
        elif data:
            start = HEADER_SIZE + following.offset(following.put_position - len(data))
            end = HEADER_SIZE + following.size
            first = data
            if start + len(data) > end:
                first, rest = data[: end - start], data[end - start :]
                at_rest = slice(HEADER_SIZE, HEADER_SIZE + len(rest))
            at_first = slice(start, start + len(first))
        last = hold.last
        if hold.recovered or following.size < state.size:
            last = self._ring.giving_back(following)
        plans = (_WRITE_NOTHING, (at_first, first, at_rest, rest, at, slot, _SELECTOR, last))
        moves = (NOTHING, self._ring.moving(state, following) if following.size != state.size else NOTHING)
        memory = self._memory
        # From here on nothing is called and nothing jumps after a look, so that no signal handler can overtake; see
        # portable_lock. One that comes after the copying finds the records where they were.
        copy, arguments = moves[owner.hold is hold]
        copy(*arguments)
        at_first, first, at_rest, rest, at, slot, at_selector, last = plans[owner.hold is hold]
        memory[at_first] = first
        memory[at_rest] = rest
        memory[at] = slot
        memory[_WAITERS] = b"\0\0"
        memory[at_selector] = new_selector
        hold.last = last
        self._known = slot, following
        return at_selector == _SELECTOR

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

        def shrink(state: State, hold: Hold) -> _Step[bool]:
            return (None if state.used else state.with_ring(self._ring.room.least)), True, b""

        state = self._peek()
        if state is not None and not state.used and state.size > self._ring.room.least:
            self._locked(shrink, clock.monotonic())

    def _idle(self, waited: float) -> None:
        """What a getter does that finds nothing."""
        if waited >= LONG:
            self._give_back()
        self._return_loans_of_the_dead(clock.monotonic())

    def _tell(self, error: int) -> None:
        """Report that the ring cannot grow, or with 0 that it can again, when that has changed."""
        if error != self._told:
            self._told, self._has_grown = error, False  # before: the function called may use this queue
            self._report(error)

    # ---- shutting down ----

    def _require_open_to_all(self, state: State) -> None:
        if state.shut:
            raise ShmQueueShutDown(f"queue {self._name!r} was shut down for all processes")

    def _shut(self, state: State, hold: Hold, form: int) -> _Step[bool]:
        following = state._replace(shut=max(state.shut, form))
        if following.shut == 2:
            following, move = self._dropped(following, hold)
            return following, True, move
        return following, True, b""

    # ---- put ----

    def _record(self, method: int, payload: Payload) -> bytes:
        parts = payload if isinstance(payload, tuple) else (payload,)
        length = sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)
        self._require_to_fit(length)
        head = _RECORD.pack(length, method) if length < _LONG else _LONG_RECORD.pack(_LONG, method, length)
        return b"".join((head, *parts))

    def _require_to_fit(self, length: int) -> None:
        if length > self._capacity - (RECORD_HEADER_SIZE if length < _LONG else _LONG_RECORD.size):
            raise never_fits(self._name, length, self._capacity, self._limit)

    def _fitting(self, records: list[bytes]) -> int:
        """How many of the records, from the first, an empty queue could hold together."""
        most = min(len(records), self.maxsize() or len(records))
        size = 0
        for index in range(most):
            size += len(records[index])
            if size > self._capacity:
                return index
        return most

    def _put(self, data: bytes, count: int, block: bool, timeout: float | None) -> bool:
        has_room = self._room_for(len(data), count)
        shortage: list[int] = []  # the errno of a look that found room but no memory
        claim = Claim(self._memory, len(data), count)

        def unmet(waited: float) -> None:
            while shortage:
                self._tell(shortage.pop())
            if block:
                claim.insist(waited)

        def has_polite_room(state: State) -> bool:
            others = claim.of_others()
            if others is not None:
                is_free = self._room_for(len(data) + others.size, count + others.records)(state)
            else:
                is_free = has_room(state)
            claim.note(state.put_count, state.get_position + state.get_count, has_room(state))
            return is_free

        def attempt(has_room: Callable[[State], bool], block: bool, timeout: float | None) -> bool:
            def ready(state: State) -> bool:
                return state.shut > 0 or has_room(state) or self._is_too_many(state, count)

            add = self._adding(data, count, has_room, shortage, claim)
            return self._until(ready, add, unmet, _PUTTERS, block, timeout) is True

        def in_the_end() -> bool:
            """There may be room for it, if not for a claim beside it."""
            claim.withdraw()
            return claim.of_others() is not None and attempt(has_room, False, None)

        def put() -> bool:
            if not block:  # Full only if it is full: a claim is for those that wait
                return attempt(has_room, False, None)
            try:
                return attempt(has_polite_room, True, timeout) or in_the_end()
            except BaseException:
                claim.withdraw()
                raise

        done = self._counted(put)
        if self._told and self._has_grown:
            self._tell(0)
        return done

    def _room_for(self, length: int, count: int) -> Callable[[State], bool]:
        most_used = self._capacity - length
        if self._threshold:
            most_used = min(most_used, self._threshold - 1)
        first_maxsize = self._first_maxsize

        def has_room(state: State) -> bool:
            maxsize = state.maxsize - 1 if state.maxsize else first_maxsize
            return state.put_position - state.get_position <= most_used and (
                not maxsize or state.available + count <= maxsize
            )

        return has_room

    def _maxsize_in(self, state: State) -> int:
        return state.maxsize - 1 if state.maxsize else self._first_maxsize

    def _is_too_many(self, state: State, count: int) -> bool:
        """Whether the queue will never again take ``count`` records together, unless maxsize grows."""
        return 0 < self._maxsize_in(state) < count

    def _adding(
        self, data: bytes, count: int, has_room: Callable[[State], bool], shortage: list[int], claim: Claim
    ) -> _Attempt[bool]:
        def add(state: State, hold: Hold) -> _Step[bool]:
            self._require_open_to_all(state)
            if not has_room(state):
                if self._is_too_many(state, count):
                    raise _TooMany
                return None, None, b""
            try:
                place = self._larger(state, len(data), hold)
            except OSError as error:
                if error.errno is None:  # what a signal handler raises usually has none
                    raise error.__cause__ or error from None
                if error.errno == errno.EBADF:
                    raise ShmQueueError(
                        f"queue {self._name!r} needs its file, and cannot open it: this program has closed descriptors "
                        "that it did not open, and the queue's name is gone"
                    ) from error
                shortage.append(error.errno)
                return None, None, b""
            claim.withdraw()  # here, for after the commit an exception comes too late
            return place.after_put(len(data), count), True, data

        return add

    # ---- get ----

    def _get(self, attempt: _Attempt[_T], block: bool, timeout: float | None) -> _T | None:
        return self._until(_has_news, attempt, self._idle, _GETTERS, block, timeout)

    def _take_one(self, state: State, hold: Hold) -> _Step[tuple[int, bytes]]:
        if state.returned:
            entries = self._entries(state, hold)
            entry = _oldest(entries)
            record = entry.method, self._payload(entry, hold)
            following, move = self._without(state, hold, entries, entry)
            return following, record, move
        if state.put_count == state.get_count:
            self._require_open_to_all(state)
            return None, None, b""
        record, length = self._record_at(state, hold, state.get_position)
        return self._after_get(state, length, 1), record, b""

    def _copy_one(self, state: State, hold: Hold) -> _Step[tuple[int, int, bytes]]:
        if state.returned:
            entry = _oldest(self._entries(state, hold))
            return None, (entry.number, entry.method, self._payload(entry, hold)), b""
        if not state.items:
            self._require_open_to_all(state)
            return None, None, b""
        record, _ = self._record_at(state, hold, state.get_position)
        return None, (state.get_count, *record), b""

    def _take(self, state: State, hold: Hold, most: int) -> _Step[list[tuple[int, bytes]]]:
        if state.returned:
            following, record, move = self._take_one(state, hold)
            return following, None if record is None else [record], move
        count = min(most, state.items)
        if count == 0:
            self._require_open_to_all(state)
            return None, None, b""
        records = []
        taken = 0
        for _ in range(count):
            record, length = self._record_at(state, hold, state.get_position + taken)
            records.append(record)
            taken += length
        return self._after_get(state, taken, count), records, b""

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
        data = memory[(_NO_BYTES, at)[owner.hold is hold]]  # no jump and no call between the look and the copying
        if start + length > end:
            at = slice(HEADER_SIZE, HEADER_SIZE + length - (end - start))
            data += memory[(_NO_BYTES, at)[owner.hold is hold]]
        if len(data) != length:
            raise Contradiction("the lock was lost")
        return data

    def _drop_all(self, state: State, hold: Hold) -> _Step[int]:
        following, move = self._dropped(state, hold)
        return following, state.available, move

    def _dropped(self, state: State, hold: Hold) -> tuple[State, bytes | Move]:
        """The state without the records that can be taken, and what is written before it is committed."""
        following = self._trimmed(state, state.without_records())
        if not state.returned:
            return following, b""
        kept = [entry for entry in self._entries(state, hold) if not entry.is_returned]
        return self._ring.leases.change(following, kept, None)

    # ---- leases ----

    def lend(self, block: bool, timeout: float | None, bytes_only: bool, /) -> PortableLoan | None:
        block = bool(block)
        holder = this_process()

        def lend(state: State, hold: Hold) -> _Step[tuple[Entry, bytes]]:
            return self._lend_one(state, hold, holder, bytes_only)

        lent = self._counted(lambda: self._get(lend, block, timeout))
        return None if lent is None else PortableLoan(self, *lent)

    def lease_figures(self, /) -> tuple[int, int, int, int, float]:
        def look(state: State, hold: Hold) -> _Step[tuple[State, int]]:
            entries = self._entries(state, hold) if state.entries else []
            return None, (state, min((entry.since for entry in entries if not entry.is_returned), default=0)), b""

        state, oldest = self._counted(lambda: self._at_once(look))
        age = max(0.0, clock.monotonic() - oldest / 1e9) if oldest else 0.0
        return state.entries - state.returned, state.returned, state.acknowledged, state.redelivered, age

    def finish(self, entry: Entry, /) -> bool:
        """A loan is done. False: it was over."""

        def finish(state: State, hold: Hold) -> _Step[bool]:
            entries = self._entries(state, hold) if state.entries else []
            if entry not in entries:
                return None, False, b""
            dropped, acknowledged = state.dropped + min(1, state.unfinished), state.acknowledged + 1
            following, move = self._without(state, hold, entries, entry)
            return following._replace(dropped=dropped, acknowledged=acknowledged), True, move

        return self._counted(lambda: self._at_once(finish))

    def give_back(self, entry: Entry, /) -> bool:
        """A loan is not done. False: it was over."""
        return self._counted(lambda: self._at_once(lambda state, hold: self._give_one_back(state, hold, entry)))

    def _lend_one(self, state: State, hold: Hold, holder: Process, bytes_only: bool) -> _Step[tuple[Entry, bytes]]:
        if not state.available:
            self._require_open_to_all(state)
            return None, None, b""
        since = int(clock.monotonic() * 1e9)
        entries = self._entries(state, hold) if state.entries else []
        returned = oldest_returned(entries)
        if returned is not None:
            payload = self._payload(returned, hold)
            _require_bytes(self._name, returned.method, payload, bytes_only)
            entry = returned._replace(
                attempt=returned.attempt + 1,
                is_returned=0,
                pid=holder[0],
                started=holder[1],
                handle=self._handle,
                since=since,
            )
            following = state._replace(redelivered=state.redelivered + 1)
            following, move = self._ring.leases.change(following, replaced(entries, returned, entry), None)
        else:
            (method, payload), length = self._record_at(state, hold, state.get_position)
            _require_bytes(self._name, method, payload, bytes_only)
            start = self._ring.leases.free_start(entries, len(payload))
            if len(entries) == MOST or start is None:
                raise ShmQueueError(
                    f"queue {self._name!r}: {len(entries)} items are leased, and there is no room for another one "
                    f"({MOST} are the most, of as many bytes together as the queue can hold)"
                )
            entry = Entry(state.get_count, method, 1, 0, holder[0], holder[1], self._handle, since, start, len(payload))
            following = self._after_get(state, length, 1)
            at = self._ring.leases.window(entry)
            following, move = self._ring.leases.change(following, [*entries, entry], (at, payload))
        self._reserve(move, hold)
        self._loans += 1
        return following, (entry, payload), move

    def _reserve(self, move: Move, hold: Hold) -> None:
        try:
            self._ring.reserve_for_lease((move.window, move.table), hold)
        except OSError as error:
            if error.errno is None:  # what a signal handler raises usually has none
                raise error.__cause__ or error from None
            raise

    def _entries(self, state: State, hold: Hold) -> list[Entry]:
        return self._ring.leases.entries(state, self._copy_at(self._ring.leases.table(state), hold))

    def _payload(self, entry: Entry, hold: Hold) -> bytes:
        return self._copy_at(self._ring.leases.window(entry), hold)

    def _copy_at(self, place: slice, hold: Hold) -> bytes:
        memory, owner = self._memory, hold.owner
        data = memory[(_NO_BYTES, place)[owner.hold is hold]]  # no jump and no call between the look and the copying
        if len(data) != place.stop - place.start:
            raise Contradiction("the lock was lost")
        return data

    def _without(self, state: State, hold: Hold, entries: list[Entry], entry: Entry) -> tuple[State, Move]:
        hold.last = self._ring.giving_back_window(entry)
        following, move = self._ring.leases.change(state, replaced(entries, entry, None), None)
        return following, move

    def _give_one_back(self, state: State, hold: Hold, entry: Entry) -> _Step[bool]:
        entries = self._entries(state, hold) if state.entries else []
        if entry not in entries:
            return None, False, b""
        if state.shut == 2:  # a requeued record is dropped, as those queued then were
            following, move = self._without(state, hold, entries, entry)
            return following._replace(dropped=state.dropped + min(1, state.unfinished)), True, move
        given = entry._replace(is_returned=1, pid=0, started=0, handle=0)
        following, move = self._ring.leases.change(state, replaced(entries, entry, given), None)
        self._reserve(move, hold)
        return following, True, move

    def _return_loans_of(self, holder: Process, handle: int) -> None:
        """Give back what a process has; with a handle that is not 0, by that one only."""

        def is_theirs(entry: Entry) -> bool:
            return (entry.pid, entry.started) == holder and handle in (0, entry.handle) and not entry.is_returned

        def give_back(state: State, hold: Hold) -> _Step[bool]:
            entries = self._entries(state, hold) if state.entries else []
            oldest = min(filter(is_theirs, entries), default=None)  # by number; a getter may take it before the next
            return (None, False, b"") if oldest is None else self._give_one_back(state, hold, oldest)

        deadline = clock.monotonic() + LOCK_PATIENCE
        while (given := self._locked(give_back, deadline)) is True or (given is _LOCKED and self._closing):
            if given is _LOCKED:  # a handle that is being closed does not wait for it
                if clock.monotonic() >= deadline:
                    break
                sleep(SHORTEST_PAUSE)

    def _return_loans_of_the_dead(self, now: float) -> None:
        if now - self._looked < LOOK_FOR_DEAD:
            return
        self._looked = now
        state = self._peek()
        if state is None or state.entries == state.returned:
            return

        def holders(state: State, hold: Hold) -> _Step[set[tuple[Process, int]]]:
            entries = self._entries(state, hold) if state.entries else []
            return None, {((entry.pid, entry.started), entry.handle) for entry in entries if not entry.is_returned}, b""

        found = self._locked(holders, deadline_after(LOCK_PATIENCE))
        for holder, handle in () if found is None or found is _LOCKED else found:
            is_earlier = holder == this_process() and handle >> 32 != _IMAGE  # exec() has replaced that program
            if is_earlier or not is_alive(holder):
                self._return_loans_of(holder, handle)


def _do_nothing(waited: float) -> None:
    """What a call that waits for room does beside that."""


def _oldest(entries: list[Entry]) -> Entry:
    entry = oldest_returned(entries)
    if entry is None:
        raise Contradiction("a requeued item cannot be found")
    return entry


def _require_bytes(name: str, method: int, payload: bytes, wanted: bool) -> None:
    if wanted and contents_of(method, payload) is None:
        raise TypeError(f"the oldest item of queue {name!r} is not bytes: take it with get()")


def _has_news(state: State) -> bool:
    """Whether a get has anything to give or to say."""
    return state.available > 0 or state.shut > 0


def _finish_one(state: State, hold: Hold) -> _Step[bool]:
    return (state._replace(done=state.done + 1), True, b"") if state.unfinished else (None, False, b"")


_IMAGE = this_image()
_handles = itertools.count((_IMAGE << 32) + int.from_bytes(os.urandom(4), "little") // 2 + 1)  # of this interpreter
_live: WeakRegistry[PortableEngine] = WeakRegistry()


def _after_fork_in_child() -> None:
    for engine in _live:
        engine._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
