"""Calls that end in time even if the broker accepts everything and never answers, and that survive an interrupt.

Neither kombu nor its clients have one timeout for connecting, TLS and operations together. So a call that must end is
made in another thread, and abandoned when its time is over: that thread ends with the answer or with the socket. It may
be that the broker has handed out an item, which the answer still brings; so the socket is left open. ``Overdue`` counts
such calls, or else a program that asks a stopped broker again and again would soon have no threads left.

Signal handlers run in the main thread only. So a call that another thread makes is never interrupted half-way, and what
it returns to a caller that was interrupted, or waits no longer, can be undone.
"""

from __future__ import annotations

import _thread
import os
import queue
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from shmqueue import clock
from shmqueue.interruptions import is_of_handler, not_of_handler

__all__ = ["ANSWER", "UNDOING", "Asker", "Overdue", "attempt", "start"]

_T = TypeVar("_T")

ANSWER = 5.0  # seconds that a broker has to answer a call that takes no timeout, or does not block
UNDOING = 0.5  # seconds that an interrupted caller waits until its call is undone: the program may end right after
_ENDED, _ABANDONED = "ended", "abandoned"


class Overdue:
    """The calls of one thread that it has abandoned and that have not ended. A forked child has none of them."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._calls: list[weakref.ref[_Call[Any]]] = []  # the thread that makes a call keeps it

    def add(self, call: _Call[Any]) -> None:
        """Count a call that was abandoned."""
        self._calls.append(weakref.ref(call))

    def count(self) -> int:
        """How many there are."""
        self._calls = [known for known in self._calls if (call := known()) is not None and not call.is_over]
        return len(self._calls)


class Asker:
    """A thread that makes one call after the other, started with the first one that needs it.

    Args:
        overdue: that counts those of its calls that are abandoned.
    """

    def __init__(self, overdue: Overdue | None = None) -> None:
        self._overdue = Overdue() if overdue is None else overdue
        self._worker: _Worker | None = None
        self._is_closed = False
        self._is_abandoned = False
        self._call: Callable[[], _Call[Any] | None] = _no_call
        """Gives the last call. A weak reference: what the call returned is its caller's alone."""

    def answer(self, make: Callable[[], _T], deadline: float | None, undo: Callable[[_T], object] | None = None) -> _T:
        """What ``make`` returns, or raises. One thread at a time may call this.

        Args:
            make: what asks the broker.
            deadline: until when to wait for it, by ``clock.monotonic``; None, for ever.
            undo: called with what ``make`` has returned if the caller does not get that, because its time is over or it
                was interrupted; by another thread. None: there is nothing to undo.

        Raises:
            TimeoutError: it has not ended in time, or it was abandoned. What is asked next is asked in another thread.
        """
        is_simple = deadline is None and (undo is None or not _may_be_interrupted())
        worker = None if is_simple else self._working()
        if worker is None:
            return make()
        seconds = -1.0 if deadline is None else min(max(0.0, deadline - clock.monotonic()), threading.TIMEOUT_MAX)
        call = _Call(make, undo)
        try:
            self._call = weakref.ref(call)
            if self._is_abandoned:  # before there was a call
                self.abandon()
            worker.ask(call.run)
            if self._is_closed:
                self._leave_thread()  # nothing else ends it
            call.ended.acquire(timeout=seconds)
            is_late = call.is_abandoned()
            # From here on nothing is called: that is when CPython, from 3.11 on, lets signal handlers run.
        except BaseException:
            if not call.is_abandoned():
                worker.ask(call.undo)
            self._overdue.add(call)
            self._leave_thread()
            if undo is not None:
                call.undone.acquire(timeout=UNDOING)
            raise
        if is_late:
            self._overdue.add(call)
            self._leave_thread()
            raise TimeoutError(f"no answer within {seconds:.1f} s")
        raised, call.raised = call.raised, None  # or else its traceback would keep itself
        if raised is None:
            return call.returned[0]
        try:
            raise raised
        finally:
            del raised

    def abandon(self) -> None:
        """Have the caller wait no longer, not for a later call either. Any thread may call this."""
        self._is_abandoned = True
        call = self._call()
        if call is not None and call.is_abandoned():
            with suppress(RuntimeError):  # released already
                call.ended.release()

    def close(self) -> None:
        """End the thread, after the call that it makes just now. A later call has a thread of its own."""
        self._is_closed = True
        self._leave_thread()

    def _working(self) -> _Worker | None:
        """The thread; None when no other thread runs any more."""
        if self._worker is None and not sys.is_finalizing():
            worker = _Worker()
            try:
                _thread.start_new_thread(_start, (worker.run,))
                self._worker = worker
            except BaseException as error:
                worker.end()  # an interrupt may come when it runs already
                self._worker = None
                if isinstance(error, RuntimeError) and not is_of_handler(error):  # the interpreter ends
                    return None
                raise
        return self._worker

    def _leave_thread(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()


def attempt(make: Callable[[], object], seconds: float) -> None:
    """Have a thread of its own make a call, and wait for its end at most so long."""
    asker = Asker()
    try:
        asker.answer(make, clock.monotonic() + seconds)
    except TimeoutError:
        pass  # it ends when the socket does
    finally:
        asker.close()


def start(make: Callable[[], object]) -> None:
    """Have a thread of its own make a call, without waiting. For destructors.

    If the interpreter ends the call is not made: it might wait for ever, and nothing would end that. It is for what
    ends with the process in any case.
    """
    if not sys.is_finalizing():
        try:
            _thread.start_new_thread(_start, (make,))
        except not_of_handler(RuntimeError):
            pass


def _no_call() -> None:
    return None


def _may_be_interrupted() -> bool:
    """Whether this is the main thread, or may be. gevent replaces much of what would tell, but not this."""
    return sys.platform != "linux" or _thread.get_native_id() == os.getpid()


def _start(run: Callable[[], object]) -> None:
    """Run it in a thread with a name. ``Thread.start`` keeps books, which an interrupt would leave wrong: not here."""
    try:
        threading.Thread(target=run, name="shmqueue-broker", daemon=True).start()
    except RuntimeError:  # the interpreter ends
        run()


class _Worker:
    """What a thread is asked to do. None of it raises."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._has_ended = False

    def ask(self, call: Callable[[], None]) -> None:
        """Have the thread do it after what it was asked before; or do it here, if the thread has ended."""
        self._calls.put(call)
        if self._has_ended:
            self._make_rest()

    def end(self) -> None:
        """End the thread when it has done what it was asked before."""
        self._calls.put(None)

    def run(self) -> None:
        """Do it all."""
        while (call := self._calls.get()) is not None:
            call()
            del call  # or else it would keep what it returned until the next one comes
        self._has_ended = True
        self._make_rest()  # what came before that was seen

    def _make_rest(self) -> None:
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                return
            if call is not None:
                call()


class _Call(Generic[_T]):
    """A call that another thread makes."""

    def __init__(self, make: Callable[[], _T], undo: Callable[[_T], object] | None) -> None:
        self.ended = threading.Lock()
        """Held until it has. Unlike an ``Event`` it may be interrupted at any moment, by Ctrl-C."""
        self.ended.acquire()
        self.undone = threading.Lock()
        """Held until there is nothing to undo any more."""
        self.undone.acquire()
        self.is_over = False
        """Whether it has ended and, if nobody got what it returned, that was undone."""
        self.returned: list[_T] = []
        self.raised: BaseException | None = None
        self._make, self._undo = make, undo
        self._first: dict[None, str] = {}
        """What came first: the end of the call, or that of the caller's patience; ``setdefault`` is atomic."""

    def run(self) -> None:
        """Make it."""
        try:
            self.returned.append(self._make())
        except BaseException as error:  # it is raised in the thread that has asked
            self.raised = error
        first = self._first.setdefault(None, _ENDED)
        if first is _ABANDONED:
            self.undo()
        else:
            self.is_over = True
            self.ended.release()

    def is_abandoned(self) -> bool:
        """Abandon it. False: it has ended."""
        return self._first.setdefault(None, _ABANDONED) is _ABANDONED

    def undo(self) -> None:
        """Undo what it did, after its end."""
        try:
            self.raised = None  # or else its traceback would keep itself
            while self.returned and self._undo is not None:
                self._undo(self.returned.pop())
        finally:
            self.is_over = True
            self.undone.release()
