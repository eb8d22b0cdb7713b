"""When to try again: one thread of this process waits for all queues of which event loops have found one empty or full.

An event loop makes an attempt that does not wait. When it fails, the loop asks here to be told when the next one may
succeed. It says what the attempt lacked and the engine's ``moment`` from before the attempt, so nothing that happens
in between is missed. The thread takes no item, so nothing is lost with a caller that goes away.

With the native engine the thread sleeps in the kernel until one of the queues changes; others are polled.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shmqueue import clock
from shmqueue.exceptions import ShmQueueError
from shmqueue.interruptions import not_of_handler
from shmqueue.threads import Guard, new_lock, start_daemon_thread, stop_at_end

if TYPE_CHECKING:
    from shmqueue.engine import Engine

try:
    from shmqueue.engine.native import Bell, Ring
except ImportError:
    if not TYPE_CHECKING:
        Bell = Ring = None

__all__ = ["FINISHED", "ITEMS", "ROOM", "Request", "ask", "withdraw"]

ITEMS, ROOM, FINISHED = range(3)
"""What an attempt lacked: something to take, room, or that all tasks are done."""

_SLICE = 0.1  # seconds
_FIRST_PACE, _LONGEST_PACE = 0.0005, 0.02  # seconds between two looks at queues that are polled


class Request:
    """One wish to be told when an attempt may succeed.

    Args:
        engine: whose attempt failed.
        kind: ``ITEMS``, ``ROOM`` or ``FINISHED``.
        moment: ``engine.moment(kind)`` from before the attempt.
        tell: called once, in the thread, also when the engine was closed; it may raise RuntimeError when the loop that
            it serves is closed.
        is_exact: whether only a change of ``moment`` makes another attempt worthwhile; else one is due every 100 ms.
    """

    __slots__ = ("_begun", "_is_exact", "engine", "kind", "moment", "tell")

    def __init__(
        self, engine: Engine, kind: int, moment: int, tell: Callable[[], object], is_exact: bool = False
    ) -> None:
        self.engine, self.kind, self.moment, self.tell = engine, kind, moment, tell
        self._begun = clock.monotonic()
        self._is_exact = is_exact

    def is_old(self) -> bool:
        """Whether another attempt is due whatever has happened.

        Each attempt also looks for what processes that have died had, and not all that makes room or finishes the last
        task is something that moves a ``moment``.
        """
        return not self._is_exact and clock.monotonic() - self._begun > _SLICE

    def is_granted(self) -> bool:
        """Whether it is time for another attempt; for engines whose queues are polled."""
        if self.is_old():
            return True
        try:
            return self.engine.moment(self.kind) != self.moment
        except ShmQueueError:
            return True  # the attempt says why


class _Thread:
    """The thread, which is started with the first request."""

    def __init__(self) -> None:
        self._requests: dict[int, Request] = {}
        self._added = 0  # requests so far; more than one at once may count as one
        self._bell: Any = Bell() if Bell is not None else None
        self._nudge = new_lock()  # open: there is a new request, for the thread while it has none
        self._nudge.acquire()
        self._start_lock = Guard()
        self._has_started = False
        self._is_over = False

    def add(self, request: Request) -> None:
        self._requests[id(request)] = request
        self._added += 1
        if not self._has_started:
            with self._start_lock():
                if not self._has_started:
                    start_daemon_thread(self._run)
                    self._has_started = True
        self._wake()

    def stop(self) -> None:
        """Have the thread end soon."""
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        if self._bell is not None:
            self._bell.ring()
        try:
            self._nudge.release()
        except not_of_handler(RuntimeError):
            pass  # it was open already

    def discard(self, request: Request) -> None:
        self._requests.pop(id(request), None)

    def _run(self) -> None:
        while not self._is_over:
            try:
                self._answer_requests()
            except (MemoryError, OSError):  # without this thread no coroutine of the process would ever be called
                self._nudge.acquire(timeout=_SLICE)

    def _answer_requests(self) -> None:
        pace = _FIRST_PACE
        known = -1
        while not self._is_over:
            rung = self._bell.rung if self._bell is not None else 0
            requests = list(self._requests.values())
            if not requests:
                self._nudge.acquire()
                continue
            native: list[Request] = []
            polled: list[Request] = []
            for request in requests:
                (native if Ring is not None and isinstance(request.engine, Ring) else polled).append(request)
            pace = min(2 * pace, _LONGEST_PACE) if known == self._added else _FIRST_PACE
            known = self._added
            granted = self._wait(native, rung, pace if polled else _SLICE)
            granted += [request for request in polled if request.is_granted()]
            granted += [request for request in native if request.kind != ITEMS and request.is_old()]
            for request in granted:
                if self._requests.pop(id(request), None) is not None:
                    try:
                        request.tell()
                    except RuntimeError:
                        pass  # its loop is closed
                    except BaseException:
                        self._requests[id(request)] = request  # else nothing would ever call it
                        raise

    def _wait(self, native: list[Request], rung: int, seconds: float) -> list[Request]:
        if self._bell is None:
            self._nudge.acquire(timeout=seconds)
            return []
        wishes = tuple((request.engine, request.kind, request.moment) for request in native)
        return [native[number] for number in self._bell.wait(wishes, rung, seconds)]


_thread = _Thread()


def ask(request: Request) -> None:
    """Have ``request.tell`` called, once, when its attempt may succeed."""
    _thread.add(request)


def withdraw(request: Request) -> None:
    """Take a request back. It may have been answered already."""
    _thread.discard(request)


def _after_fork_in_child() -> None:
    """The thread and its requests stayed with the parent."""
    global _thread
    _thread = _Thread()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

stop_at_end(lambda: _thread.stop())
