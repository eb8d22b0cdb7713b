"""How the calls of the portable engine wait: they look at the state without the lock, and pause between two looks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from shmqueue import clock
from shmqueue.engine import deadline_after
from shmqueue.engine.portable_calls import SHORTEST_PAUSE
from shmqueue.engine.portable_commit import GETTERS, LOCKED, PUTTERS, SELECTOR, Attempt
from shmqueue.engine.portable_lock import let_others_run
from shmqueue.engine.portable_returns import LOCK_PATIENCE, Returns
from shmqueue.engine.portable_state import State
from shmqueue.messages import lock_timed_out
from shmqueue.segment import Segment
from shmqueue.threads import sleep

__all__ = ["Waiting"]

_T = TypeVar("_T")

LONGEST_PAUSE = 10e-3
"""Seconds between two looks for an item or for room in the end; ``SHORTEST_PAUSE`` at first."""

MOST_LOOKS = 64
"""Looks for the next commit before the first pause."""

LONGEST_LOOKING = 1e-3
"""Seconds after which there is no other look: where processors are busy, each lets all the others run before."""


class Waiting(Returns):
    """A handle whose calls may wait."""

    def __init__(self, segment: Segment, report: Callable[[int], None]) -> None:
        super().__init__(segment, report)
        self.while_waiting: Callable[[bool], Exception | None] | None = None
        self.lock_patience = LOCK_PATIENCE
        self._looks = MOST_LOOKS

    def _until(
        self,
        ready: Callable[[State], object],
        attempt: Attempt[_T],
        unmet: Callable[[float], None],
        flag: int,
        block: bool,
        timeout: float | None,
    ) -> _T | None:
        """Make the attempt as soon as the state, read without the lock, looks ``ready``. None: not in time.

        The last look comes after the deadline, so a call that was stopped for longer than its timeout still finds what
        came meanwhile.

        ``unmet`` is called after each look that had no result, with the seconds since the first one.

        Raises:
            ShmQueueFull, ShmQueueEmpty: it looked ready, and the lock was not released in time.
        """
        block = block and (timeout is None or timeout > 0)
        began = clock.monotonic()
        deadline = deadline_after(timeout if block else self.lock_patience)
        pause = 0.0
        if flag == GETTERS:
            self._return_loans_of_the_dead(began)  # what a dead process had may be older than all that is there
        end: Exception | None = None
        is_last = not block
        while True:
            if self.lost:
                self._return_lost()
            state = self._known[1]  # what was true a moment ago is worth an attempt
            if state is None or not ready(state):
                state = self._peek()
            if state is None or ready(state):
                result = self._locked(attempt, deadline)
                if result is not None and result is not LOCKED:
                    return result
                if result is LOCKED:
                    self._require_usable()
                    raise lock_timed_out(self._name, flag == PUTTERS)
            self._require_usable()
            unmet(clock.monotonic() - began)
            if end is not None:
                raise end
            if is_last:
                return None
            if pause or not self._sees_commit(state):
                is_last = not self._sleep(pause or SHORTEST_PAUSE, deadline, flag)
            pause = min(1.25 * pause, LONGEST_PAUSE) or SHORTEST_PAUSE
            if self.while_waiting is not None:
                end = self.while_waiting(flag == PUTTERS)

    def _sees_commit(self, state: State | None) -> bool:
        """Look for the next commit for a moment, which is the shorter the more often there was none."""
        seen = state.serial & 0xFF if state is not None else -1
        end = clock.monotonic() + LONGEST_LOOKING
        for _ in range(self._looks):
            if self._memory[SELECTOR] != seen:
                self._looks = min(2 * self._looks, MOST_LOOKS)
                return True
            if clock.monotonic() > end:
                break
            let_others_run()
        self._looks = max(self._looks // 2, 1)
        return False

    def _watch(self, condition: Callable[[State], object], flag: int, timeout: float | None) -> bool:
        """Wait until the state, read without the lock, meets the condition. False: not in time.

        As in ``_until``, the last look comes after the deadline.
        """
        deadline = deadline_after(timeout)
        pause = SHORTEST_PAUSE
        is_last = timeout is not None and timeout <= 0
        while True:
            if self.lost:
                self._return_lost()
            if condition(self._current()):
                return True
            if is_last:
                return False
            is_last = not self._sleep(pause, deadline, flag)
            pause = min(1.25 * pause, LONGEST_PAUSE)

    def _sleep(self, pause: float, deadline: float | None, flag: int) -> bool:
        """Sleep until the next look, at the deadline at the latest. False: that look is the last."""
        left = deadline - clock.monotonic() if deadline is not None else math.inf
        if left > 0:
            self._memory[flag] = 1
            sleep(min(pause, left))
        self._require_usable()
        return left > pause
