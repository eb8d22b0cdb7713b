"""A descriptor that is readable while a queue has something to take, for ``select`` and its like.

A thread waits for what other processes do to the queue. What this process does is seen at once: when there is a watcher
its puts and gets go through it, so the descriptor is true whenever one of them returns. The native engine's own puts
and gets of a ``QueueBase`` go on as without one: they know what the descriptor says, and call ``look`` where it is not
so any more. Nothing in here knows of items.

The thread is one of the operating system, also where gevent has replaced ``threading``: a ``select`` of gevent waits
for the descriptor without blocking other greenlets. ``put`` and ``get`` block the whole thread while they wait.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from shmqueue.connection_wait import look_in_wait
from shmqueue.engine import Engine
from shmqueue.exceptions import ShmQueueCorruptedError, ShmQueueNotInitializedError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment.descriptor import Descriptor
from shmqueue.segment.locks import changing
from shmqueue.threads import Guard, WeakRegistry, new_lock, start_daemon_thread, stop_at_end

if TYPE_CHECKING:
    pass

try:
    from shmqueue.engine.native import Ring
except ImportError:
    if not TYPE_CHECKING:
        Ring = None

__all__ = ["QueueDescriptor", "Watcher", "watch", "watch_no_more"]

_PACE = 0.001  # seconds between looks at a queue that is not empty: to wait for its end would slow down every get
_SLOWEST_PACE = 0.05
_LONGEST_WAIT = 0.5  # seconds; an item may have come, made the descriptor readable, and gone before the wait began
_END_PACE = 0.2  # seconds between looks whether a process is left that could put

_NO_DESCRIPTOR, _NOT_READABLE, _READABLE, _BEING_CHANGED = range(4)  # python_ring.h: enum descriptor


class Watcher:
    """One process's descriptor for one engine, and the thread that keeps it up to date.

    A queue that was shut down for all counts as one with something to take: a get does not wait. The thread ends when
    the engine is closed. It holds nothing that closes the engine by being collected.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._signal = _Signal()
        self._lock = Guard()  # held while the descriptor is compared with the queue
        self._is_looking = False  # what a signal handler or finalizer in the middle of that sees as the lock's owner
        self._look_again = False
        self._nudge = new_lock()  # open: the thread is to look now. Unlike an Event it may be interrupted
        self._nudge.acquire()
        self._is_closed = False
        self._is_over = False

    def start(self) -> None:
        """Start the thread that keeps the descriptor true. ``look`` makes it so."""
        if not self._may_start(self._watch):
            self._is_over = True  # nothing would keep it true: a select returns, until the interpreter has ended

    def watch_for_end(self, is_over: Callable[[], bool]) -> None:
        """Make the descriptor true for good once ``is_over`` returns True: a get does not wait, it raises."""

        pause = new_lock()
        pause.acquire()

        def watch() -> None:
            while not self._is_closed:
                try:
                    self._is_over = self._is_over or is_over()
                    if self._is_over and self.look() and self._signal.is_set:
                        return
                except (ShmQueueNotInitializedError, ShmQueueCorruptedError):
                    return
                except (MemoryError, OSError):
                    pass  # the next time, or a select would wait for ever
                pause.acquire(timeout=_END_PACE)

        self._may_start(watch)

    def _may_start(self, target: Callable[[], object]) -> bool:
        try:
            start_daemon_thread(target)
        except RuntimeError as error:
            if "interpreter shutdown" not in str(error):  # there are too many threads
                raise
            return False
        return True

    def fileno(self) -> int:
        """The descriptor; -1 when closed. Another one if the program has closed the last one."""
        number = self._signal.number
        if number >= 0 or self._is_closed:
            return number
        self._under_lock(self._renew)
        self.look()
        return self._signal.number

    def look(self) -> bool:
        """Make the descriptor agree with the queue.

        False: memory or the stack lacks room for that. The thread does it soon.
        """
        try:
            self._under_lock(self._look)
        except (RecursionError, MemoryError):
            return False
        return True

    def _look(self, held: bool) -> None:
        self._look_again = True
        if self._is_looking or not held:
            self._wake_thread()  # should the look that is going on be at its end already
            return
        try:
            self._is_looking = True
            while self._look_again:
                self._look_again = False
                self._tell_engine(_BEING_CHANGED)  # before the look at the queue
                self._signal.set(self._is_ready())
                self._tell_engine(_READABLE if self._signal.is_set else _NOT_READABLE)
        finally:
            self._is_looking = False
            self._close_if_asked()
        if not self._signal.is_set:
            self._wake_thread()  # it may be pacing, and has to wait for the next item now

    def _renew(self, held: bool) -> None:
        if held and self._signal.number < 0:
            self._signal = _Signal()

    def close(self) -> None:
        """Close the descriptor. The engine is closed before or after it, and ends the thread."""
        self._is_closed = True
        self._wake_thread()
        self._under_lock(self._close)

    def _close(self, held: bool) -> None:
        if held and not self._is_looking:
            self._close_if_asked()  # else the look that is going on, or the thread, does it

    def _close_if_asked(self) -> None:
        if self._is_closed:
            self._signal.close()

    def _under_lock(self, act: Callable[[bool], None]) -> None:
        """Call ``act`` with the lock held, or without it where waiting could last for ever: it receives which.

        A thread that looks may collect a queue, which waits for ``changing``. So a thread that has ``changing``, in a
        signal handler or finalizer, does not wait for that one.
        """
        lock = self._lock()
        if not _has(changing()):
            with lock:  # no generator holds it: an exception before the block's first line could leave it taken
                act(True)
        elif lock.acquire(blocking=False):
            try:
                act(True)
            finally:
                lock.release()
        else:
            act(False)

    def abandon(self) -> None:
        """Close the descriptor in a forked child, where there is no thread and any lock may be held for ever."""
        self._tell_engine(_NO_DESCRIPTOR)
        self._signal.close()

    def _tell_engine(self, state: int) -> None:
        if Ring is not None and isinstance(self._engine, Ring):
            self._engine.descriptor = state

    def _is_ready(self) -> bool:
        try:
            return self._is_over or self._engine.wait(True, 0)
        except not_of_handler(ShmQueueNotInitializedError):
            return False
        except not_of_handler(ShmQueueCorruptedError):
            return True  # a get does not wait: it raises

    def _watch(self) -> None:
        try:
            while not self._is_closed:
                try:
                    self._keep_true()
                except MemoryError:  # without this thread a select would wait for ever
                    self._nudge.acquire(timeout=_SLOWEST_PACE)
        except (ShmQueueNotInitializedError, ShmQueueCorruptedError):
            pass
        finally:
            with self._lock():
                self._close_if_asked()

    def _keep_true(self) -> None:
        pace = _PACE
        while not self._is_closed:
            if not self.look():
                self._nudge.acquire(timeout=_SLOWEST_PACE)
            elif self._signal.is_set is not False:  # also where another thread's look ended half-way
                self._nudge.acquire(timeout=pace)
                pace = min(2 * pace, _SLOWEST_PACE)
                self._engine.wait(True, 0)  # raises once it is closed, also when the descriptor is true for good
            else:
                self._engine.wait(True, _LONGEST_WAIT)
                pace = _PACE

    def _wake_thread(self) -> None:
        try:
            self._nudge.release()
        except not_of_handler(RuntimeError):
            pass  # it was open already


