"""ShmQueue: objects in, objects out, between processes that share a name.

This is the layer where names, serialization, and bytes meet: ``shmqueue.segment`` finds the memory,
``shmqueue.serialization`` turns items into bytes, ``shmqueue.engine`` moves those. It knows no layout and no lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Generic, NamedTuple

from shmqueue import console, engine, reflog
from shmqueue.arguments import require_int, require_seconds
from shmqueue.attributes import absent_when_closed, readable_names
from shmqueue.dead_letters import DeadLetterQueue, lend_within, limit_for
from shmqueue.exceptions import (
    ShmQueueEmpty,
    ShmQueueFull,
    ShmQueueShutDown,
    ShmQueueTypeError,
    ShmQueueValueError,
)
from shmqueue.generics import Self, T
from shmqueue.handle import Handle, Travel, open_handle
from shmqueue.items import QueueBase, Record, fast_get, fast_lease, fast_put, items_of, load_many
from shmqueue.leases import Lease, View, lease_of, take_lease
from shmqueue.messages import tell_items_put
from shmqueue.reservations import PutView
from shmqueue.segment.files import changing
from shmqueue.serialization import (
    CustomDeserialize,
    CustomSerialize,
    SerializationMethods,
    Serializer,
    unpack_plain,
)
from shmqueue.statistics import Statistics, statistics_of
from shmqueue.watching import QueueDescriptor

__all__ = ["ShmQueue", "ShmRefDataSnapshot", "Statistics"]

_MSGPACK = SerializationMethods.MSGPACK
_SMALLEST_ITEM = engine.RECORD_HEADER_SIZE + 1  # bytes: no serialization makes less than one


class _SnapshotFields(NamedTuple):
    ref_count: int
    put_pos: int
    get_pos: int
    buffer_size: int
    qsize: int
    same_lap: int


class ShmRefDataSnapshot(_SnapshotFields):
    """A queue at one moment.

    ``buffer_size`` is ``max_buffer_size()``, in bytes; ``put_pos`` and ``get_pos`` are offsets in a buffer of this
    size; ``same_lap`` is 1 when put and get are on the same lap around it, 0 when put has wrapped and get has not.
    ``qsize`` is in items. ``keep`` tells whether the queue outlives its holders; it is not one of the tuple's items.
    """

    keep: bool = False


class ShmQueue(QueueBase, Generic[T]):
    """A FIFO queue that any process of this user on this machine can open by its name.

    Creates the queue, or attaches to it when it exists. All methods may be called from several threads, and a handle
    that a forked child inherits works there.

    A queue is private to a user: another user who opens the same name has another queue. If the other one is root, the
    user who called sudo, or the real user of this process, and has that queue open, creating one logs a warning on the
    logger ``shmqueue``; of further users only now and then. Whose a queue is, and where, is decided when it is opened:
    a process that becomes another user goes on using it. What is not possible then raises ``ShmQueueRefusedError``,
    which names the queue's owner: to open it anew, and with the portable engine to use it in a child that is started
    afterwards.

    Args:
        queue_name: the name; letters, digits, ``.``, ``_``, ``-`` count one character, all others three per byte, 180
            at most.
        buffer_size: bytes for items, rounded up to a multiple of ``SYSTEM_PAGESIZE``: the queue has exactly this size,
            unless ``max_bytes`` lets it grow. An item takes 8 bytes and its serialized form. None, the queue starts
            with 64 KiB, grows as it needs to, and gives memory back when it runs empty.
        max_bytes: most bytes that the queue grows to, rounded up likewise; 0, all the memory that the file system of
            the segments has, which is also the limit when neither this nor ``buffer_size`` is given.
        maxsize: most items in the queue; 0 or less, as many as fit. None is 0.
        create: True, the queue must not be in use yet; False, it must exist; None, either.
        keep: True, the queue and its items outlive its holders, until ``unlink()`` or ``shmqueue rm`` removes them (or
            the machine restarts, in /dev/shm). Otherwise the queue exists while at least one process has it open; when
            the last one closes it or exits, its items are dropped, which is logged (logger ``shmqueue``) and, before
            the interpreter's end, a ``ResourceWarning``. The items that killed processes leave are there for the next
            process that opens the queue. The process that creates the queue decides for all.
        allow_pickle: False refuses pickle in both directions, for queues whose users do not all trust each other.
        track_resources: accepted for compatibility and without effect: the kernel counts a segment's holders, so the
            resource tracker of ``multiprocessing``, which would free it under its users, is never told of it.
        logger: where to report what is not an error, at debug level.
        debug_ref_to_file_log: True appends a line of JSON for each create, attach and shutdown to a file in the
            temporary directory, a str names the file.

    Raises:
        ShmQueueTypeError, ShmQueueValueError: an argument is unusable; the message names it.
        ShmQueueExistsError, ShmQueueNotFoundError: as ``create`` says.
        ShmQueueNoSpaceError: there is not enough shared memory left.
        ShmQueueRefusedError: something else is at the queue's path, or a queue of another engine or version.

    Warns:
        ShmQueueShapeWarning: the queue exists with another ``buffer_size``, ``max_bytes`` or ``maxsize`` than the one
            given. What its creator chose holds.

    ``for item in iter(q.get, sentinel)`` takes items until one equals the sentinel.
    """

    def __init__(
        self,
        queue_name: str,
        *,
        buffer_size: int | None = None,
        max_bytes: int | None = None,
        maxsize: int | None = None,
        create: bool | None = None,
        keep: bool = False,
        allow_pickle: bool = True,
        track_resources: bool = False,
        logger: logging.Logger | None = None,
        debug_ref_to_file_log: bool | str = False,
    ) -> None:
        handle = open_handle(
            queue_name,
            buffer_size=buffer_size,
            max_bytes=max_bytes,
            maxsize=maxsize,
            create=create,
            keep=keep,
            logger=logger,
            log_file=reflog.path_for(queue_name, debug_ref_to_file_log),
        )
        self._start(handle, Serializer(allow_pickle))

    def _start(self, handle: Handle, serializer: Serializer) -> None:
        self._handle, self._serializer = handle, serializer
        self._name, self._engine, self._segment = handle.name, handle.engine, handle.segment
        self._items = items_of(self._engine)
        self._put_item, self._get_item = self._items.put_item, self._items.get_item
        self._descriptor: QueueDescriptor | None = None
        self._load = serializer.load  # one object: a get of another thread uses it without a reference of its own
        self._try_first(self._engine, self._load, None)

    # ---- put and get ----

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
        put = None if serialization_method else self._put_item(data, block, timeout, False)
        if put is None:
            serializer = self._serializer
            method, payload = (
                serializer.dump(data, serialization_method) if serialization_method else serializer.dump_rest(data)
            )
            put = self._engine.put(method, payload, block, timeout)
        if not put:
            raise ShmQueueFull(self._handle.why_full(1) + _in_time(block, timeout))

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
        item = self._get_item(block, timeout, unpack_plain)
        if type(item) is not Record:
            return item  # type: ignore[no-any-return]
        if not item:
            raise self._is_empty(block, timeout)
        return self._serializer.load(*item)  # type: ignore[no-any-return]

    def put_nowait(self, data: T) -> None:
        """``put(data, block=False)``."""
        self.put(data, False)

    def get_nowait(self) -> T:
        """``get(block=False)``."""
        return self.get(False)

    def __iter__(self) -> Iterator[T]:
        """``for item in q``: take items, waiting for each, until the queue was shut down for all and is empty."""
        while True:
            try:
                item = self.get()
            except ShmQueueShutDown:
                return
            yield item

    __contains__: ClassVar[None] = None  # else ``in`` would take items

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
        items = tuple(items)
        count = len(items)  # now: later there may be no memory for the number, and all is put
        put = self._items.put_items(items, block, timeout, False, self._serializer.dump_rest)
        if put < count:
            full = ShmQueueFull(self._handle.why_full(count - put) + _in_time(block, timeout))
            tell_items_put(full, put, count)
            raise full

    def get_many(self, max_items: int, timeout: float | None = None, *, block: bool = True) -> list[T]:
        """Take up to ``max_items`` of the oldest items at once: what is there, waiting only for the first.

        Args:
            max_items: most items to take, at least 1.
            timeout: seconds to wait for the first one at most, None for ever, 0 not at all; ignored unless ``block``.
            block: whether to wait for the first one.

        Raises:
            ShmQueueEmpty: there was none in time.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could. All
                are consumed.
        """
        max_items = require_int("max_items", max_items, least=1)
        if timeout is not None:
            timeout = require_seconds(timeout, block)
        items = self._items.get_items(max_items, block, timeout, unpack_plain)
        if not items:
            raise self._is_empty(block, timeout)
        return load_many(*items, self._serializer.load) if isinstance(items, tuple) else items

    def put_view(self, length: int, block: bool = True, timeout: float | None = None) -> PutView:
        """Write an item where it lies, without a copy: ``with q.put_view(length) as view:``.

        ``view`` is a writable memoryview of ``length`` bytes in shared memory, whose values at first are not defined.
        When the block ends they are an item of type bytes, for ``get``, or ``get_view``, which reads it where it lies.
        If the block raises, or the process is killed in it, nothing is put.

        The item's place in the queue is the one that the block's beginning gives it, but nobody waits for it: a ``get``
        that comes to an item that is still being written takes the next one, and the item comes, once it is put, before
        any that was not taken by then. No lock is held in the block. Until a ``get`` has come to it the item counts in
        ``qsize()``, and until it is put or not its bytes, and those put behind it, count as used. It takes 45 bytes
        more than its own at most.

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
        length = require_int("length", length, least=0)
        if timeout is not None:
            timeout = require_seconds(timeout, block)

        def why_full() -> str:
            return self._handle.why_full(1) + _in_time(block, timeout)

        reservation = self._engine.reserve(length, block, timeout)
        if reservation is None:
            raise ShmQueueFull(why_full())
        return PutView(reservation, why_full)

    def prefault(self) -> bool:
        """Map the buffer into this process now: else the first put and get of each page, 4 KiB, meets a page fault.

        For large items whose latency matters, in each process that puts or gets them. It takes about a millisecond per
        MiB at first. Of a queue that grows, only the memory that it never gives back.

        Returns:
            False: it cannot be done here (before Linux 5.14, and on the portable engine), and all is as before.
        """
        return self._engine.prefault()

    def get_view(self, block: bool = True, timeout: float | None = None) -> View:
        """Read the oldest item where it lies, without a copy: ``with q.get_view() as view:``.

        For items that are bytes (or were put as bytearray or memoryview). ``view`` is a read-only memoryview of the
        item in shared memory (of a copy, on the portable engine). When the block ends the item is taken; if it raises,
        or the process is killed in it, another ``get`` receives the item next.

        It is a lease whose item is not copied: any number of processes and threads may have views of different items,
        and nobody waits for a view. Whatever still looks at the memory after the block (a slice, a numpy array) may go
        on: the bytes stay until it is gone. They count as used, and so does what was put behind them.

        Args:
            block: whether to wait for an item.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.

        Raises:
            ShmQueueEmpty, ShmQueueShutDown: as ``get``.
            ShmQueueTypeError: the oldest item is not bytes. It stays in the queue.
        """
        if timeout is not None:
            timeout = require_seconds(timeout, block)
        try:
            loan = self._engine.lend(block, timeout, True)
        except TypeError as error:
            raise ShmQueueTypeError(str(error)) from None
        if loan is None:
            raise self._is_empty(block, timeout)
        return View(loan)

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
        loses the lease, another ``get`` or ``lease`` receives it, at once, before any newer item.

        >>> with q.lease() as lease:  # acknowledged at the block's end, requeued if it raises
        ...     work(lease.item)

        Acknowledging counts as ``task_done()`` for this item. ``qsize()`` does not count items that are leased.

        Args:
            block: whether to wait for an item.
            timeout: seconds to wait for at most, None for ever; ignored unless ``block``.
            max_attempts: how often an item is handed out. One that would be handed out once more is put to
                ``dead_letter`` and acknowledged, and the next one is leased. ``block`` and ``timeout`` hold for waiting
                for room there as well.
            dead_letter: any queue; one of this package gets the item as it is, even if it cannot be loaded. A process
                killed while it moves an item has it moved again: it may arrive there twice.

        Raises:
            ShmQueueEmpty, ShmQueueShutDown: as ``get``.
            ShmQueueFull: ``dead_letter`` has no room; the item was requeued. As with any exception of its ``put``.
            ShmQueueTypeError, ShmQueueValueError: an argument is unusable; the message names it.
            ShmQueueError: 1,024 items are leased, which is the most for one queue.
        """
        load, look = self._serializer.load, None if self._descriptor is None else self._descriptor.look
        limit = limit_for(self._name, self._uuid, max_attempts, dead_letter)
        if timeout is not None:
            timeout = require_seconds(timeout, block)

        def lend(left: float | None) -> engine.Loan:
            loan = self._engine.lend(block, left, False)
            if loan is None:
                raise self._is_empty(block, timeout)
            return loan

        if limit is not None:
            return lease_of(lend_within(limit, lend, load, block, timeout), load, look)
        lease = take_lease(self._engine, block, timeout, load, look)
        if lease is None:
            raise self._is_empty(block, timeout)
        return lease

    def _is_empty(self, block: bool, timeout: float | None) -> ShmQueueEmpty:
        return ShmQueueEmpty(f"queue {self._name!r} is empty" + _in_time(block, timeout))

    def _put_record(self, method: int, payload: bytes, block: bool, timeout: float | None) -> bool:
        """Put an item as the record that it is in another queue. False: this one does not take such records."""
        if not self._serializer.takes(method):
            return False
        if not self._engine.put(method, payload, block, timeout):
            raise ShmQueueFull(self._handle.why_full(1) + _in_time(block, timeout))
        return True

    def _uuid(self) -> bytes:
        self._handle.require_open()
        return self._segment.header.uuid

    def clear(self) -> None:
        """Drop all items. ``join`` does not wait for them any more."""
        self._engine.clear()

    # ---- what is finished ----

    def task_done(self) -> None:
        """Mark one retrieved item as processed.

        Raises:
            ShmQueueValueError: more often than items were put.
        """
        if not self._engine.task_done():
            raise ShmQueueValueError("task_done() called too many times")

    def join(self, timeout: float | None = None) -> bool:
        """Wait until ``task_done`` was called for every item put.

        Args:
            timeout: seconds to wait for at most, None for ever.

        Returns:
            True, or False if the time was over first.
        """
        return self._engine.join(None if timeout is None else require_seconds(timeout, True))

    @property
    @absent_when_closed
    def unfinished_tasks(self) -> int:
        """Items put for which ``task_done`` was not called yet; after ``close``, what it was then."""
        return self._handle.state().unfinished

    # ---- how it stands ----

    def qsize(self) -> int:
        """Items in the queue. Others may change it at any time, as with the three below."""
        return self._engine.qsize()

    def empty(self) -> bool:
        """Whether there is nothing to take."""
        return self._engine.qsize() == 0

    def full(self) -> bool:
        """Whether there is no room even for the smallest item.

        A queue that grows is full when it has grown to its limit, ``max_buffer_size()``, or has ``maxsize`` items.
        """
        counters = self._handle.counters()
        maxsize, free = self._engine.maxsize(), self.max_buffer_size() - counters.occupancy
        return free < _SMALLEST_ITEM or 0 < maxsize <= counters.qsize

    def buffer_occupancy(self) -> int:
        """Bytes in use: for each item, 8 and its serialized form."""
        return self._handle.counters().occupancy

    def max_buffer_size(self) -> int:
        """Most bytes of items: ``buffer_size``, or what the queue may grow to, as its creator chose."""
        self._handle.require_open()
        return self._handle.shape.capacity

    @property
    def capacity_bytes(self) -> int:
        """``max_buffer_size()``; also after ``close``."""
        return self._handle.shape.capacity

    @property
    def initial_bytes(self) -> int:
        """Bytes for items that the queue has at first and always keeps; more are allocated as they are needed."""
        return self._handle.initial_bytes

    @property
    @absent_when_closed
    def used_bytes(self) -> int:
        """``buffer_occupancy()``; after ``close``, what it was then."""
        return self._handle.state().occupancy

    @property
    @absent_when_closed
    def maxsize(self) -> int:
        """Most items in the queue, 0 for as many as fit. Setting it changes it for all processes.

        Growing wakes blocked puts; when it shrinks, the items that are in the queue stay. After ``close``, what it was
        then.
        """
        return self._handle.maxsize()

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        self._engine.set_maxsize(require_int("maxsize", maxsize, least=None))

    def snapshot(self) -> ShmRefDataSnapshot:
        """Positions, size and holders at one moment."""
        counters = self._handle.counters()
        size = self.max_buffer_size()
        put_lap, put_pos = divmod(counters.put_position, size)
        get_lap, get_pos = divmod(counters.get_position, size)
        same_lap = int(put_lap == get_lap)
        snapshot = ShmRefDataSnapshot(self.refs, put_pos, get_pos, size, counters.qsize, same_lap)
        snapshot.keep = self._handle.keep
        return snapshot

    @property
    def keep(self) -> bool:
        """Whether the queue outlives its holders, see the argument ``keep``."""
        return self._handle.keep

    @property
    @absent_when_closed
    def debug_ref_data(self) -> ShmRefDataSnapshot:
        """The same as ``snapshot()``."""
        return self.snapshot()

    def statistics(self) -> Statistics:
        """What has gone through the queue since it was made, and what is in it."""
        return statistics_of(self._handle)

    @property
    def identifier(self) -> str:
        """The queue's name."""
        return self._name

    @property
    @absent_when_closed
    def refs(self) -> int:
        """How many handles there are on the queue, in all processes; the kernel counts them."""
        self._handle.require_open()
        return len(self._segment.holders())

    @property
    def debug_ref_log_path(self) -> str | None:
        """Where ``debug_ref_to_file_log`` writes; None when it was not asked for."""
        return self._handle.log_file

    # ---- serialization of one's own ----

    def custom_serialize(self, callable_function: CustomSerialize) -> None:
        """Set the function that turns items into bytes for serialization methods from 1001 on.

        It is called with (method, item) and returns bytes.
        """
        if not callable(callable_function):
            raise ShmQueueTypeError("custom_serialize takes a function of (method, item)")
        self._serializer.custom_serialize = callable_function

    def custom_deserialize(self, callable_function: CustomDeserialize) -> None:
        """Set the function that turns bytes back into items for serialization methods from 1001 on.

        It is called with (method, chunks), a list of bytes that belong together in this order, and returns the item.
        """
        if not callable(callable_function):
            raise ShmQueueTypeError("custom_deserialize takes a function of (method, chunks)")
        self._serializer.custom_deserialize = callable_function

    # ---- the end ----

    def close(self) -> None:
        """Close this handle; closing the last one frees the memory. Idempotent; every other call then raises.

        Blocked calls of other threads on this handle end with ``ShmQueueNotInitializedError``, as later ones do.
        """
        self._handle.close()
        if self._descriptor is not None:
            self._descriptor.close()

    @property
    def closed(self) -> bool:
        """Whether this handle is closed."""
        return not self._handle.is_open

    def shutdown(self) -> None:
        """The same as ``close()``. To shut the queue down for all processes there is ``shutdown_all()``."""
        self.close()

    def shutdown_all(self, immediate: bool = False) -> None:
        """Shut the queue down for all processes, as ``queue.Queue.shutdown`` does since Python 3.13.

        Every put raises ``ShmQueueShutDown`` from now on; a get takes what is left and raises then, waiting ones too.
        The handles stay open: this is about the queue, ``close`` about one handle.

        Args:
            immediate: also drop the items that are queued; they count as done.
        """
        self._engine.shut_down(immediate)

    @property
    @absent_when_closed
    def is_shutdown(self) -> bool:
        """Whether the queue was shut down for all processes; after ``close``, whether it was then."""
        return self._handle.state().is_shut_down

    def fileno(self) -> int:
        """A descriptor for ``select`` and its like: readable while the queue is not empty, or was shut down for all.

        It is made when it is first asked for, another one in each process, and closed with the queue. What this process
        puts and takes is seen when the call returns, what others do, and the end of a ``put_view`` or ``get_view``,
        within milliseconds. Another process may be faster: use ``get(block=False)`` when it is readable.

        Raises:
            ShmQueueNotInitializedError: the queue is closed.
        """
        self._handle.require_open()
        descriptor = self._descriptor
        if descriptor is None:
            with changing():
                descriptor = self._descriptor
                if descriptor is None:
                    descriptor = QueueDescriptor(self._handle.engine)
                    self._try_first(self._handle.engine, self._load, descriptor.look)
                    self._engine = descriptor.looking_engine()
                    self._items = items_of(self._engine)
                    self._put_item, self._get_item = self._items.put_item, self._items.get_item
                    self._descriptor = descriptor
        return descriptor.fileno()

    def unlink(self) -> None:
        """Remove the name now. Its holders go on using the queue; the next one to use the name makes a new queue."""
        self._handle.require_open()
        self._segment.unlink()

    def __enter__(self) -> Self:
        self._handle.require_open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def set_console_handlers(self, register_atexit: bool = False) -> None:
        """Close this handle when SIGINT, SIGTERM or SIGHUP (console events on Windows) asks the process to end.

        The handlers that were there run afterwards, and the process ends as the signal says. The kernel frees what a
        killed process held in any case; this only does it at once.

        Args:
            register_atexit: also at the interpreter's exit; handles do that by themselves, so it changes nothing.
        """
        self._handle.require_open()
        console.close_on_signals(self)

    def add_ref_manually(self, pid: int) -> None:
        """Does nothing: kept for programs that counted a process in by hand. The kernel counts the holders."""
        require_int("pid", pid, least=0)
        self._handle.require_open()

    def reduce_ref_counter(self) -> None:
        """Does nothing: kept for programs that counted a killed process out by hand. The kernel counts the holders."""
        self._handle.require_open()

    # ---- travelling ----

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrive, (type(self), self._handle.travel(), self._serializer, self._handle.log_file)

    def __dir__(self) -> list[str]:
        return readable_names(self)

    def __repr__(self) -> str:
        if not self._handle.is_open:
            return f"<ShmQueue {self._name!r}, {'closed' if self._handle.missing is None else 'vanished'}>"
        counters = self._handle.counters()
        size = self._handle.shape.capacity
        return f"<ShmQueue {self._name!r}, {counters.qsize} items, {counters.occupancy} of {size} bytes>"


def _arrive(
    queue_type: type[ShmQueue[Any]], travel: Travel, serializer: Serializer, log_file: str | None
) -> ShmQueue[Any]:
    """Attach to the very queue that was pickled."""
    queue = queue_type.__new__(queue_type)
    queue._start(Handle.arrive(travel, log_file), serializer)
    return queue


def _in_time(block: bool, timeout: float | None) -> str:
    return f" after {timeout} s" if block and timeout is not None else ""
