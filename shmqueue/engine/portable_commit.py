"""How the portable engine reads the state of a segment, and changes it: rules 1 to 3 of ``portable.py``.

What is done under the lock is an attempt: a function that looks at the state and says which one is to follow, if any.
It knows nothing of records.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar, cast

from shmqueue.engine.portable_calls import Calls
from shmqueue.engine.portable_leases import Move
from shmqueue.engine.portable_lock import NOTHING, NOWHERE, Hold, Owner
from shmqueue.engine.portable_state import SLOT_SIZE, Contradiction, State, unpack
from shmqueue.segment import HEADER_SIZE, Segment

__all__ = ["GETTERS", "LOCKED", "NO_BYTES", "PUTTERS", "SELECTOR", "Attempt", "Commits", "Step"]

_T = TypeVar("_T")

SELECTOR, PUTTERS, GETTERS = 128, 129, 130
_WAITERS = slice(PUTTERS, GETTERS + 1)
NO_BYTES = slice(0, 0)
_WRITE_NOTHING = (
    NO_BYTES,
    b"",
    NO_BYTES,
    b"",
    NO_BYTES,
    b"",
    NOWHERE,
    NOTHING,
)  # the plan of an overtaken call, see _commit
_SLOTS = slice(192, 192 + SLOT_SIZE), slice(448, 448 + SLOT_SIZE)
_PEEKS = 8  # attempts to read the state without the lock

Step: TypeAlias = "tuple[State | None, _T | None, bytes | Move]"
"""A state to commit, or None; a result, or None for not yet; the bytes of the records that the state adds, or what else
is written before it is committed."""

Attempt: TypeAlias = "Callable[[State, Hold], Step[_T]]"
"""What is done under the lock: a look at the state and the records. It writes nothing, and may be done twice."""

LOCKED = object()
"""Stands for the result of an attempt that could not be made."""


class Commits(Calls):
    """A handle that reads and changes the state."""

    def __init__(self, segment: Segment) -> None:
        super().__init__(segment)
        self._known: tuple[bytes, State | None] = b"", None  # a slot that was checked, and what it says

    def _current(self) -> State:
        """The state at one moment."""
        return self._peek() or self._at_once(lambda state, hold: (None, state, b""))

    def _peek(self) -> State | None:
        """The state by rule 3; None if it moves too fast, or is corrupted, which the lock's owner will find."""
        memory = self._memory
        for _ in range(_PEEKS):
            selector = memory[SELECTOR]
            slot = memory[_SLOTS[selector & 1]]
            if memory[SELECTOR] == selector:
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

    def _at_once(self, attempt: Attempt[_T]) -> _T:
        """Make an attempt that has a result whatever the state is."""
        result = self._locked(attempt, None)
        if result is None or result is LOCKED:  # without a deadline, waiting for the lock ends only for close()
            self._require_usable()
            raise AssertionError("unreachable")
        return result

    def _locked(self, attempt: Attempt[_T], deadline: float | None) -> _T | None:
        """Make the attempt under the lock and commit what it says. None: it was too early for it.

        ``LOCKED``: the lock was not released before the deadline, or this handle is being closed.

        An exception at any moment, such as KeyboardInterrupt, releases the lock and takes back what was committed:
        nobody can have built on it yet. So an item is taken and delivered, or not taken. Only from the system calls
        that give memory back and unlock until the caller has the result is it too late for that, as whenever a Python
        function returns.
        """
        while True:
            if self._is_ended:  # a signal handler has closed this handle
                self._require_usable()
            hold = self._lock.hold()
            owner = hold.owner
            selector = None
            try:
                if not owner.acquire(hold, deadline, self._is_closing):
                    return cast("_T", LOCKED)
                selector = self._memory[SELECTOR]
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
                        self._memory[(NOWHERE, SELECTOR)[owner.hold is hold]] = selector
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
        at_first, first, at_rest, rest = NO_BYTES, b"", NO_BYTES, b""
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
        plans = (_WRITE_NOTHING, (at_first, first, at_rest, rest, at, slot, SELECTOR, last))
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
        return at_selector == SELECTOR
