"""``asyncio.Queue``, shared between processes: ``from shmqueue.compat.asyncio import Queue``.

The coroutines wait without a thread for each: one thread of the process waits for all queues. A coroutine that is
cancelled has taken nothing, and put nothing. It works under asyncio and uvloop, and under trio.

``put_nowait`` and ``get_nowait`` never block the event loop for more than a few milliseconds: while another process has
the queue's lock, and is stopped, they raise ``QueueFull`` and ``QueueEmpty``. Packing and copying an item takes its
time. The portable engine is slower, and looks for items up to 50 times a second.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Callable, Coroutine, Generator, Iterable
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

from shmqueue.arguments import require_int
from shmqueue.channel import Channel
from shmqueue.dead_letters import DeadLetterQueue
from shmqueue.exceptions import ShmQueueEmpty, ShmQueueFull, ShmQueueShutDown
from shmqueue.fast_paths import fast_get, fast_get_coroutine, fast_put, fast_put_coroutine
from shmqueue.generics import Self, T
from shmqueue.leases import Lease
from shmqueue.readiness import FINISHED, ITEMS, ROOM
from shmqueue.threads import WeakRegistry

from . import queue as _synchronous
from ._absent import refuse_name
from ._adapter import Adapter, refuse_text
from ._event_loops import Line, Refused, current_loop, running_loop

__all__ = ["Queue", "QueueEmpty", "QueueFull", "QueueShutDown"]

_R = TypeVar("_R")

_LOCK_PATIENCE = 0.001
"""Seconds that an attempt waits for a lock that another process has: a living owner has it for microseconds.