def _has(lock: Any) -> bool:
    """Whether this thread has a reentrant lock."""
    return bool(lock._is_owned())


# ---- the descriptors of this process ----


class Watched(Protocol):
    """What has a descriptor."""

    def look(self) -> None:
        """Make the descriptor true."""

    def has_descriptor_in(self, descriptors: Iterable[int]) -> bool:
        """Whether its descriptor was made and is one of these."""
        ...

    def after_fork_in_child(self) -> None:
        """Called in a forked child: the watcher's thread stayed with the parent, and so must its descriptor."""

    def at_end(self) -> None:
        """Called at the end of an interpreter whose process goes on: the queue is closed, for the thread to end."""


_watched: WeakRegistry[Any] = WeakRegistry()


def watch(watched: Watched) -> None:
    """Have it told of forks and of ``multiprocessing.connection.wait``."""
    look_in_wait(_look_at)
    _watched.add(watched)


def watch_no_more(watched: Watched) -> None:
    """Idempotent."""
    _watched.discard(watched)


def _look_at(descriptors: Iterable[int]) -> bool:
    """Make those of the descriptors true that are queues'. Returns whether there is one among them."""
    found = [watched for watched in _watched if watched.has_descriptor_in(descriptors)]
    for watched in found:
        watched.look()
    return bool(found)


def _after_fork_in_child() -> None:
    for watched in _watched:
        watched.after_fork_in_child()
    _watched.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _close_all_at_end() -> None:
    for watched in _watched:
        watched.at_end()


stop_at_end(_close_all_at_end)


# ---- for a queue that uses its engine itself ----

