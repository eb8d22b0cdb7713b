"""What becomes of records that the portable engine has handed out: finished, requeued, dropped; or the holder died.

Rule 8 of ``portable.py``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

from shmqueue import clock
from shmqueue.engine import deadline_after
from shmqueue.engine.portable_calls import SHORTEST_PAUSE
from shmqueue.engine.portable_commit import LOCKED, Step
from shmqueue.engine.portable_leases import Entry, Move, oldest_returned, replaced
from shmqueue.engine.portable_loan import Lost
from shmqueue.engine.portable_lock import Hold
from shmqueue.engine.portable_processes import Process, is_alive, this_image, this_process
from shmqueue.engine.portable_records import Records
from shmqueue.engine.portable_state import Contradiction, State
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import Segment
from shmqueue.segment.header import pid_namespace
from shmqueue.threads import sleep

__all__ = ["LOCK_PATIENCE", "Returns", "oldest_of"]

LOCK_PATIENCE = 1.0
"""Seconds that a call which must not block waits for the lock: a living owner has it for microseconds."""

_LOOKS = 64  # at what is leased, until it does not change meanwhile

LOOK_FOR_DEAD = 0.1
"""Seconds between two checks whether the holders of leases still live."""

_IMAGE = this_image()
_handles = itertools.count((_IMAGE << 32) + int.from_bytes(os.urandom(4), "little") // 2 + 1)  # of this interpreter


class Returns(Records):
    """A handle that has loans, and takes back those of others."""

    def __init__(self, segment: Segment, report: Callable[[int], None]) -> None:
        super().__init__(segment, report)
        self._handle = next(_handles)  # tells its loans from those of other handles in this process
        self._loans = 0  # that this handle may have
        self.lent: set[Lost] = set()  # of the loans that are not over
        self.lost: set[Lost] = set()  # those of which the loans are gone: to be given back
        self._is_late = False  # whether that was put off, for the lock was not released
        here = pid_namespace()
        self._is_of_here = 0 in {here, segment.header.pid_namespace} or here == segment.header.pid_namespace
        self._looked = -LOOK_FOR_DEAD  # when it last looked whether the holders of loans live: not yet

    def _after_fork_in_child(self) -> None:
        super()._after_fork_in_child()
        self._loans = 0  # they are the parent's
        self.lent, self.lost = set(), set()

    def lease_figures(self, /) -> tuple[int, int, int, int, float]:
        self.return_lost()
        state, oldest = self._counted(self._oldest_lease)
        age = max(0.0, clock.monotonic() - oldest / 1e9) if oldest else 0.0
        return state.entries - state.returned, state.returned, state.acknowledged, state.redelivered, age

    def _oldest_lease(self) -> tuple[State, int]:
        """The state, and since when what is leased longest is, in ns; 0: nothing is, or it changes too fast.

        No lock is needed, which a process may have that was stopped: the state says which bytes the table has.
        """
        for _ in range(_LOOKS):
            state = self._current()
            table = self._memory[self._ring.leases.table(state)] if state.entries else b""
            try:
                entries = self._ring.leases.entries(state, table) if state.entries else []
            except Contradiction:
                continue  # it is another state's already
            return state, min((entry.since for entry in entries if not entry.is_returned), default=0)
        return state, 0

    def finish(self, entry: Entry, /) -> bool:
        """A loan is done. False: it was over."""

        def finish(state: State, hold: Hold) -> Step[bool]:
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

    def return_lost(self) -> None:
        """Give back what the loans had that are gone, and wait for the lock for ``LOCK_PATIENCE`` at most.

        Raises:
            ShmQueueClosedError, ShmQueueCorruptedError: as any call.
        """
        self._counted(lambda: self._return_lost(0.0 if self._is_late else LOCK_PATIENCE))

    def _return_lost(self, patience: float = 0.0) -> None:
        """As above, in a call. What is not given back in time, or because of an exception, is left to the next call."""
        for lost in list(self.lost):
            entry = lost.entry
            if entry is not None and not self._try_to_return(entry, patience):
                break
            self.lent.discard(lost)
            self.lost.discard(lost)

    def _try_to_return(self, entry: Entry, patience: float) -> bool:
        try:
            done = self._locked(
                lambda state, hold: self._give_one_back(state, hold, entry), clock.monotonic() + patience
            )
        except not_of_handler(Exception):
            return False  # for want of memory, for instance: nothing that the call in which this is done has to do with
        self._is_late = done is LOCKED
        return not self._is_late

    def _reserve(self, move: Move, hold: Hold) -> None:
        try:
            self._ring.reserve_for_lease((move.window, move.table), hold)
        except not_of_handler(OSError) as error:
            if error.errno is None:  # what a signal handler raises usually has none
                raise error.__cause__ or error from None
            self._require_usable()  # a signal handler may have closed the file
            raise

    def _entries(self, state: State, hold: Hold) -> list[Entry]:
        return self._ring.leases.entries(state, self._copy_at(self._ring.leases.table(state), hold))

    def _payload(self, entry: Entry, hold: Hold) -> bytes:
        return self._copy_at(self._ring.leases.window(entry), hold)

    def _without(self, state: State, hold: Hold, entries: list[Entry], entry: Entry) -> tuple[State, Move]:
        hold.last = self._ring.giving_back_window(entry)
        following, move = self._ring.leases.change(state, replaced(entries, entry, None), None)
        return following, move

    def _give_one_back(self, state: State, hold: Hold, entry: Entry) -> Step[bool]:
        entries = self._entries(state, hold) if state.entries else []
        if entry not in entries:
            return None, False, b""
        return self._give_some_back(state, hold, entries, [entry])

    def _give_some_back(self, state: State, hold: Hold, entries: list[Entry], given: list[Entry]) -> Step[bool]:
        numbers = {entry.number for entry in given}
        if state.shut == 2:  # requeued records are dropped, as those queued then were
            if len(given) == 1:
                hold.last = self._ring.giving_back_window(given[0])
            kept = [entry for entry in entries if entry.number not in numbers]
            following, move = self._ring.leases.change(state, kept, None)
            return following._replace(dropped=state.dropped + min(len(given), state.unfinished)), True, move
        kept = [
            entry._replace(is_returned=1, pid=0, started=0, handle=0) if entry.number in numbers else entry
            for entry in entries
        ]
        following, move = self._ring.leases.change(state, kept, None)
        self._reserve(move, hold)
        return following, True, move

    def _dropped(self, state: State, hold: Hold) -> tuple[State, bytes | Move]:
        """The state without the records that can be taken, and what is written before it is committed."""
        following = self._trimmed(state, state.without_records())
        if not state.returned:
            return following, b""
        kept = [entry for entry in self._entries(state, hold) if not entry.is_returned]
        return self._ring.leases.change(following, kept, None)

    def _return_loans_of(self, holder: Process, handle: int, patience: float = LOCK_PATIENCE) -> None:
        """Give back what a process has; with a handle that is not 0, by that one only. ``patience``: for the lock."""

        def is_theirs(entry: Entry) -> bool:
            return (entry.pid, entry.started) == holder and handle in (0, entry.handle) and not entry.is_returned

        def give_back(state: State, hold: Hold) -> Step[bool]:
            entries = self._entries(state, hold) if state.entries else []
            theirs = list(filter(is_theirs, entries))
            return self._give_some_back(state, hold, entries, theirs) if theirs else (None, False, b"")

        deadline = clock.monotonic() + patience
        while self._locked(give_back, deadline) is LOCKED and self._closing and clock.monotonic() < deadline:
            sleep(SHORTEST_PAUSE)  # a handle that is being closed does not wait for the lock itself

    def _try_to_return_loans_of_the_dead(self) -> None:
        """The same for a call that only looks: it waits for nothing, and leaves the rest to the next one."""
        try:
            self._return_loans_of_the_dead(clock.monotonic(), 0.0)
        except not_of_handler(Exception):
            self._require_usable()

    def _return_loans_of_the_dead(
        self, now: float, patience: float = LOCK_PATIENCE, at_least: float = LOOK_FOR_DEAD
    ) -> None:
        """Give back what ended processes have, in a call, if this handle has not looked for ``at_least`` seconds."""
        if now - self._looked < at_least or not self._is_of_here:
            return
        self._looked = now
        state = self._peek()
        if state is None or state.entries == state.returned:
            return

        def holders(state: State, hold: Hold) -> Step[set[tuple[Process, int]]]:
            entries = self._entries(state, hold) if state.entries else []
            return None, {((entry.pid, entry.started), entry.handle) for entry in entries if not entry.is_returned}, b""

        found = self._locked(holders, deadline_after(patience))
        if found is LOCKED:
            self._looked = now - LOOK_FOR_DEAD  # it was no look
        for holder, handle in () if found is None or found is LOCKED else found:
            is_earlier = holder == this_process() and handle >> 32 != _IMAGE  # exec() has replaced that program
            if is_earlier or not is_alive(holder):
                self._return_loans_of(holder, handle, patience)


def oldest_of(entries: list[Entry]) -> Entry:
    entry = oldest_returned(entries)
    if entry is None:
        raise Contradiction("a requeued item cannot be found")
    return entry
