"""Taking records with the portable engine, and handing them out on loan."""

from __future__ import annotations

from typing import TypeVar

from shmqueue import clock
from shmqueue.engine import deadline_after
from shmqueue.engine.portable_commit import GETTERS, Attempt, Step
from shmqueue.engine.portable_leases import MOST, Entry, oldest_returned, replaced
from shmqueue.engine.portable_loan import PortableLoan, contents_of
from shmqueue.engine.portable_lock import Hold
from shmqueue.engine.portable_processes import Process, this_process
from shmqueue.engine.portable_returns import LOCK_PATIENCE, oldest_of
from shmqueue.engine.portable_state import State
from shmqueue.engine.portable_waiting import Waiting
from shmqueue.exceptions import ShmQueueEmpty, ShmQueueError

__all__ = ["Gets", "has_news"]

_T = TypeVar("_T")

LONG = 50e-3
"""Seconds after which a getter that found nothing takes it that the memory is not needed soon."""


class _TooManyLeased(Exception):
    """There is no entry left for another lease."""


class Gets(Waiting):
    """A handle that takes records."""

    def get(self, block: bool, timeout: float | None, /) -> tuple[int, bytes] | None:
        block = bool(block)
        return self._counted(lambda: self._get(self._take_one, block, timeout))

    def get_many(self, most: int, block: bool, timeout: float | None, /) -> list[tuple[int, bytes]]:
        block = bool(block)
        if most < 1:
            raise ValueError(f"max_items must be at least 1, not {most}")

        def take(state: State, hold: Hold) -> Step[list[tuple[int, bytes]]]:
            return self._take(state, hold, most)

        return self._counted(lambda: self._get(take, block, timeout)) or []

    def peek(self, block: bool, timeout: float | None, /) -> tuple[int, int, bytes] | None:
        block = bool(block)
        return self._counted(lambda: self._until(has_news, self._copy_one, self._idle, GETTERS, block, timeout))

    def take(self, number: int, /) -> bool:
        def take(state: State, hold: Hold) -> Step[bool]:
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
        return self._counted(self._clear)

    def _clear(self) -> int:
        self._return_loans_of_the_dead(clock.monotonic(), at_least=0.0)
        return self._at_once(self._drop_all)

    def lend(self, block: bool, timeout: float | None, bytes_only: bool, /) -> PortableLoan | None:
        block = bool(block)
        holder = this_process()
        loan = PortableLoan(self)  # before the commit: nothing is lent to nobody, whatever a signal handler raises
        leased = 0  # how many items, if that was the reason why this one could not be

        def lend(state: State, hold: Hold) -> Step[bool]:
            nonlocal leased
            following, lent, move = self._lend_one(state, hold, holder, bytes_only)
            leased = state.entries if lent is None and state.available else 0
            if lent is not None:
                loan.receive(*lent)
            return following, lent is not None or None, move

        def lend_or_look() -> bool | None:
            began = clock.monotonic()
            try:
                return self._get(lend, block, timeout)
            except _TooManyLeased:  # perhaps by processes that have ended
                now = clock.monotonic()
                self._return_loans_of_the_dead(now, at_least=0.0)
            left = None if timeout is None else max(0.0, timeout - (now - began))
            try:
                return self._get(lend, block, left)
            except _TooManyLeased:
                why = f"{MOST} items are leased, which is the most that can be"
                raise ShmQueueError(f"queue {self._name!r}: {why}") from None

        try:
            done = self._counted(lend_or_look)
        except BaseException:
            loan.let_go()
            raise
        if done:
            return loan
        if leased:
            raise ShmQueueEmpty(
                f"queue {self._name!r}: {leased} {'items are' if leased > 1 else 'item is'} leased, which leaves no "
                "room for the next one (as many bytes together as the queue can hold): acknowledge some"
            )
        return None

    def _get(self, attempt: Attempt[_T], block: bool, timeout: float | None) -> _T | None:
        return self._until(has_news, attempt, self._idle, GETTERS, block, timeout)

    def _idle(self, waited: float) -> None:
        """What a getter does that finds nothing."""
        if waited >= LONG:
            self._give_back()
        self._return_loans_of_the_dead(clock.monotonic())

    def _take_one(self, state: State, hold: Hold) -> Step[tuple[int, bytes]]:
        if state.returned:
            entries = self._entries(state, hold)
            entry = oldest_of(entries)
            record = entry.method, self._payload(entry, hold)
            following, move = self._without(state, hold, entries, entry)
            return following, record, move
        if state.put_count == state.get_count:
            self._require_open_to_all(state)
            return None, None, b""
        record, length = self._record_at(state, hold, state.get_position)
        return self._after_get(state, length, 1), record, b""

    def _copy_one(self, state: State, hold: Hold) -> Step[tuple[int, int, bytes]]:
        if state.returned:
            entry = oldest_of(self._entries(state, hold))
            return None, (entry.number, entry.method, self._payload(entry, hold)), b""
        if not state.items:
            self._require_open_to_all(state)
            return None, None, b""
        record, _ = self._record_at(state, hold, state.get_position)
        return None, (state.get_count, *record), b""

    def _take(self, state: State, hold: Hold, most: int) -> Step[list[tuple[int, bytes]]]:
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

    def _drop_all(self, state: State, hold: Hold) -> Step[int]:
        following, move = self._dropped(state, hold)
        return following, state.available, move

    def _lend_one(self, state: State, hold: Hold, holder: Process, bytes_only: bool) -> Step[tuple[Entry, bytes]]:
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
            if len(entries) == MOST:
                raise _TooManyLeased
            start = self._ring.leases.free_start(entries, len(payload))
            if start is None:
                return None, None, b""  # until one of them is over
            entry = Entry(state.get_count, method, 1, 0, holder[0], holder[1], self._handle, since, start, len(payload))
            following = self._after_get(state, length, 1)
            at = self._ring.leases.window(entry)
            following, move = self._ring.leases.change(following, [*entries, entry], (at, payload))
        self._reserve(move, hold)
        self._loans += 1  # before the look: a signal handler that closes sees the loan, or this sees that it was closed
        if self._is_ended:
            self._require_usable()
        return following, (entry, payload), move


def _require_bytes(name: str, method: int, payload: bytes, wanted: bool) -> None:
    if wanted and contents_of(method, payload) is None:
        raise TypeError(f"the oldest item of queue {name!r} is not bytes: take it with get()")


def has_news(state: State) -> bool:
    """Whether a get has anything to give or to say."""
    return state.available > 0 or state.shut > 0