_CHANGING = {
    *("put", "put_item", "put_items", "put_many", "reserve"),
    *("get", "get_item", "get_items", "get_many", "lease", "lend", "take"),
    *("clear", "shut_down"),
}


class QueueDescriptor:
    """The descriptor of one queue in this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._watcher: Watcher | None = None
        self._is_over: Callable[[], bool] | None = None

    def looking_engine(self) -> Engine:
        """The engine for all that changes the queue: the descriptor is true whenever a call returns."""
        engine: Any = _Looking(self._engine, self.look)
        return engine  # type: ignore[no-any-return]

    def fileno(self) -> int:
        """The number; it is made when there is none."""
        with changing():
            if self._watcher is None:
                watcher = Watcher(self._engine)
                try:
                    if self._is_over is not None:
                        watcher.watch_for_end(self._is_over)
                    watcher.start()
                except BaseException:  # without its thread the descriptor would not be kept true
                    watcher.close()
                    raise
                self._watcher = watcher
                watch(self)
        self.look()
        return self._watcher.fileno()

    def watch_for_end(self, is_over: Callable[[], bool]) -> None:
        """``Watcher.watch_for_end``, for the descriptor that there is and those that will be made."""
        self._is_over = is_over
        if self._watcher is not None:
            self._watcher.watch_for_end(is_over)

    def look(self) -> None:
        """Make the descriptor true, if there is one."""
        watcher = self._watcher
        if watcher is not None:
            watcher.look()

    def close(self) -> None:
        """Close it; the engine is closed before or after it. Idempotent."""
        if self._watcher is not None:
            self._watcher.close()
        watch_no_more(self)

    def has_descriptor_in(self, descriptors: Iterable[int]) -> bool:
        """See ``Watched``."""
        return self._watcher is not None and self._watcher.fileno() in descriptors

    def after_fork_in_child(self) -> None:
        """See ``Watched``."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.abandon()

    def at_end(self) -> None:
        """See ``Watched``."""
        self.close()
        self._engine.close()


class _Looking:
    """An engine whose descriptor is true whenever one of its calls returns."""

    def __init__(self, engine: Engine, look: Callable[[], None]) -> None:
        self._engine, self._look = engine, look

    def __getattr__(self, name: str) -> Any:
        value: Any = getattr(self._engine, name)
        if name not in _CHANGING:
            return value
        look = self._look

        @functools.wraps(value)
        def call_and_look(*arguments: Any) -> Any:
            try:
                return value(*arguments)
            finally:
                try:
                    look()
                except (RecursionError, MemoryError):  # no room for that call: the thread looks. What was put stays put
                    pass

        setattr(self, name, call_and_look)
        return call_and_look


class _Signal:
    """A descriptor that can be made readable or not: a pipe, open for both at once where the system allows that.

    It is no eventfd, for those share one inode: another one at this number could not be told apart.
    """

    def __init__(self) -> None:
        numbers = [*Descriptor.opened(os.pipe)]  # those to be closed if an exception comes
        to_read, to_write = numbers
        try:
            try:
                way = f"/proc/self/fd/{to_read}"
                both = Descriptor.opened(os.open, way, os.O_RDWR | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
            except not_of_handler(AttributeError, OSError):
                if hasattr(os, "set_blocking"):
                    os.set_blocking(to_read, False)
            else:
                numbers = [both, to_read, to_write]
                while len(numbers) > 1:
                    end = numbers[-1]
                    del numbers[-1]
                    os.close(end)
                to_read = to_write = both
            self._to_read = Descriptor(to_read)
            self._to_write = self._to_read if to_read == to_write else Descriptor(to_write)
        except BaseException:
            for number in numbers:
                os.close(number)
            raise
        self.is_set: bool | None = False

    @property
    def number(self) -> int:
        """The descriptor; -1 when it is closed, by whomever."""
        return self._to_read.number

    def set(self, readable: bool) -> None:
        if readable is self.is_set:
            return
        number = (self._to_write if readable else self._to_read).number
        if number < 0:
            self.is_set = readable  # as if it were there: a loop that waits for a change must not spin
            return
        self.is_set = None  # neither: should a signal handler raise half-way, the next call puts it right
        try:
            if readable:
                os.write(number, b"!")
            else:
                os.read(number, 4096)
        except not_of_handler(OSError) as error:
            if error.errno not in (errno.EAGAIN, errno.EBADF):  # it was empty, or the program has closed it
                raise
        self.is_set = readable

    def close(self) -> None:
        self._to_read.close()
        self._to_write.close()

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing() and hasattr(self, "_to_write"):  # then the names in this module may be gone
            self.close()
