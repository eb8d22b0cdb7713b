"""The queues of ``shmqueue.compat.multiprocessing``.

They are instances of the classes in ``multiprocessing.queues`` and do as those do, without pipe, locks and feeder
thread. This module is imported when the first of them is made, as ``multiprocessing.queues`` is.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from multiprocessing import queues
from typing import TYPE_CHECKING

from shmqueue.arguments import real_seconds
from shmqueue.dead_letters import DeadLetterQueue
from shmqueue.fast_paths import fast_get, fast_lease, fast_put
from shmqueue.generics import T
from shmqueue.leases import Lease

from ._adapter import refuse_text
from ._pipe_emulation import PipeEmulation

if TYPE_CHECKING:
    from multiprocessing.queues import JoinableQueue as _StdlibJoinableQueue
    from multiprocessing.queues import Queue as _StdlibQueue
    from multiprocessing.queues import SimpleQueue as _StdlibSimpleQueue
else:  # not all of them can be subscripted
    _StdlibQueue, _StdlibJoinableQueue, _StdlibSimpleQueue = (
        {T: queue} for queue in (queues.Queue, queues.JoinableQueue, queues.SimpleQueue)
    )

__all__ = ["JoinableQueue", "Queue", "SimpleQueue"]

_PIPE_CAPACITY = 65536  # bytes
_UNBOUNDED = (1 << 31) - 1  # what the standard queue's _maxsize is then: the most that a semaphore counts


def _seconds(timeout: float | None, block: bool) -> float | None:
    """A timeout of any real number; less than 0 counts as 0. It is not looked at unless ``block``."""
    return None if timeout is None or not block else max(0.0, real_seconds(timeout))


class Queue(PipeEmulation, _StdlibQueue[T]):
    """``multiprocessing.Queue`` in shared memory.

    Args:
        maxsize: most items; 0 or less, as many as there is memory for.
        name: makes the queue one that any process of this user can open by this name; its creator's ``maxsize`` and
            ``max_bytes`` hold, and ``ShmQueueShapeWarning`` tells of another one given here. None, it can only be
            passed on.
        max_bytes: most bytes of items, at which put blocks as if the queue were full; None or 0, all the memory that
            the file system of the segments has.
        keep: True, the queue outlives its holders, until ``shmqueue rm``; needs a name, and its creator
            decides.
        ctx: accepted as the standard class does; these queues are the same in all contexts.
    """

    def __init__(
        self,
        maxsize: int = 0,
        *,
        name: str | None = None,
        max_bytes: int | None = None,
        keep: bool = False,
        ctx: object = None,
    ) -> None:
        refuse_text(maxsize)
        items = max(0, operator.index(maxsize))
        self._open(name, maxsize=items or None, max_bytes=max_bytes, keep=keep)

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[T]: ...

    @property
    def _maxsize(self) -> int:
        return self._channel.maxsize or _UNBOUNDED

    @property
    def _closed(self) -> bool:
        return not self._channel.handle.is_open

    @fast_put(as_pickle=True)
    def put(self, obj: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item at the end. It is in the queue when this returns.

        Args:
            obj: a copy of it is put, so changing it afterwards changes nothing in the queue.
            block: whether to wait for room.
            timeout: seconds to wait for at most, None for ever; less than 0 counts as 0; ignored unless ``block``.

        Raises:
            queue.Full: there was no room in time.
            ValueError: the queue was closed in this process.
            Exception: what pickling raises; nothing was put, as with the others.
        """
        self._channel.put(obj, block, _seconds(timeout, block))

    @fast_get
    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item.

        Args:
            block: whether to wait for one.
            timeout: seconds to wait for at most, None for ever; less than 0 counts as 0; ignored unless ``block``.

        Raises:
            queue.Empty: there was none in time.
            ValueError: the queue was closed in this process.
            Exception: what unpickling raises; the item is consumed, and the next one comes next.
        """
        return self._channel.get(block, _seconds(timeout, block))  # type: ignore[no-any-return]

    def put_nowait(self, obj: T) -> None:
        """``put(obj, False)``."""
        self.put(obj, False)

    def get_nowait(self) -> T:
        """``get(False)``."""
        return self.get(False)

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put several items with nothing in between, all or none; more than the queue can ever hold, in pieces.

        Arguments and exceptions are those of ``put``.

        Raises:
            ShmQueueFull: its ``items_put`` says how many of a batch larger than the queue were put.
        """
        self._channel.put_many(items, block, _seconds(timeout, block))

    def get_many(self, max_items: int, timeout: float | None = None, *, block: bool = True) -> list[T]:
        """Take up to ``max_items`` of the oldest items at once: what is there, waiting only for the first.

        It may be fewer than there are: an item that comes again after a lease comes alone, and so may one of 32 KiB or
        more; otherwise the items of one call take 1 MiB together at most.

        Args:
            max_items: most items to take, at least 1.
            timeout: seconds to wait for the first one at most, None for ever, 0 not at all; ignored unless ``block``.
            block: whether to wait for the first one.

        Raises:
            queue.Empty: there was none in time.
            ValueError: the queue was closed in this process.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could. All
                are consumed.
        """
        return self._channel.get_many(max_items, block, _seconds(timeout, block))

    @fast_lease
    def lease(
        self,
        block: bool = True,
        timeout: float | None = None,
        *,
        max_attempts: int | None = None,
        dead_letter: DeadLetterQueue | None = None,
    ) -> Lease[T]:
        """Take the oldest item so that it comes again if this process does not finish it.

        The item stays the queue's until ``ack()``: if this process is killed, calls ``requeue()``, closes the queue or
        loses the lease, another ``get`` or ``lease`` receives it at once, before any newer item. (Calls look for killed
        processes every 100 ms: one that does not wait may return a newer item before that.) With a block, ``with
        q.lease() as lease:``, it is acknowledged at the end, and requeued if the block raises. Acknowledging counts as
        ``task_done()`` for this item.

        Args:
            block: whether to wait for an item.
            timeout: seconds to wait for at most, None for ever; less than 0 counts as 0; ignored unless ``block``.
            max_attempts: how often an item is handed out. One that would be handed out once more is put to
                ``dead_letter`` and acknowledged, and the next one is leased. ``block`` and ``timeout`` hold for waiting
                for room there as well.
            dead_letter: any queue; one of this package gets the item as it is, even if it cannot be loaded. A process
                killed while it moves an item has it moved again: it may arrive there twice.

        Raises:
            queue.Empty: there was none in time. On the portable engine also if there was no room: leased items have as
                many bytes together as the queue can hold, and the next one waits for theirs.
            ValueError: the queue was closed in this process.
            queue.Full: ``dead_letter`` has no room; the item was requeued. As with any exception of its ``put``.
            ShmQueueError: 1,024 items are leased, which is the most for one queue.
        """
        return self._channel.lease(block, _seconds(timeout, block), max_attempts, dead_letter)

    def _put_record(self, method: int, payload: bytes, block: bool, timeout: float | None) -> bool:
        return self._channel.put_unchanged(method, payload, block, timeout)

    def qsize(self) -> int:
        """Items in the queue, on every platform. Others may change it at any time, as with the two below."""
        return self._channel.qsize()

    def full(self) -> bool:
        """Whether there are ``maxsize`` items."""
        return self.qsize() >= self._channel.maxsize > 0

    def empty(self) -> bool:
        """Whether there is nothing to take.

        Raises:
            OSError: the queue, or its ``_reader``, was closed in this process.
        """
        return self._channel.is_empty()

    def join_thread(self) -> None:
        """Nothing to wait for: what was put is in the queue. As with the standard queue, only after ``close``."""
        assert self._closed, f"Queue {self!r} not closed"

    def cancel_join_thread(self) -> None:
        """Does nothing: no thread has anything to lose or to wait for."""


