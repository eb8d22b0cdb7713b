"""Locks, sets and threads that forks, the end of the interpreter and monkey patching leave usable.

Three things break ordinary ones. A fork copies a lock that another thread holds, and that thread does not exist in the
child. At the end of the interpreter daemon threads stop wherever they are, with whatever locks they hold, and
finalizers run after that. And gevent and its like replace ``threading`` and ``_thread`` by functions whose threads run
only when the caller waits in their way.

This module knows nothing of queues.
"""

from __future__ import annotations

import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.machinery import BuiltinImporter
from importlib.util import module_from_spec
from itertools import repeat
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    import _thread as _real_thread
    from threading import RLock

__all__ = [
    "Guard",
    "WeakRegistry",
    "end_threads",
    "forks_wait",
    "new_lock",
    "new_reentrant_lock",
    "sleep",
    "start_daemon_thread",
    "stop_at_end",
]

_T = TypeVar("_T")


def _unpatched(name: str) -> Any:
    """A second instance of a built-in module, which nobody has patched."""
    spec: Any = BuiltinImporter.find_spec(name)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if not TYPE_CHECKING:
    _real_thread = _unpatched("_thread")

new_lock: Callable[[], _real_thread.LockType] = _real_thread.allocate_lock
"""A lock of the operating system's threads."""


_real_sleep: Callable[[float], None] = _unpatched("time").sleep
_ours: set[int] = set()  # identifiers of the threads that were started here


def start_daemon_thread(target: Callable[[], object]) -> None:
    """Run ``target`` in a new thread of the operating system, for which the end of the interpreter does not wait.

    Returns when the thread runs. In Python 3.10 one that begins after the end of the interpreter uses memory that this
    has freed; one that runs already does not (CPython issue 108987).

    Raises:
        RuntimeError: the system allows no more threads.
    """
    has_begun = new_lock()
    has_begun.acquire()

    def run() -> None:
        has_begun.release()
        me = _real_thread.get_ident()
        _ours.add(me)
        try:
            target()
        finally:
            _ours.discard(me)

    _real_thread.start_new_thread(run, ())
    if not sys.is_finalizing():  # else it ends before it runs any Python code
        has_begun.acquire()


_stops: list[Callable[[], object]] = []
_END_PATIENCE = 1.0  # seconds


def stop_at_end(stop: Callable[[], object]) -> None:
    """Have ``end_threads`` call it: it makes threads that were started here end soon."""
    _stops.append(stop)


def end_threads() -> None:
    """End the threads that were started here, where the interpreter ends and the process goes on.

    A daemon thread of a sub-interpreter that still runs at its end stays for ever, and so does all that it refers to.
    """
    if not _ours or _is_main_interpreter():
        return
    for stop in _stops:
        stop()
    deadline = time.monotonic() + _END_PATIENCE
    while _ours and time.monotonic() < deadline:
        _real_sleep(0.001)


def _is_main_interpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # of Python 3.13 and later; of earlier ones
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


def sleep(seconds: float) -> None:
    """``time.sleep``, which lets other greenlets run where gevent has replaced it; there are none in our threads."""
    (_real_sleep if _real_thread.get_ident() in _ours else time.sleep)(seconds)


new_reentrant_lock: Callable[[], RLock] = _real_thread.RLock
"""A reentrant lock of the operating system's threads. A signal handler that raises leaves it free after ``with``."""

if sys.version_info[:2] == (3, 14):

    class _ReentrantLock(_real_thread.RLock):
        """One that is free again if the exception of a signal handler comes on the way into ``with``.

        CPython 3.14, and no other version, handles signals after a ``__enter__`` in C has taken the lock and before the
        block is entered. It handles none between the last instruction of one in Python and the block.
        """

        def __enter__(self) -> bool:
            depth = self._recursion_count()
            try:
                return self.acquire()
            except BaseException:
                while self._recursion_count() > depth:
                    self.release()
                raise

    new_reentrant_lock = _ReentrantLock


class Guard:
    """A reentrant lock for use as ``with guard():``.

    A forked child has a lock of its own, which is free. At the end of the interpreter only one thread still runs: a
    lock that another one holds is replaced. So what it guards must be usable after a thread stopped half-way.
    """

    def __init__(self) -> None:
        self._locks: dict[int, RLock] = {}  # by process id
        if hasattr(
            os, "register_at_fork"
        ):  # the child may get the id of an earlier process, of which it is a descendant
            os.register_at_fork(after_in_child=self._locks.clear)

    def __call__(self) -> RLock:
        """The lock of this process."""
        pid = os.getpid()
        lock: Any = self._locks.get(pid) or self._locks.setdefault(pid, new_reentrant_lock())
        if sys.is_finalizing() and not lock._is_owned():
            lock = self._locks[pid] = new_reentrant_lock()
        return lock  # type: ignore[no-any-return]


class WeakRegistry(Generic[_T]):
    """A set of weak references. Unlike a ``WeakSet`` it may change in other threads while one iterates over it."""

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[_T]] = {}

    def add(self, member: _T) -> None:
        """Add an object, which is compared by its identity."""
        key, references = id(member), self._references

        def forget(reference: weakref.ref[_T]) -> None:
            if references.get(key) is reference:
                del references[key]

        references[key] = weakref.ref(member, forget)

    def discard(self, member: _T) -> None:
        """Remove an object. Does nothing if it is not there."""
        self._references.pop(id(member), None)

    def clear(self) -> None:
        """Remove all."""
        self._references.clear()

    def __iter__(self) -> Iterator[_T]:
        members = [reference() for reference in list(self._references.values())]
        return iter([member for member in members if member is not None])


_FORK_PATIENCE = 5.0
"""Seconds that a fork waits for other threads to leave a guard: they need milliseconds."""


def forks_wait(guard: Guard) -> None:
    """From now on a fork waits until no other thread is within ``guard``. So a child copies nothing half-done.

    It does not wait for longer than 5 s, nor for the thread that forks, which may be within it: in a signal handler.
    """
    if not hasattr(os, "register_at_fork"):
        return
    forks = _real_thread._local()

    def enter() -> None:
        releases: list[Callable[[], object]] = forks.__dict__.setdefault("releases", [])  # the innermost fork's last
        releases.append(bool)
        lock = guard()
        releases[-1] = lock.release  # no call and no jump from here to the next one: no signal handler in between
        if not lock.acquire(timeout=_FORK_PATIENCE):
            releases[-1] = bool

    # A signal that comes during the fork is handled by the first Python code after it, which may raise before it has
    # done anything. So what leaves the guard is made of C functions, which call no handler.
    last = map(methodcaller("pop"), map(attrgetter("releases"), repeat(forks)))
    leave = map(methodcaller("__call__"), last)
    os.register_at_fork(before=enter, after_in_parent=partial(next, leave), after_in_child=partial(next, last))
