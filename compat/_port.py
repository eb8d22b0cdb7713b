"""What every adapter holds: one process's access to a shared queue, as records.

It is shared by a queue object and by what that hands out beside it (the ends in ``_ends``), so that it lives as long as
any of them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from shmqueue.arguments import NUMBER_MOST, require_int
from shmqueue.attributes import absent_when_closed
from shmqueue.dead_letters import DeadLetterQueue, lend_within, limit_for
from shmqueue.engine import Counters, deadline_after, seconds_until
from shmqueue.exceptions import (
    ShmQueueEmpty,
    ShmQueueFull,
    ShmQueueNotInitializedError,
    ShmQueueShutDown,
    ShmQueueValueError,
)
from shmqueue.generics import Self
from shmqueue.handle import Handle, Travel, open_handle
from shmqueue.items import GetItem, PutItem, QueueBase, allow_fast_paths, as_get_item, as_put_item, items_of, load_many
from shmqueue.leases import Lease, lease_of, take_lease
from shmqueue.messages import tell_items_put
from shmqueue.segment import READER, WRITER
from shmqueue.segment.files import changing
from shmqueue.serialization import LOADERS, unpack_plain
from shmqueue.statistics import Statistics, statistics_of
from shmqueue.threads import sleep, start_daemon_thread
from shmqueue.watching import Watcher, watch, watch_no_more

from ._absent import ListsWhatIsThere
from ._closed_ends import ClosedEnds
from ._serialization import Record

if TYPE_CHECKING:
    from shmqueue.engine import Loan, Payload

__all__ = ["Port", "Ported", "Synchronous", "arrive", "open_port"]

_PACE = 0.01  # seconds between two attempts to put an item back
_FIRST_SLICE, _LONGEST_SLICE = 0.05, 1.0  # seconds that are waited before a look whether an end was closed


def open_port(
    name: str | None,
    *,
    maxsize: int | None = None,
    max_bytes: int | None = None,
    threshold: int = 0,
    keep: bool = False,
) -> Port:
    """A queue of a private name, or the one called ``name``, which may exist; other arguments as ``open_handle``.

    Raises:
        ShmQueueValueError: ``keep`` without a name, by which the queue could be opened again.
    """
    is_private = name is None
    if is_private and keep:
        raise ShmQueueValueError("keep=True needs a name: a queue without one can never be opened again")
    name = f"unnamed-{os.getpid()}-{os.urandom(8).hex()}" if name is None else name
    return Port(
        open_handle(
            name,
            max_bytes=max_bytes,
            maxsize=maxsize,
            threshold=threshold,
            create=True if is_private else None,
            keep=keep,
            private=is_private,
        )
    )


def arrive(travel: Travel) -> Port:
    """The queue that was pickled as ``Port.travel()``."""
    return Port(Handle.arrive(travel))


class Port:
    """One process's access to a queue.

    ``put``, ``get``, ``put_item`` and ``get_item`` are the engine's own until somebody asks for a descriptor.
    """

    put: Callable[[int, Payload, bool, float | None], bool]
    get: Callable[[bool, float | None], tuple[int, bytes] | None]
    put_item: PutItem
    get_item: GetItem

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.engine = handle.engine
        self._watcher: Watcher | None = None
        self._looks_for_waiting = False
        self._items = items_of(handle.engine)
        self._closed_ends: ClosedEnds | None = None
        self._putting_back: list[int] = []  # for each thread that does, its process
        self._reserved: tuple[int, int, bytes] | None = None  # the process that has taken a record, and the record
        self._choose_way()

    def _choose_way(self) -> None:
        """Put and get by the engine's own methods, or by what has to be done beside them."""
        ends = self._closed_ends
        self._allow_fast_paths()
        if self._watcher is None and ends is None:
            self.put, self.get = self.engine.put, self.engine.get
            self.put_item, self.get_item = self._items.put_item, self._items.get_item
            return
        put, get = self.engine.put, self.engine.get
        if self._watcher is not None:
            put, get = self._watcher.put, self._watcher.get
        if ends is not None:
            put, get = ends.route(put, get)
        self.put, self.get = put, get
        self.put_item, self.get_item = as_put_item(put), as_get_item(get)

    def _allow_fast_paths(self) -> None:
        looks_for_waiting = None
        while looks_for_waiting is not self._looks_for_waiting:  # another thread may have changed it meanwhile
            ends, looks_for_waiting = self._closed_ends, self._looks_for_waiting
            allow_fast_paths(
                self.engine,
                puts=not looks_for_waiting and (ends is None or ends.puts_may_be_fast),
                gets=not looks_for_waiting and (ends is None or ends.gets_may_be_fast),
            )

    def look_for_waiting(self, is_needed: bool) -> None:
        """Whether each put and get must go through the queue class, which calls coroutines that wait."""
        self._looks_for_waiting = is_needed
        self._allow_fast_paths()

    def close_end(self, role: int) -> None:
        """Do not put (WRITER) or get (READER) in this process any more, and have the other one end when nobody does.

        That holds for calls that are blocked already, too.

        Raises:
            NotImplementedError: it would never end.
        """
        ends = self._closed_ends or ClosedEnds(self.handle.segment, self._putting_back)
        ends.close(role)
        self._closed_ends = ends
        self.engine.while_waiting = ends.while_waiting
        self._choose_way()
        if self._watcher is not None:
            self._have_watch_for_end(self._watcher)

    def reserve(self, block: bool, timeout: float | None) -> bool:
        """Take a record for ``take_reserved``. False: there was none in time. Arguments as ``Engine.get``."""
        record = self.get(block, timeout)
        if record is not None:
            self._reserved = (os.getpid(), *record)
        return record is not None

    def has_reserved(self) -> bool:
        """Whether this process has reserved a record. What a parent reserved is not its forked child's."""
        return self._reserved is not None and self._reserved[0] == os.getpid()

    def take_reserved(self) -> tuple[int, bytes] | None:
        """The reserved record, which is not reserved any more; None if there is none."""
        reserved, self._reserved = self._reserved, None
        return reserved[1:] if reserved is not None and reserved[0] == os.getpid() else None

    def put_back(self) -> None:
        """Put the reserved record at the queue's end, whether this process still puts or not.

        Without room a thread does it as soon as there is some: the process that makes it may be waiting for the
        caller. After the queue was shut down nothing can be put: the record stays reserved, for the next ``recv`` of
        this process.
        """
        record = self.take_reserved()
        if record is not None and not self._has_put_back(record):
            pid = os.getpid()
            self._putting_back.append(pid)
            try:
                start_daemon_thread(functools.partial(self._put_back_later, record, pid))
            except BaseException:
                self._putting_back.remove(pid)
                self._reserved = (pid, *record)
                raise

    def _put_back_later(self, record: tuple[int, bytes], pid: int) -> None:
        try:
            while not self._has_put_back(record):
                sleep(_PACE)  # a put that blocks would be refused with the writer closed
        except ShmQueueNotInitializedError:
            pass  # closed meanwhile, on a full queue
        finally:
            self._putting_back.remove(pid)

    def _has_put_back(self, record: tuple[int, bytes]) -> bool:
        try:
            if not self.engine.put(*record, False, None):
                return False
            self.engine.task_done()  # it counts as a new item, and the one that was taken as processed
        except ShmQueueFull:
            return False  # another process has the lock
        except ShmQueueShutDown:
            self._reserved = (os.getpid(), *record)
        self.look()
        return True

    def wait_for_item(self, timeout: float | None) -> bool:
        """Whether a get would return or raise at once, within ``timeout`` seconds."""
        deadline, pace = deadline_after(timeout), _FIRST_SLICE
        while True:
            left = seconds_until(deadline)
            if self.engine.wait(True, pace if left is None else min(pace, left)):
                return True
            ends = self._closed_ends  # also one that was closed meanwhile
            if ends is not None:
                ends.require(READER)
                if ends.is_over():
                    return True
            if left is not None and left <= pace:
                return False
            pace = min(2 * pace, _LONGEST_SLICE)

    def is_empty(self) -> bool:
        """Whether there is nothing to take.

        Raises:
            OSError: the end from which items come was closed in this process.
        """
        if self._closed_ends is not None:
            self._closed_ends.require(READER)
        return self.engine.qsize() == 0

    def _have_watch_for_end(self, watcher: Watcher) -> None:
        if self._closed_ends is not None:
            watcher.watch_for_end(self._closed_ends.is_over)

    @property
    def name(self) -> str:
        """The queue's name."""
        return self.handle.name

    def describe(self, queue_type: type) -> str:
        """What ``repr`` says of a queue with this port."""
        state = ", vanished" if self.handle.missing is not None else ""
        return f"<{queue_type.__module__}.{queue_type.__qualname__} {self.name!r}{state}>"

    @property
    def maxsize(self) -> int:
        """Most items, 0 for as many as fit; changeable, for all processes."""
        return self.engine.maxsize() if self.handle.is_open else self.handle.shape.maxsize

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        self.engine.set_maxsize(min(maxsize, NUMBER_MOST))

    def counters(self) -> Counters:
        """The queue's figures."""
        return Counters(*self.engine.counters())

    def put_many(self, items: Sequence[Any], dump: Callable[[Any], Record], block: bool, timeout: float | None) -> None:
        """Put items, in pieces if they are more than the queue can hold together.

        Raises:
            ShmQueueFull: there was no room in time; its ``items_put`` says how many were put.
        """
        count = len(items)  # now: later there may be no memory for the number, and all is put
        if self._closed_ends is not None:
            self._closed_ends.require(WRITER)
        try:
            put = self._items.put_items(items, block, timeout, True, dump)
        finally:
            self.look()
        if put < count:
            full = ShmQueueFull(self.handle.why_full(count - put))
            tell_items_put(full, put, count)
            raise full

    def get_many(self, most: int, load: Callable[[int, bytes], Any], timeout: float | None) -> list[Any]:
        """Take 1 to ``most`` of the oldest items, waiting only for the first.

        Raises:
            ShmQueueEmpty: there was none in time.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could.
        """
        most = require_int("max_items", most, least=1)

        try:
            ends = self._closed_ends
            if ends is None:
                items = self._items.get_items(most, True, timeout, unpack_plain)
            else:
                ends.require(READER)
                items = ends.until_end(functools.partial(self._get_items, most), timeout)
        finally:
            self.look()
        if not items:
            raise ShmQueueEmpty(f"queue {self.name!r} is empty")
        return load_many(*items, load) if isinstance(items, tuple) else items

    def _get_items(self, most: int, timeout: float | None) -> list[Any] | tuple[list[Any]]:
        return self._items.get_items(most, True, timeout, unpack_plain)

    def lease(
        self,
        load: Callable[[int, bytes], Any],
        block: bool,
        timeout: float | None,
        max_attempts: int | None,
        dead_letter: DeadLetterQueue | None,
    ) -> Lease[Any]:
        """Lease the oldest item; ``load`` turns its record into the item, the others are as for ``ShmQueue.lease``.

        Raises:
            ShmQueueEmpty: there was none in time.
        """

        def lend(left: float | None) -> Loan:
            loan = self.engine.lend(block, left, False)
            if loan is None:
                raise ShmQueueEmpty(f"queue {self.name!r} is empty")
            return loan

        limit = limit_for(self.name, self.uuid, max_attempts, dead_letter)
        try:
            if limit is not None:
                return lease_of(lend_within(limit, lend, load, block, timeout), load, self.look)
            lease = take_lease(self.engine, block, timeout, load, self.look)
        finally:
            self.look()
        if lease is None:
            raise ShmQueueEmpty(f"queue {self.name!r} is empty")
        return lease

    def uuid(self) -> bytes:
        """That of the segment."""
        self.require_open()
        return self.handle.segment.header.uuid

    def put_record(self, method: int, payload: bytes, block: bool, timeout: float | None) -> bool:
        """Put an item as the record that it is in another queue. False: a queue with this port takes no such records.

        Raises:
            ShmQueueFull: there was no room in time.
        """
        if method not in LOADERS:
            return False
        if not self.put(method, payload, block, timeout):
            raise ShmQueueFull(self.handle.why_full(1))
        return True

    def shut_down(self, immediate: bool) -> None:
        """``Engine.shut_down``."""
        self.engine.shut_down(immediate)
        self.look()

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to take; made when it is first asked for.

        Raises:
            ShmQueueNotInitializedError: the port was closed.
        """
        with changing():
            self.require_open()
            watcher = self._watcher
            if watcher is None:
                watcher = Watcher(self.engine)
                try:
                    self._have_watch_for_end(watcher)
                    watcher.start()
                except BaseException:  # without its threads the descriptor would not be kept true
                    watcher.close()
                    raise
                self._watcher = watcher
                self._choose_way()
                watch(self)
        watcher.look()
        return watcher.fileno()

    def travel(self) -> Travel:
        """What to pickle instead of it, for ``arrive``."""
        return self.handle.travel()

    def close(self) -> None:
        """Close the handle and the descriptor; every other call then raises. Idempotent."""
        if self.has_reserved():
            self.put_back()  # for other processes
        closed: Any = _Closed(self.name)
        self.engine = self._items = closed
        self.put = self.get = self.put_item = self.get_item = closed.refuse
        self.handle.close()
        if self._watcher is not None:
            self._watcher.close()
        watch_no_more(self)

    def require_open(self) -> None:
        """Raise ``ShmQueueNotInitializedError`` if it is closed, and what is missing if it could never be opened."""
        self.handle.require_open()

    def has_descriptor_in(self, descriptors: Iterable[int]) -> bool:
        """Whether its descriptor was made and is one of these."""
        return self._watcher is not None and self._watcher.fileno() in descriptors

    def look(self) -> None:
        """Make the descriptor true, if there is one."""
        if self._watcher is not None:
            self._watcher.look()

    def after_fork_in_child(self) -> None:
        """The watcher's thread stayed with the parent, and so must its descriptor."""
        watcher, self._watcher = self._watcher, None
        if not isinstance(self.engine, _Closed):
            self._choose_way()
        if watcher is not None:
            watcher.abandon()


