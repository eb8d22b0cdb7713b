"""Calls that end in time even if the broker accepts everything and never answers.

Neither kombu nor its clients have one timeout for connecting, TLS and operations together. So a call that must end is
made in a thread of its own, and given up when its time is over: the thread ends when the socket does.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from shmqueue import clock

__all__ = ["answer"]

_T = TypeVar("_T")


def answer(call: Callable[[], _T], deadline: float | None, undo: Callable[[_T], object]) -> _T:
    """What ``call`` returns, or raises.

    Args:
        call: what asks the broker.
        deadline: until when to wait for it, by ``clock.monotonic``; None, for ever.
        undo: called with what ``call`` has returned if nobody waits for that any more; perhaps by another thread.

    Raises:
        TimeoutError: it has not ended in time.
    """
    if deadline is None or sys.is_finalizing():  # when no other thread runs any more
        return call()
    seconds = deadline - clock.monotonic()
    asked = _Asked(call, undo)
    try:
        threading.Thread(target=asked.run, name="shmqueue-broker", daemon=True).start()
    except RuntimeError:  # the interpreter ends
        return call()
    try:
        asked.ended.wait(max(0.0, seconds))
    except BaseException:
        if not asked.is_given_up():
            undo(asked.result())
        raise
    if asked.is_given_up():
        raise TimeoutError(f"no answer within {seconds:.3g} s")
    return asked.result()


class _Asked(Generic[_T]):
    """A call that another thread makes."""

    def __init__(self, call: Callable[[], _T], undo: Callable[[_T], object]) -> None:
        self.ended = threading.Event()
        self._call, self._undo = call, undo
        self._lock = threading.Lock()  # decides what came first: the end of the call, or that of the caller's patience
        self._has_ended = self._is_given_up = False
        self._returned: list[_T] = []
        self._raised: BaseException | None = None

    def run(self) -> None:
        """Make the call."""
        try:
            self._returned.append(self._call())
        except BaseException as error:  # it is raised in the thread that has asked
            self._raised = error
        with self._lock:
            self._has_ended = True
        self.ended.set()
        if self._is_given_up:
            for returned in self._returned:
                self._undo(returned)

    def is_given_up(self) -> bool:
        """Give the call up. False: it has ended."""
        with self._lock:
            self._is_given_up = not self._has_ended
            return self._is_given_up

    def result(self) -> _T:
        """What the call returned; raises what it raised."""
        raised, self._raised = self._raised, None  # or else its traceback would keep itself
        if raised is not None:
            raise raised
        return self._returned[0]