A call makes up to two attempts in one step of the event loop.
"""


class QueueEmpty(ShmQueueEmpty, asyncio.QueueEmpty):
    """``asyncio.QueueEmpty`` and ``queue.Empty``."""


class QueueFull(ShmQueueFull, asyncio.QueueFull):
    """``asyncio.QueueFull`` and ``queue.Full``."""


if sys.version_info >= (3, 13):

    class QueueShutDown(ShmQueueShutDown, asyncio.QueueShutDown):
        """``asyncio.QueueShutDown`` and ``queue.ShutDown``."""

else:

    class QueueShutDown(ShmQueueShutDown):
        """``queue.ShutDown``; also ``asyncio.QueueShutDown`` from Python 3.13 on."""


class Queue(Adapter, Generic[T]):
    """``asyncio.Queue``, shared between processes.

    It may be made with a running loop or without, and used by several loops in several threads. Pickled, it is the same
    queue in another process.

    Args:
        maxsize: most items; 0 or less, as many as there is memory for.
        name: makes the queue one that any process of this user can open by this name, also as ``ShmQueue(name)`` and
            ``shmqueue.compat.queue.Queue(name=name)``; its creator's ``maxsize`` and ``max_bytes`` hold. None, it can
            only be passed on.
        max_bytes: most bytes of items, at which put waits as if the queue were full; None or 0, all the memory that the
            file system of the segments has.
        keep: True, the queue outlives its holders, until ``shmqueue rm``; needs a name, and its creator decides.

    Warns:
        ShmQueueShapeWarning: the queue called ``name`` exists with another ``maxsize`` or ``max_bytes`` than the limit
            given.
    """

    def __init__(
        self, maxsize: float = 0, *, name: str | None = None, max_bytes: int | None = None, keep: bool = False
    ) -> None:
        refuse_text(maxsize)
        items = 0 if maxsize <= 0 or maxsize == math.inf else math.ceil(maxsize)
        self._open(name, maxsize=items or None, max_bytes=max_bytes, keep=keep)

    def _start(self, channel: Channel) -> None:
        channel.handle.engine.lock_patience = _LOCK_PATIENCE
        super()._start(channel)
        self._lines: dict[tuple[object, int], Line] = {}
        self._sync_queue: _synchronous.Queue[T] | None = None
        _open_queues.add(self)

    # ---- put ----

    @fast_put_coroutine
    async def put(self, item: T) -> None:
        """Put an item at the end; wait for room. What is put is a copy of the item as it is when this is called.

        Raises:
            QueueShutDown: the queue was shut down.
            Exception: what pickling raises; nothing was put.
        """
        is_turn_over = self._is_turn_over()
        if not self._lines and not is_turn_over:
            try:
                self.put_nowait(item)
            except QueueFull:
                pass
            else:
                return
        self._channel.require_open()
        record = self._channel.codec.dump_rest(item)
        await self._until(ROOM, lambda: self._attempt_record(record), is_turn_over)

    @fast_put(as_pickle=True)
    def put_nowait(self, item: T) -> None:
        """Put an item at the end if there is room.

        Raises:
            QueueFull: there is none.
            QueueShutDown: the queue was shut down.
            Exception: what pickling raises; nothing was put.
        """
        try:
            self._channel.put(item, False, None)
        except ShmQueueFull as full:
            raise _as_full(full) from None
        except ShmQueueShutDown as error:
            raise QueueShutDown(*error.args) from None
        if self._lines:
            self._call(ITEMS)

    async def put_many(self, items: Iterable[T]) -> None:
        """Put several items with nothing in between, all or none; more than the queue can ever hold, in pieces.

        Raises:
            QueueShutDown: the queue was shut down; its ``items_put`` says how many were put before.
            Exception: as ``put``.
        """
        rest, done = list(items), 0

        def attempt() -> None:
            nonlocal done
            try:
                self._channel.put_many(rest, False, None)
            except ShmQueueFull as full:
                done += full.items_put
                del rest[: full.items_put]
                raise Refused(full.is_busy) from None
            except ShmQueueShutDown as error:
                shut = QueueShutDown(*error.args)
                shut.items_put = done + error.items_put
                raise shut from None
            except BaseException as error:
                error.items_put = done + getattr(error, "items_put", 0)  # type: ignore[attr-defined]
                raise
            self._call(ITEMS)

        await self._until(ROOM, attempt, self._is_turn_over())

    def _attempt_record(self, record: tuple[int, Any]) -> None:
        try:
            put = self._channel.put_record(*record, False, None)
        except ShmQueueFull as full:
            raise Refused(full.is_busy) from None
        except ShmQueueShutDown as error:
            raise QueueShutDown(*error.args) from None
        if not put:
            raise Refused
        self._call(ITEMS)

    # ---- get ----

    @fast_get_coroutine
    async def get(self) -> T:
        """Take the oldest item; wait for one.

        Raises:
            QueueShutDown: there is none, and the queue was shut down.
            Exception: what unpickling raises; the item is consumed, and the next one comes next.
        """
        is_turn_over = self._is_turn_over()
        if not self._lines and not is_turn_over:
            try:
                return self.get_nowait()
            except QueueEmpty:
                pass
        return await self._until(ITEMS, self._take, is_turn_over)

    @fast_get
    def get_nowait(self) -> T:
        """Take the oldest item if there is one.

        Raises:
            QueueEmpty: there is none.
            QueueShutDown: there is none, and the queue was shut down.
            Exception: what unpickling raises; the item is consumed.
        """
        try:
            item = self._channel.take(False, None)
        except ShmQueueEmpty as empty:
            raise _as_empty(empty) from None
        except ShmQueueShutDown as error:
            raise QueueShutDown(*error.args) from None
        if self._lines:
            self._call(ROOM)
        return self._channel.loaded(item)  # type: ignore[no-any-return]

    async def get_many(self, max_items: int) -> list[T]:
        """Take up to ``max_items`` of the oldest items at once: what is there, waiting only for the first.

        It may be fewer than there are: an item that comes again after a lease comes alone, and so may one of 32 KiB or
        more; otherwise the items of one call take 1 MiB together at most.

        Args:
            max_items: most items to take, at least 1.

        Raises:
            QueueShutDown: as ``get``.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could. All
                are consumed.
        """
        require_int("max_items", max_items, least=1)

        def attempt() -> list[T]:
            try:
                items: list[T] = self._channel.get_many(max_items, False, None)
            except ShmQueueEmpty as empty:
                raise Refused(empty.is_busy) from None
            except ShmQueueShutDown as error:
                raise QueueShutDown(*error.args) from None
            self._call(ROOM)
            return items

        return await self._until(ITEMS, attempt, self._is_turn_over())

    def _take(self) -> T:
        try:
            return self.get_nowait()
        except QueueEmpty as empty:
            raise Refused(empty.is_busy) from None

    def __aiter__(self) -> Self:
        """``async for item in queue``: all items, until the queue is shut down and empty."""
        return self

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except QueueShutDown:
            raise StopAsyncIteration from None

    def lease(self, *, max_attempts: int | None = None, dead_letter: DeadLetterQueue | None = None) -> Leasing[T]:
        """Take the oldest item so that it comes again if this process does not finish it; wait for one.

        ``async with q.lease() as lease:`` acknowledges it at the end, and requeues it if the block raises or is
        cancelled. ``lease = await q.lease()`` leaves both to the caller. See ``shmqueue.compat.queue.Queue.lease``.

        Args:
            max_attempts: how often an item is handed out; it then goes to ``dead_letter``. None, without limit.
            dead_letter: a queue that is not asynchronous, such as ``sync_queue`` of another one. Nothing waits for room
                in it.

        Raises:
            ShmQueueFull: the dead-letter queue has no room; the item was requeued.
            QueueShutDown: as ``get``.
            ShmQueueError: 1,024 items are leased, which is the most for one queue. (On the portable engine they have as
                many bytes together as the queue can hold, and the next one waits for theirs.)
        """

        def attempt() -> Lease[T]:
            try:
                return self.lease_nowait(max_attempts=max_attempts, dead_letter=dead_letter)
            except QueueEmpty as empty:
                raise Refused(empty.is_busy) from None

        waiting = self._until(ITEMS, attempt)
        waiting.__qualname__ = "Queue.lease"  # type: ignore[attr-defined]  # what Python calls one that nobody awaits
        return Leasing(waiting)

    def lease_nowait(self, *, max_attempts: int | None = None, dead_letter: DeadLetterQueue | None = None) -> Lease[T]:
        """``lease``, if there is an item.

        Raises:
            QueueEmpty: there is none, or on the portable engine no room for it.
            QueueShutDown, ShmQueueError: as ``lease``.
        """
        try:
            return self._channel.lease(False, None, max_attempts, dead_letter)
        except ShmQueueEmpty as empty:
            raise _as_empty(empty) from None
        except ShmQueueShutDown as error:
            raise QueueShutDown(*error.args) from None

    # ---- tasks ----

    def task_done(self) -> None:
        """Mark one retrieved item as processed.

        Raises:
            ValueError: more often than items were put.
        """
        self._channel.task_done()
        if self._lines:
            self._call(FINISHED)

    async def join(self) -> None:
        """Wait until ``task_done`` was called for every item put, in whichever process."""

        def attempt() -> None:
            if self._channel.counters().unfinished:
                raise Refused

        await self._until(FINISHED, attempt)

    # ---- the queue ----

    @property
    def maxsize(self) -> int:
        """Most items, 0 for as many as there is memory for."""
        return self._channel.maxsize

    def qsize(self) -> int:
        """Items in the queue. Other processes may change it at any time, as with ``empty`` and ``full``."""
        return self._channel.qsize()

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return self._channel.qsize() == 0

    def full(self) -> bool:
        """Whether there are ``maxsize`` items."""
        return self.qsize() >= self.maxsize > 0

    def shutdown(self, immediate: bool = False) -> None:
        """Shut the queue down for all processes: put raises QueueShutDown from now on, get when nothing is left.

        Args:
            immediate: also drop the items that are queued; they count as done.
        """
        self._channel.engine.shut_down(immediate)
        for kind in (ITEMS, ROOM, FINISHED):
            self._call(kind)

    @property
    def sync_queue(self) -> _synchronous.Queue[T]:
        """The same queue for code that is not asynchronous, such as other threads; closed with this one."""
        if self._sync_queue is None:
            synchronous: _synchronous.Queue[T] = _synchronous.Queue.__new__(_synchronous.Queue)
            synchronous.__setstate__(self._channel.handle.travel())
            self._sync_queue = synchronous
        return self._sync_queue

    def close(self) -> None:
        """Close the queue in this process; every other call then raises, coroutines that wait included. Idempotent.

        Closing the last handle of all processes frees the memory.
        """
        if self._sync_queue is not None:
            self._sync_queue.close()
        super().close()
        for kind in (ITEMS, ROOM, FINISHED):
            self._call(kind)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    async def _until(self, kind: int, attempt: Callable[[], _R], is_turn_over: bool = False) -> _R:
        """What ``attempt`` returns when it does not raise ``Refused``, each coroutine of this loop in its turn.

        Args:
            is_turn_over: whether to let the loop's other tasks run first.
        """
        loop = current_loop()
        key = loop.key, kind
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(loop, self._channel.handle.engine, kind)
        try:
            self._look_for_waiting()
            return await line.until(attempt, is_turn_over)
        finally:
            if not len(line) and self._lines.get(key) is line:
                del self._lines[key]
            self._look_for_waiting()

    def _look_for_waiting(self) -> None:
        """Each put and get has to look for coroutines that wait, while there are any."""
        is_needed = None
        while is_needed is not bool(self._lines):  # another loop's thread may have changed them meanwhile
            is_needed = bool(self._lines)
            self._channel.look_for_waiting(is_needed)

    def _call(self, kind: int) -> None:
        """Have the first coroutine of the caller's loop that waits for this try again, before the thread says so."""
        line = self._lines.get((running_loop(), kind))
        if line is not None:
            line.call_first()


class Leasing(Generic[T]):
    """What ``Queue.lease`` returns: to be awaited, or for ``async with``."""

    def __init__(self, lease: Coroutine[Any, Any, Lease[T]]) -> None:
        self._coroutine = lease
        self._lease: Lease[T] | None = None

    def __await__(self) -> Generator[Any, None, Lease[T]]:
        return self._coroutine.__await__()

    async def __aenter__(self) -> Lease[T]:
        self._lease = await self._coroutine
        return self._lease.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._lease is not None
        self._lease.__exit__(kind, error, traceback)


def _as_empty(error: ShmQueueEmpty) -> QueueEmpty:
    empty = QueueEmpty(*error.args)
    empty.is_busy = error.is_busy
    return empty


def _as_full(error: ShmQueueFull) -> QueueFull:
    full = QueueFull(*error.args)
    full.is_busy = error.is_busy
    return full


_open_queues: WeakRegistry[Queue[Any]] = WeakRegistry()


def _after_fork_in_child() -> None:
    """The coroutines that wait stayed with the parent, as its event loops did."""
    for queue in _open_queues:
        queue._lines.clear()
        queue._look_for_waiting()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def __getattr__(name: str) -> NoReturn:
    refuse_name(__name__, name)