class Ported(QueueBase, ListsWhatIsThere):
    """What all queues of the adapters have: a port, whose engine puts and gets the most ordinary items by itself."""

    _port: Port

    @staticmethod
    def _load(method: int, payload: bytes) -> Any:
        """The item of a record."""
        raise NotImplementedError

    def _start(self, port: Port) -> None:
        self._port = port
        self._try_first(port.engine, self._load, port.look)

    def close(self) -> None:
        """Close the queue in this process; every other call then raises. The last process to close it frees the memory.

        Idempotent. Other processes go on, and get what was put.
        """
        self._port.close()

    @property
    def closed(self) -> bool:
        """Whether the queue is closed in this process."""
        return not self._port.handle.is_open

    def fileno(self) -> int:
        """A descriptor for ``select`` and its like: readable while the queue is not empty, or was shut down.

        It is made when it is first asked for, another one in each process, and closed with the queue.
        """
        return self._port.fileno()

    @property
    def capacity_bytes(self) -> int:
        """Most bytes of items: ``max_bytes``, or what there is memory for; an item takes 8 and its pickled form."""
        return self._port.handle.shape.capacity

    @property
    def initial_bytes(self) -> int:
        """Bytes for items that the queue has at first and always keeps; more are allocated as they are needed."""
        return self._port.handle.initial_bytes

    @property
    @absent_when_closed
    def used_bytes(self) -> int:
        """Bytes in use: for each item, 8 and its pickled form; after ``close``, what it was then."""
        return self._port.handle.state().occupancy

    def statistics(self) -> Statistics:
        """What has gone through the queue since it was made, and what is in it.

        Raises:
            ShmQueueNotInitializedError: the queue was closed in this process.
        """
        return statistics_of(self._port.handle)

    def _uuid(self) -> bytes:
        return self._port.uuid()

    def __enter__(self) -> Self:
        self._port.require_open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (type(self),), self.__getstate__()

    def __getstate__(self) -> Any:
        """What travels. A subclass may send more along, and takes its own out in ``__setstate__``."""
        return self._port.travel()

    def __setstate__(self, state: Any) -> None:
        self._start(arrive(state))

    def __repr__(self) -> str:
        return self._port.describe(type(self))


class Synchronous(Ported):
    """What those of them have whose ``get`` blocks its thread."""

    def __iter__(self) -> Iterator[Any]:
        """``for item in q``: take items, waiting for each, until the queue was shut down and is empty."""
        while True:
            try:
                item = self.get()
            except ShmQueueShutDown:
                return
            yield item

    __contains__: ClassVar[None] = None  # else ``in`` would take items

    if TYPE_CHECKING:

        def get(self) -> Any: ...


def _new(queue_type: type[Ported]) -> Ported:
    return queue_type.__new__(queue_type)


class _Closed:
    """Stands where the engine was, which may be unmapped, and refuses every call."""

    def __init__(self, name: str) -> None:
        self._name = name

    def refuse(self, *arguments: object) -> NoReturn:
        raise _closed_error(self._name)

    def __getattr__(self, method: str) -> NoReturn:
        raise _closed_error(self._name)


def _closed_error(name: str) -> ShmQueueNotInitializedError:
    return ShmQueueNotInitializedError(f"queue {name!r} is closed")
