"""A handle of the portable engine: its calls in flight, for which closing waits, and whether it can be used.

It knows nothing of what lies in the memory that it maps.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

from shmqueue.engine.portable_lock import DeathSafeLock
from shmqueue.engine.portable_memory import RingMemory
from shmqueue.exceptions import ShmQueueClosedError, ShmQueueCorruptedError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import Segment
from shmqueue.threads import WeakRegistry, sleep

__all__ = ["SHORTEST_PAUSE", "Calls"]

_T = TypeVar("_T")

SHORTEST_PAUSE = 50e-6
"""Seconds between two looks at what another thread or process is about to change, at first."""


class Calls:
    """A handle on one segment, and the calls that use it."""

    def __init__(self, segment: Segment) -> None:
        self._name = segment.name
        self._ring = RingMemory(segment)
        self._memory = self._ring.map
        self._lock = DeathSafeLock(segment, self._memory)
        self._calls: dict[int, int] = {}  # thread -> its calls in flight; more than 1 if a signal handler calls
        self._pid = os.getpid()  # in which those calls are
        self._closing = False
        self._is_ended = False  # close() has done its last acts; before, nobody unmaps
        self._broken: str | None = None
        _live.add(self)

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
            if self._is_ended:
                self._unmap_if_idle()

    def close(self, /) -> None:
        """As the protocol says. In a signal handler that interrupted a call, unmapping is left to that call."""
        if self._pid != os.getpid():
            self._after_fork_in_child()  # a finalizer may come before the hook
        self._closing = True
        me = threading.get_ident()
        try:
            while any(calls for thread, calls in list(self._calls.items()) if thread != me):
                if sys.is_finalizing():  # those threads have stopped for good, so the memory stays mapped
                    break
                sleep(SHORTEST_PAUSE)
        finally:
            self._end(me)

    def _end(self, me: int) -> None:
        """Do the last acts, once, and unmap, or leave that to the call that this one interrupts."""
        try:
            self._do_last_acts(me)
        except BaseException:
            self._do_last_acts(me)  # once more: a signal handler has raised it
            raise
        finally:
            self._is_ended = True
            self._lock.close(is_idle=not any(list(self._calls.values())))
            self._unmap_if_idle()

    def _do_last_acts(self, me: int) -> None:
        before = self._calls.get(me, 0)
        try:
            self._calls[me] = before + 1  # so that no other thread that closes unmaps meanwhile
            if not self._is_ended:
                self._try_last_acts()
        finally:
            self._calls[me] = before

    def _try_last_acts(self) -> None:
        for act in self._last_acts():
            try:
                act()
            except not_of_handler(Exception):
                pass  # closing is more important, and the memory goes back with the queue at the latest

    def _last_acts(self) -> Iterable[Callable[[], object]]:
        """What a handle does under the lock before it is closed; twice does no harm."""
        return ()

    def _unmap_if_idle(self) -> None:
        if not any(list(self._calls.values())):
            self._ring.close()

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


_live: WeakRegistry[Calls] = WeakRegistry()


def _after_fork_in_child() -> None:
    for handle in _live:
        handle._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
