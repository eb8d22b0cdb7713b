"""Calls that end in time even if the broker accepts everything and never answers.

Neither kombu nor its clients have one timeout for connecting, TLS and operations together. So a call that must end is
made in another thread, and abandoned when its time is over: that thread ends when the socket does.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from shmqueue import clock

__all__ = ["Asker"]

_T = TypeVar("_T")

_ENDED, _ABANDONED = "ended", "abandoned"


class Asker:
    """A thread that makes one call after the other, started with the first one that must end in time."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call[Any] | None] | None = None
        self._is_closed = False

    def answer(self, make: Callable[[], _T], deadline: float | None, undo: Callable[[_T], object]) -> _T:
        """What ``make`` returns, or raises. One thread at a time may call this.

        Args:
            make: what asks the broker.
            deadline: until when to wait for it, by ``clock.monotonic``; None, for ever.
            undo: called with what ``make`` has returned if nobody waits for that any more; perhaps by another thread.

        Raises:
            TimeoutError: it has not ended in time. What is asked next is asked in another thread.
        """
        if deadline is None or not self._has_thread():
            return make()
        assert self._calls is not None
        seconds = deadline - clock.monotonic()
        call = _Call(make, undo)
        self._calls.put(call)
        try:
            call.ended.acquire(timeout=max(0.0, seconds))
        except BaseException:
            if call.is_abandoned():
                self._leave_thread()
            else:
                undo(call.result())
            raise
        if call.is_abandoned():
            self._leave_thread()
            raise TimeoutError(f"no answer within {seconds:.1f} s")
        return call.result()

    def close(self) -> None:
        """End the thread, after the call that it makes just now."""
        self._is_closed = True
        self._leave_thread()

    def _has_thread(self) -> bool:
        if (
            self._calls is None and not self._is_closed and not sys.is_finalizing()
        ):  # when no other thread runs any more
            calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
            try:
                threading.Thread(target=_make_calls, args=(calls,), name="shmqueue-broker", daemon=True).start()
            except RuntimeError:  # the interpreter ends
                return False
            self._calls = calls
        return self._calls is not None

    def _leave_thread(self) -> None:
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


class _Call(Generic[_T]):
    """A call that another thread makes."""

    def __init__(self, make: Callable[[], _T], undo: Callable[[_T], object]) -> None:
        self.ended = threading.Lock()
        """Held until it has. Unlike an ``Event`` it may be interrupted at any moment, by Ctrl-C."""
        self.ended.acquire()
        self._make, self._undo = make, undo
        self._first: dict[None, str] = {}
        """What came first: the end of the call, or that of the caller's patience; ``setdefault`` is atomic."""
        self._returned: list[_T] = []
        self._raised: BaseException | None = None

    def run(self) -> None:
        """Make it."""
        try:
            self._returned.append(self._make())
        except BaseException as error:  # it is raised in the thread that has asked
            self._raised = error
        first = self._first.setdefault(None, _ENDED)
        self.ended.release()
        if first is _ABANDONED:
            for returned in self._returned:
                self._undo(returned)

    def is_abandoned(self) -> bool:
        """Abandon it. False: it has ended."""
        return self._first.setdefault(None, _ABANDONED) is _ABANDONED

    def result(self) -> _T:
        """What it returned; raises what it raised."""
        raised, self._raised = self._raised, None  # or else its traceback would keep itself
        if raised is not None:
            raise raised
        return self._returned[0]


def _make_calls(calls: queue.SimpleQueue[_Call[Any] | None]) -> None:
    while True:
        call = calls.get()
        if call is None:
            return
        call.run()
        del call  # or else it would keep what it returned until the next one comes
