"""One process's access to a queue: what ``ShmQueue`` and the adapters in ``shmqueue.compat`` have beneath them.

A queue class says which calls there are, what their timeouts mean, and how items become bytes (its ``Codec``). All
else is here, once: putting and taking items, one or several; what a full, an empty and a closed queue raise; leases;
the descriptor. Below are the handle (``shmqueue.handle``), the engine, and the segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from shmqueue.arguments import NUMBER_MOST, require_int
from shmqueue.dead_letters import DeadLetterQueue, lend_within, limit_for
from shmqueue.engine import Counters, Engine
from shmqueue.exceptions import ShmQueueEmpty, ShmQueueFull, ShmQueueTypeError, ShmQueueValueError
from shmqueue.fast_paths import allow_fast_paths
from shmqueue.handle import Handle
from shmqueue.interruptions import not_of_handler
from shmqueue.items import GetItem, PutItem, Record, items_of, load_many
from shmqueue.leases import Lease, View, lease_of, take_lease
from shmqueue.messages import tell_items_put
from shmqueue.plain_unpacking import unpack as unpack_plain
from shmqueue.reservations import PutView
from shmqueue.segment.locks import changing
from shmqueue.watching import QueueDescriptor

if TYPE_CHECKING:
    from shmqueue.engine import Loan, Payload

__all__ = ["Channel", "Codec"]


class Codec(Protocol):
    """How a queue turns items into records, (method, payload), and back."""

    as_pickle: ClassVar[bool]
    """As for ``shmqueue.items.PutItem``: whether what the engine packs must come back as from pickle."""

    def dump_rest(self, item: Any, /) -> tuple[int, Payload]:
        """The record of an item that the engine does not pack; raises if there is none."""
        ...

    def load(self, method: int, payload: bytes, /) -> Any:
        """The item of a record; raises if it cannot be loaded."""

    def takes(self, method: int, /) -> bool:
        """Whether a record of this method, which another queue has made, could be loaded."""
        ...


class Channel:
    """One process's access to one queue. ``block`` and ``timeout``, in seconds, are everywhere as for ``Engine.put``.

    Attributes:
        engine: for everything that changes the queue: the handle's own until somebody asks for a descriptor, then one
            that keeps the descriptor true.
        load: the codec's. One object, which the C code uses without a reference of its own.
        put_record, get_record, put_item, get_item: see ``Engine`` and ``shmqueue.items``.
    """

    engine: Engine
    put_record: Callable[[int, Payload, bool, float | None], bool]
    get_record: Callable[[bool, float | None], tuple[int, bytes] | None]
    put_item: PutItem
    get_item: GetItem

    def __init__(self, handle: Handle, codec: Codec) -> None:
        self.handle, self.name, self.codec = handle, handle.name, codec
        self.load: Callable[[int, bytes], Any] = codec.load
        self._as_pickle = codec.as_pickle
        self._descriptor = QueueDescriptor(handle.engine)
        self.look = self._descriptor.look  # makes the descriptor true; it refers to no handle, as a lease may keep it
        self._looks_for_waiting = False
        self._use(handle.engine)

    def _use(self, engine: Engine) -> None:
        self.engine = engine
        self._items = items_of(engine)
        self._choose_way()

    def _choose_way(self) -> None:
        """Put and get by the engine's own methods."""
        self._allow_fast_paths()
        self.put_record, self.get_record = self.engine.put, self.engine.get
        self.put_item, self.get_item = self._items.put_item, self._items.get_item

    def _allow_fast_paths(self) -> None:
        looks_for_waiting = None
        while looks_for_waiting is not self._looks_for_waiting:  # another thread may have changed it meanwhile
            looks_for_waiting = self._looks_for_waiting
            puts, gets = self._may_be_fast()
            allow_fast_paths(
                self.handle.engine, puts=puts and not looks_for_waiting, gets=gets and not looks_for_waiting
            )

    def _may_be_fast(self) -> tuple[bool, bool]:
        """Whether puts, and whether gets, that succeed at once need nothing but the engine."""
        return True, True

    def look_for_waiting(self, is_needed: bool) -> None:
        """Whether each put and get must go through the queue class, which calls coroutines that wait."""
        self._looks_for_waiting = is_needed
        self._allow_fast_paths()

    # ---- put and get ----

    def put(self, item: Any, block: bool, timeout: float | None) -> None:
        """Put an item at the end.

        Raises:
            ShmQueueFull: there was no room in time.
            ShmQueueShutDown: the queue was shut down for all.
            ShmQueueValueError: the item can never fit.
            Exception: what the codec raises; nothing was put, as with the others.
        """
        put = self.put_item(item, block, timeout, self._as_pickle)
        if put is None:
            self.require_open()  # first: packing may run any code
            put = self.put_record(*self.codec.dump_rest(item), block, timeout)
        if not put:
            raise self.full(1, block, timeout)

    def get(self, block: bool, timeout: float | None) -> Any:
        """Take the oldest item.

        Raises:
            ShmQueueEmpty: there was none in time.
            ShmQueueShutDown: there is none, and the queue was shut down for all.
            Exception: what the codec raises; the item is consumed.
        """
        item = self.get_item(block, timeout, unpack_plain)
        if type(item) is not Record:
            return item
        if not item:
            raise self.empty(block, timeout)
        return self.load(*item)

    def take(self, block: bool, timeout: float | None) -> Any:
        """``get`` in two steps, for what must be done in between: what is returned goes to ``loaded``."""
        item = self.get_item(block, timeout, unpack_plain)
        if type(item) is Record and not item:
            raise self.empty(block, timeout)
        return item

    def loaded(self, taken: Any) -> Any:
        """The item that ``take`` has taken; raises what the codec raises."""
        return self.load(*taken) if type(taken) is Record else taken

    def put_many(self, items: Iterable[Any], block: bool, timeout: float | None) -> None:
        """Put items with nothing in between, in pieces if they are more than the queue can hold together.

        Raises:
            ShmQueueFull: there was no room in time; its ``items_put`` says how many were put, as that of other
                exceptions does that end the wait for room.
        """
        self.require_open()
        items = tuple(items)
        count = len(items)  # now: later there may be no memory for the number, and all is put
        put = self._put_items(items, block, timeout)
        if put < count:
            try:
                full = self.full(count - put, block, timeout)
                tell_items_put(full, put, count)
                raise full
            except BaseException as error:
                if put:
                    error.items_put = put  # type: ignore[attr-defined] # of a signal handler, see tell_items_put()
                raise

    def _put_items(self, items: tuple[Any, ...], block: bool, timeout: float | None) -> int:
        return self._items.put_items(items, block, timeout, self._as_pickle, self.codec.dump_rest)

    def get_many(self, max_items: int, block: bool, timeout: float | None) -> list[Any]:
        """Take 1 to ``max_items`` of the oldest items, waiting only for the first.

        Raises:
            ShmQueueEmpty: there was none in time.
            ShmQueueDeserializationError: one of them could not be loaded; its ``items`` are those that could.
            ShmQueueTypeError, ShmQueueValueError: ``max_items`` is no number of items.
        """
        items = self._get_items(require_int("max_items", max_items, least=1), block, timeout)
        if not items:
            raise self.empty(block, timeout)
        return load_many(*items, self.load) if isinstance(items, tuple) else items

    def _get_items(self, most: int, block: bool, timeout: float | None) -> list[Any] | tuple[list[Any]]:
        return self._items.get_items(most, block, timeout, unpack_plain)

    def put_dumped(self, method: int, payload: Payload, block: bool, timeout: float | None) -> None:
        """Put an item that its caller has dumped.

        Raises:
            ShmQueueFull, ShmQueueShutDown, ShmQueueValueError: as ``put``.
        """
        if not self.put_record(method, payload, block, timeout):
            raise self.full(1, block, timeout)

    def put_unchanged(self, method: int, payload: bytes, block: bool, timeout: float | None) -> bool:
        """Put an item as the record that it is in another queue. False: this one does not take such records.

        Raises:
            ShmQueueFull, ShmQueueShutDown, ShmQueueValueError: as ``put``.
        """
        if not self.codec.takes(method):
            return False
        self.put_dumped(method, payload, block, timeout)
        return True

    # ---- items in place ----

    def put_view(self, length: int, block: bool, timeout: float | None) -> PutView:
        """See ``ShmQueue.put_view``."""
        reservation = self.engine.reserve(require_int("length", length, least=0), block, timeout)
        if reservation is None:
            raise self.full(1, block, timeout)
        return PutView(reservation, lambda: self._why_full(1, block, timeout))

    def get_view(self, block: bool, timeout: float | None) -> View:
        """See ``ShmQueue.get_view``."""
        try:
            loan = self.engine.lend(block, timeout, True)
        except not_of_handler(TypeError) as error:
            raise ShmQueueTypeError(str(error)) from None
        if loan is None:
            raise self.empty(block, timeout)
        return View(loan)

    def lease(
        self, block: bool, timeout: float | None, max_attempts: int | None, dead_letter: DeadLetterQueue | None
    ) -> Lease[Any]:
        """Lease the oldest item; ``max_attempts`` and ``dead_letter`` are as for ``ShmQueue.lease``.

        Raises:
            ShmQueueEmpty: there was none in time.
        """
        limit = limit_for(self.name, self.uuid, max_attempts, dead_letter)
        if limit is None:
            lease = take_lease(self.engine, block, timeout, self.load, self.look)
            if lease is None:
                raise self.empty(block, timeout)
            return lease

        def lend(left: float | None) -> Loan:
            loan = self.engine.lend(block, left, False)
            if loan is None:
                raise self.empty(block, timeout)
            return loan

        try:
            return lease_of(lend_within(limit, lend, self.load, block, timeout), self.load, self.look)
        finally:
            self.look()  # an item may have been requeued

    # ---- what calls raise ----

    def full(self, items: int, block: bool, timeout: float | None) -> ShmQueueFull:
        """The error for items that found no room."""
        return ShmQueueFull(self._why_full(items, block, timeout))

    def _why_full(self, items: int, block: bool, timeout: float | None) -> str:
        return self.handle.why_full(items) + _in_time(block, timeout)

    def empty(self, block: bool, timeout: float | None) -> ShmQueueEmpty:
        """The error for a call that found nothing to take."""
        return ShmQueueEmpty(f"queue {self.name!r} is empty" + _in_time(block, timeout))

    def require_open(self) -> None:
        """Raise ``ShmQueueNotInitializedError`` if it is closed, and what is missing if it could never be opened."""
        self.handle.require_open()

    # ---- how it stands ----

    def qsize(self) -> int:
        """Items in the queue."""
        return self.engine.qsize()

    def counters(self) -> Counters:
        """The queue's figures."""
        return self.handle.counters()

    @property
    def maxsize(self) -> int:
        """Most items, 0 for as many as fit; changeable, for all processes. After ``close``, what it was then."""
        return self.handle.maxsize()

    @maxsize.setter
    def maxsize(self, maxsize: int) -> None:
        self.engine.set_maxsize(min(maxsize, NUMBER_MOST))

    def uuid(self) -> bytes:
        """That of the segment."""
        self.require_open()
        return self.handle.segment.header.uuid

    def task_done(self) -> None:
        """Mark one retrieved item as processed.

        Raises:
            ShmQueueValueError: more often than items were put.
        """
        if not self.engine.task_done():
            raise ShmQueueValueError("task_done() called too many times")

    # ---- the descriptor and the end ----

    def fileno(self) -> int:
        """A descriptor that is readable while there is something to take; made when it is first asked for.

        Raises:
            ShmQueueNotInitializedError: the channel is closed.
        """
        self.require_open()
        if self.engine is self.handle.engine:
            with changing():
                if self.engine is self.handle.engine:
                    self._use(self._descriptor.looking_engine())
        return self._descriptor.fileno()

    def close(self) -> None:
        """Close the handle and the descriptor; every other call then raises. Idempotent."""
        self.handle.close()
        self._descriptor.close()


def _in_time(block: bool, timeout: float | None) -> str:
    return f" after {round(float(timeout), 3):g} s" if block and timeout is not None else ""