class JoinableQueue(Queue[T], _StdlibJoinableQueue[T]):
    """``multiprocessing.JoinableQueue`` in shared memory."""

    def task_done(self) -> None:
        """Mark one retrieved item as processed, in whichever process it was taken.

        Raises:
            ValueError: more often than items were put, or the queue was closed in this process.
        """
        self._channel.task_done()

    def join(self) -> None:
        """Wait until ``task_done`` was called for every item put.

        Raises:
            ValueError: the queue was closed in this process.
        """
        self._channel.engine.join(None)


class SimpleQueue(PipeEmulation, _StdlibSimpleQueue[T]):
    """``multiprocessing.SimpleQueue`` in shared memory.

    As with the pipe of the standard one, put waits while there are 64 KiB or more in the queue.

    Args:
        name: as for ``Queue``.
        max_bytes: as for ``Queue``.
        keep: as for ``Queue``.
        ctx: accepted as the standard class does; these queues are the same in all contexts.
    """

    def __init__(
        self, *, name: str | None = None, max_bytes: int | None = None, keep: bool = False, ctx: object = None
    ) -> None:
        self._open(name, max_bytes=max_bytes, threshold=_PIPE_CAPACITY, keep=keep)

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[T]: ...

    @fast_put(as_pickle=True)
    def put(self, obj: T) -> None:
        """Put an item at the end; wait for room.

        Raises:
            OSError: the queue was closed in this process.
            Exception: what pickling raises; nothing was put.
        """
        self._channel.put(obj, True, None)

    @fast_get
    def get(self) -> T:
        """Take the oldest item; wait for one.

        Raises:
            OSError: the queue was closed in this process.
            Exception: what unpickling raises; the item is consumed, and the next one comes next.
        """
        return self._channel.get(True, None)  # type: ignore[no-any-return]

    def _put_record(self, method: int, payload: bytes, block: bool, timeout: float | None) -> bool:
        return self._channel.put_unchanged(method, payload, block, timeout)

    def empty(self) -> bool:
        """Whether there is nothing to take. Others may change it at any time.

        Raises:
            OSError: the queue, or its ``_reader``, was closed in this process.
        """
        return self._channel.is_empty()
