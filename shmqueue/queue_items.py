"""What ``ShmQueue`` does with items: put, get, and lease them, one or several, as copies or in place.

Each method says what it takes and raises, and leaves the work to the channel; the native engine does the most ordinary
puts, gets and leases before that, see ``shmqueue.fast_paths``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Generic

from shmqueue.any_queue import Iterated
from shmqueue.arguments import require_seconds
from shmqueue.dead_letters import DeadLetterQueue
from shmqueue.fast_paths import fast_get, fast_lease, fast_put
from shmqueue.generics import T
from shmqueue.leases import Lease, View
from shmqueue.reservations import PutView
from shmqueue.serialization import SerializationMethods, Serializer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["QueueItems"]

_MSGPACK = SerializationMethods.MSGPACK


class QueueItems(Iterated, Generic[T]):
    """The part of ``ShmQueue`` that items go through."""

    _serializer: Serializer

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[T]: ...

    @fast_put(as_pickle=False)
    def put(
        self,
        data: T,
        block: bool = True,
        timeout: float | None = None,
        serialization_method: int = _MSGPACK,
    ) -> None:
        """Put an item at the end.

        Args:
            data: the item.
            block: whether to wait for room.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.
            serialization_method: see ``SerializationMethods``; by default msgpack, or pickle where msgpack would not
                keep the item as it is.

        Raises:
            ShmQueueFull: there was no room in time.
            ShmQueueShutDown: the queue was shut down for all.
            ShmQueueValueError: the item is larger than the whole buffer, or ``timeout`` is negative.
            ShmQueueSerializationError: the item cannot be serialized. Nothing was put, as with the others.
        """
        if timeout is not None:
            timeout = require_seconds(timeout, block)
        if serialization_method:
            self._channel.put_dumped(*self._serializer.dump(data, serialization_method), block, timeout)
        else:
            self._channel.put(data, block, timeout)

    @fast_get
    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Take the oldest item.

        Args:
            block: whether to wait for one.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            ShmQueueEmpty: there was none in time.
            ShmQueueShutDown: there is none, and the queue was shut down for all.
            ShmQueueDeserializationError: the item could not be loaded; it is consumed, the next one comes next.
        """
        if timeout is not None:
            timeout = require_seconds(timeout, block)
        return self._channel.get(block, timeout)  # type: ignore[no-any-return]

    def put_nowait(self, data: T) -> None:
        """``put(data, block=False)``."""
        self.put(data, False)

    def get_nowait(self) -> T:
        """``get(block=False)``."""
        return self.get(False)

    def put_many(self, items: Iterable[T], block: bool = True, timeout: float | None = None) -> None:
        """Put several items, one after the other and with nothing in between.

        Items that fit the buffer together are put all or not at all. More than that are put in pieces, each as large
        as the buffer allows, with the same deadline for all.

        Args:
            items: the items; all of them are serialized before the first is put.
            block: whether to wait for room.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            ShmQueueFull: there was no room in time. Its ``items_put`` says how many of a larger batch were put, as that
                of other exceptions does that end the wait for room (a shut-down, Ctrl-C).
            ShmQueueValueError, ShmQueueSerializationError: as ``put``, for any one of them; nothing was put.
        """
        if timeout is not None:
            timeout = require_seconds(timeout, block)
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
            ShmQueueEmpty: there was none in time.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could. All
                are consumed.
        """
        if timeout is not None:
            timeout = require_seconds(timeout, block)
        return self._channel.get_many(max_items, block, timeout)

    def put_view(self, length: int, block: bool = True, timeout: float | None = None) -> PutView:
        """Write an item where it lies, without a copy: ``with q.put_view(length) as view:``.

        ``view`` is a writable memoryview of ``length`` bytes in shared memory, whose values at first are not defined.
        When the block ends they are an item of type bytes, for ``get``, or ``get_view``, which reads it where it lies.
        If the block raises, or the process is killed in it, nothing is put.

        The item's place in the queue is the one that the block's beginning gives it, but nobody waits for it: a ``get``
        that comes to an item that is still being written takes the next one, and the item comes, once it is put, before
        any that was not taken by then. (While 1,024 items are leased, or written like that, the ``get`` waits.) No lock
        is held in the block. Until a ``get`` has come to it the item counts in ``qsize()`` and for ``maxsize``, even if
        nothing was put, and until then, or until it is put or not, its bytes and those put behind it count as used. It
        takes 45 bytes more than its own at most.

        Nothing may refer to the bytes when the block ends, or else it could be written after it was put: ``del`` an
        array made of ``view``. After ``close`` in the block nothing is put.

        On the portable engine the bytes are private memory, which is copied at the block's end; the item's place is the
        one then, and if there is no room any more, it is waited for as at the beginning.

        Args:
            length: bytes.
            block: whether to wait for room.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            ShmQueueFull, ShmQueueValueError: as ``put``.
            ShmQueueShutDown: the queue was shut down for all; also at the block's end, if that was in the block.
            BufferError: at the block's end, something still refers to the bytes. Nothing was put.
        """
        if timeout is not None:
            timeout = require_seconds(timeout, block)
        return self._channel.put_view(length, block, timeout)

    def prefault(self) -> bool:
        """Map the buffer into this process now: else the first put and get of each page, 4 KiB, meets a page fault.

        For large items whose latency matters, in each process that puts or gets them. It takes about a millisecond per
        MiB at first. Of a queue that grows, only the memory that it never gives back.

        Returns:
            False: it cannot be done here (before Linux 5.14, and on the portable engine), and all is as before.
        """
        return self._channel.engine.prefault()

    def get_view(self, block: bool = True, timeout: float | None = None) -> View:
        """Read the oldest item where it lies, without a copy: ``with q.get_view() as view:``.

        For items that are bytes (or were put as bytearray or memoryview). ``view`` is a read-only memoryview of the
        item in shared memory (of a copy, on the portable engine). When the block ends the item is taken; if it raises,
        or the process is killed in it, another ``get`` receives the item next.

        It is a lease whose item is not copied: any number of processes and threads may have views of different items,
        and nobody waits for a view. Whatever still looks at the memory after the block (a slice, a numpy array) may go
        on: the bytes stay until it is gone. They count as used, and so does what was put behind them.

        After ``close`` in the block the item is not taken: another process receives it, once nothing looks at it.

        Args:
            block: whether to wait for an item.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            ShmQueueEmpty, ShmQueueShutDown: as ``lease``.
            ShmQueueTypeError: the oldest item is not bytes. It stays in the queue.
        """
        if timeout is not None:
            timeout = require_seconds(timeout, block)
        return self._channel.get_view(block, timeout)

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
        processes every 100 ms: one that does not wait may return a newer item before that. A process that ``exec`` has
        made another program counts as killed, where this one may see so.)

        >>> with q.lease() as lease:  # acknowledged at the block's end, requeued if it raises
        ...     work(lease.item)

        After ``close`` in the block it is not acknowledged, and comes again. Acknowledging counts as ``task_done()``.
        ``qsize()`` does not count items that are leased.

        Args:
            block: whether to wait for an item.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.
            max_attempts: how often an item is handed out. One that would be handed out once more is put to
                ``dead_letter`` and acknowledged, and the next one is leased. ``block`` and ``timeout`` hold for waiting
                for room there as well, which ``close()`` ends if that is a queue of this package.
            dead_letter: any queue; one of this package gets the item as it is, even if it cannot be loaded. If the
                process is killed, or a signal handler raises, while an item is moved there, it may arrive there twice.

        Raises:
            ShmQueueEmpty, ShmQueueShutDown: as ``get``. On the portable engine ShmQueueEmpty also if there was no room:
                leased items have as many bytes together as the queue can hold, and the next one waits for theirs.
            ShmQueueFull: ``dead_letter`` has no room; the item was requeued. As with any exception of its ``put``.
            ShmQueueTypeError, ShmQueueValueError: an argument is unusable; the message names it.
            ShmQueueError: 1,024 items are leased, which is the most for one queue.
            ShmQueueNoSpaceError: no memory is left to note what is leased: 4 KiB for each 64 items. ``get`` works.
        """
        if timeout is not None:
            timeout = require_seconds(timeout, block)
        return self._channel.lease(block, timeout, max_attempts, dead_letter)

    def clear(self) -> None:
        """Drop all items. ``join`` does not wait for them any more."""
        self._channel.engine.clear()
