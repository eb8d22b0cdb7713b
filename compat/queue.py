"""``queue`` between processes: the standard module's interface and manners, on queues in shared memory.

>>> from shmqueue.compat import queue
>>> q = queue.Queue()
>>> q.put({"hello": "world"})
>>> q.get()
{'hello': 'world'}

A queue can be pickled, and with a name it can be opened from anywhere. What differs from the standard module: items are
copies, so they must be picklable; what is inside (``queue``, ``mutex``, the conditions) cannot be had; there are no
LifoQueue and PriorityQueue. The classes do not derive from the standard ones, whose methods would find nothing to work
on: ``isinstance`` tells them apart, and what is patched into ``queue.Queue`` is not called. To a type checker they do
derive, so that ``Queue[int]`` is accepted where ``queue.Queue[int]`` is annotated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from queue import Empty, Full
from typing import TYPE_CHECKING, Any, Generic, NoReturn

from shmqueue.any_queue import Iterated
from shmqueue.arguments import real_seconds
from shmqueue.attributes import absent_when_closed
from shmqueue.dead_letters import DeadLetterQueue
from shmqueue.exceptions import ShmQueueShutDown, ShutDown
from shmqueue.fast_paths import fast_get, fast_lease, fast_put, own_fast_paths
from shmqueue.generics import T
from shmqueue.interruptions import not_of_handler
from shmqueue.leases import Lease

from ._absent import Absent, refuse_hooks, refuse_name
from ._adapter import Adapter, refuse_text

__all__ = ["Empty", "Full", "Queue", "ShutDown", "SimpleQueue"]

if TYPE_CHECKING:
    from queue import Queue as _StandardQueue
    from queue import SimpleQueue as _StandardSimpleQueue
else:

    class _StandardQueue(Generic[T]):
        """What the classes are to a type checker, so that a queue can be passed where the standard one is annotated."""

        __slots__ = ()

    _StandardSimpleQueue = _StandardQueue

_SHARED = "the queue is shared between processes; "

_HOOKS = dict.fromkeys(
    ("_init", "_put", "_get", "_qsize"),
    "items come in the order of their puts; override put() and get() to change them on their way",
)


class _Shared(Adapter, Iterated, Generic[T]):
    """What Queue and SimpleQueue have in common."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        refuse_hooks(cls, _HOOKS, lambda base: False)

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[T]: ...

    @fast_get
    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item.

        Args:
            block: whether to wait for one.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            Empty: there was none in time.
            ShutDown: there is none, and the queue was shut down.
            Exception: what unpickling raises; the item is consumed, and the next one comes next.
        """
        if timeout is not None:
            timeout = self._seconds_of_get(timeout, block)
        return self._channel.get(block, timeout)  # type: ignore[no-any-return]

    def get_nowait(self) -> T:
        """``get(block=False)``."""
        return self.get(False)

    def qsize(self) -> int:
        """Items in the queue. Others may change it at any time, as with ``empty``."""
        return self._channel.qsize()

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return self._channel.qsize() == 0

    def _seconds_of_get(self, timeout: float, block: bool) -> float:
        if not block:
            return 0.0
        timeout = real_seconds(timeout)
        if timeout < 0:
            if self.empty():
                self._refuse_if_shut_down()
            raise ValueError("'timeout' must be a non-negative number")
        return timeout

    def _refuse_if_shut_down(self) -> None:
        if self._channel.counters().is_shut_down:
            raise ShmQueueShutDown(f"queue {self._channel.name!r} was shut down for all processes")


@own_fast_paths
class Queue(_Shared[T], _StandardQueue[T]):
    """``queue.Queue``, shared between processes.

    Args:
        maxsize: most items; 0 or less, as many as there is memory for.
        name: makes the queue one that any process of this user can open by this name, also as ``ShmQueue(name)``; its
            creator's ``maxsize`` and ``max_bytes`` hold. None, it can only be passed on.
        max_bytes: most bytes of items, at which put blocks as if the queue were full; None or 0, all the memory that
            the file system of the segments has.
        keep: True, the queue outlives its holders, until ``shmqueue rm``; needs a name, and its creator
            decides.

    Warns:
        ShmQueueShapeWarning: the queue called ``name`` exists with another ``maxsize`` or ``max_bytes`` than the limit
            given.
    """

    def __init__(
        self, maxsize: int = 0, *, name: str | None = None, max_bytes: int | None = None, keep: bool = False
    ) -> None:
        self._open(name, maxsize=_most_items(maxsize) or None, max_bytes=max_bytes, keep=keep)

    @property
    def maxsize(self) -> int:
        """Most items, 0 for as many as there is memory for. Setting it changes it for all processes.

        Growing wakes blocked puts; when it shrinks, the items that are in the queue stay.
        """
        return self._channel.maxsize

    @maxsize.setter
    def maxsize(self, maxsize: float) -> None:
        self._channel.maxsize = _most_items(maxsize)

    @fast_put(as_pickle=True)
    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item at the end.

        Args:
            item: a copy of it is put, so changing it afterwards changes nothing in the queue.
            block: whether to wait for room.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            Full: there was no room in time.
            ShutDown: the queue was shut down.
            Exception: what pickling raises; nothing was put, as with the others.
        """
        if timeout is not None:
            timeout = self._seconds_of_put(timeout, block)
        self._channel.put(item, block, timeout)

    def put_nowait(self, item: T) -> None:
        """``put(item, block=False)``."""
        self.put(item, False)

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put several items with nothing in between, all or none; more than the queue can ever hold, in pieces.

        Arguments and exceptions are those of ``put``.

        Raises:
            ShmQueueFull: its ``items_put`` says how many of a batch larger than the queue were put.
        """
        if timeout is not None:
            timeout = self._seconds_of_put(timeout, block)
        self._channel.put_many(items, block, timeout)

    def get_many(self, max_items: int, timeout: float | None = None, *, block: bool = True) -> list[T]:
        """Take up to ``max_items`` of the oldest items at once: what is there, waiting only for the first.

        It may be fewer than there are: an item that comes again after a lease comes alone, and so may one of 32 KiB or
        more; otherwise the items of one call take 1 MiB together at most.

        Args:
            max_items: most items to take, at least 1.
            timeout: seconds to wait for the first one at most, None for ever, 0 not at all; ignored unless ``block``.
            block: whether to wait for the first one.

        Raises:
            Empty, ShutDown: as ``get``.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could. All
                are consumed.
        """
        if timeout is not None:
            timeout = self._seconds_of_get(timeout, block)
        return self._channel.get_many(max_items, block, timeout)

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
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.
            max_attempts: how often an item is handed out. One that would be handed out once more is put to
                ``dead_letter`` and acknowledged, and the next one is leased. ``block`` and ``timeout`` hold for waiting
                for room there as well.
            dead_letter: any queue; one of this package gets the item as it is, even if it cannot be loaded. A process
                killed while it moves an item has it moved again: it may arrive there twice.

        Raises:
            Empty, ShutDown: as ``get``. On the portable engine, Empty also if there was no room: leased items have as
                many bytes together as the queue can hold, and the next one waits for theirs.
            Full: ``dead_letter`` has no room; the item was requeued. As with any exception of its ``put``.
            ShmQueueError: 1,024 items are leased, which is the most for one queue.
        """
        if timeout is not None:
            timeout = self._seconds_of_get(timeout, block)
        return self._channel.lease(block, timeout, max_attempts, dead_letter)

    def _put_record(self, method: int, payload: bytes, block: bool, timeout: float | None) -> bool:
        return self._channel.put_unchanged(method, payload, block, timeout)

    def full(self) -> bool:
        """Whether there are ``maxsize`` items. Others may change it at any time."""
        return self.qsize() >= self.maxsize > 0

    def task_done(self) -> None:
        """Mark one retrieved item as processed, in whichever process it was taken.

        Raises:
            ValueError: more often than items were put.
        """
        self._channel.task_done()

    def join(self) -> None:
        """Wait until ``task_done`` was called for every item put."""
        self._channel.engine.join(None)

    @property
    @absent_when_closed
    def unfinished_tasks(self) -> int:  # type: ignore[override]
        """Items put for which ``task_done`` was not called yet; after ``close``, what it was then."""
        return self._channel.handle.state().unfinished

    def shutdown(self, immediate: bool = False) -> None:
        """Shut the queue down in all processes: put raises ShutDown from now on, get when nothing is left.

        Args:
            immediate: also drop the items that are queued; they count as done.
        """
        self._channel.engine.shut_down(immediate)

    @property
    @absent_when_closed
    def is_shutdown(self) -> bool:
        """Whether the queue was shut down; after ``close``, whether it was then."""
        return self._channel.handle.state().is_shut_down

    def _seconds_of_put(self, timeout: float, block: bool) -> float | None:
        if not block:
            return 0.0
        if self.maxsize == 0:
            try:
                return max(0.0, real_seconds(timeout))
            except not_of_handler(TypeError, ValueError):
                return None  # an unbounded queue does not look at it
        timeout = real_seconds(timeout)
        if timeout < 0:
            self._refuse_if_shut_down()
            raise ValueError("'timeout' must be a non-negative number")
        return timeout

    if TYPE_CHECKING:  # any use of them is a mistake
        queue: None
        mutex: None  # type: ignore[assignment]
        not_empty: None  # type: ignore[assignment]
        not_full: None  # type: ignore[assignment]
        all_tasks_done: None  # type: ignore[assignment]
    else:
        queue = Absent(_SHARED + "get() and get_many() take items, qsize() counts them")
        mutex = Absent(_SHARED + "each method is atomic; to do several at once, hold a multiprocessing.Lock")
        not_empty = Absent(_SHARED + "get() waits for an item, select() on the queue for one among other things")
        not_full = Absent(_SHARED + "put() waits for room")
        all_tasks_done = Absent(_SHARED + "join() waits for that")


@own_fast_paths
class SimpleQueue(_Shared[T], _StandardSimpleQueue[T]):
    """``queue.SimpleQueue``, shared between processes: unbounded, without tasks.

    Args:
        name: as for ``Queue``.
        max_bytes: as for ``Queue``.
        keep: as for ``Queue``.
    """

    def __init__(self, *, name: str | None = None, max_bytes: int | None = None, keep: bool = False) -> None:
        self._open(name, max_bytes=max_bytes, keep=keep)

    @fast_put(as_pickle=True)
    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Put an item at the end; ``block`` and ``timeout`` are there for those who know ``Queue``, and do nothing."""
        self._channel.put(item, True, None)

    def _put_record(self, method: int, payload: bytes, block: bool, timeout: float | None) -> bool:
        return self._channel.put_unchanged(method, payload, block, timeout)

    def put_nowait(self, item: T) -> None:
        """The same as ``put(item)``."""
        self.put(item)


def _most_items(maxsize: float) -> int:
    """Of any number that the standard queue takes; 0, there is no limit."""
    refuse_text(maxsize)
    return 0 if maxsize <= 0 or maxsize == math.inf else math.ceil(maxsize)


def __getattr__(name: str) -> NoReturn:
    refuse_name(__name__, name)
