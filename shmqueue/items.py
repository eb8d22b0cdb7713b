"""The short way of ordinary items: from objects to records and back in one call.

The native engine does it in C for what msgpack packs; any other engine, and what is put around one, gets the same from
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from shmqueue import engine, plain
from shmqueue.exceptions import ShmQueueDeserializationError
from shmqueue.interruptions import not_of_handler
from shmqueue.messages import tell_items_put

if TYPE_CHECKING:
    from shmqueue.engine import Engine, Payload

try:
    from shmqueue.engine.native import Record
except ImportError:
    if not TYPE_CHECKING:

        class Record(tuple):
            """A record that must be loaded, (method, payload): a type of its own, for an item may be a tuple."""


__all__ = [
    "GetItem",
    "Items",
    "PutItem",
    "Record",
    "as_get_item",
    "as_put_item",
    "items_of",
    "load_many",
]

Unpack = Callable[[bytes], Any]
Dumped = tuple[int, Any]


class PutItem(Protocol):
    """Puts an item.

    Args:
        item: the item.
        block, timeout: as for ``Engine.put``.
        as_pickle: whether only what comes back as from pickle is put: exact None, bool, int, float, str and bytes, and
            perhaps lists, dicts and tuples of those in which none of these occurs twice. Else: any plain item, see
            ``shmqueue.plain``.

    Returns:
        True, False if there was no room in time, or None, with nothing put, if the item does not go this way.
    """

    def __call__(self, item: Any, block: bool, timeout: float | None, as_pickle: bool, /) -> bool | None: ...


class GetItem(Protocol):
    """Takes an item.

    Args:
        block, timeout: as for ``Engine.get``.
        unpack: turns the payload of a msgpack record into an item, or raises.

    Returns:
        The item; or a ``Record`` (method, payload), which must be loaded; or one with nothing in it, if there was none
        in time.
    """

    def __call__(self, block: bool, timeout: float | None, unpack: Unpack, /) -> Any: ...


class Items(Protocol):
    """An engine, or what stands for one, that takes and gives items."""

    put_item: PutItem
    get_item: GetItem

    def put_items(
        self,
        items: Iterable[Any],
        block: bool,
        timeout: float | None,
        as_pickle: bool,
        dump: Callable[[Any], Dumped],
        /,
    ) -> int:
        """Put items, all or none if they fit together, else in pieces; ``dump`` makes records of what does not go so.

        All of them are serialized before the first is put. Returns how many were put in time.
        """

    def get_items(
        self, most: int, block: bool, timeout: float | None, unpack: Unpack, /
    ) -> list[Any] | tuple[list[Any]]:
        """Take 1 to ``most`` items, none if there were none in time.

        Returns a list of items; in a tuple, if there are instances of ``Record`` among them, which must be loaded.
        """


def items_of(engine_: Engine) -> Items:
    """How to put and get items with this engine."""
    native: Any = engine_
    return native if hasattr(engine_, "put_items") else _Generic(engine_)


def as_put_item(put: Callable[[int, Payload, bool, float | None], bool]) -> PutItem:
    """Make it of a put of records."""

    def put_item(item: Any, block: bool, timeout: float | None, as_pickle: bool, /) -> bool | None:
        record = _packed(item, as_pickle)
        return None if record is None else put(*record, block, timeout)

    return put_item


def as_get_item(get: Callable[[bool, float | None], tuple[int, bytes] | None]) -> GetItem:
    """Make it of a get of records."""

    def get_item(block: bool, timeout: float | None, unpack: Unpack, /) -> Any:
        record = get(block, timeout)
        return Record() if record is None else _unpacked(record, unpack)

    return get_item


def _unpacked(record: tuple[int, bytes], unpack: Unpack) -> Any:
    if record[0] == 0:
        try:
            return unpack(record[1])
        except not_of_handler(Exception):
            pass  # loading it again says why
    return Record(record)


def _packed(item: Any, as_pickle: bool) -> tuple[int, bytes] | None:
    kind = type(item)
    try:
        if kind in plain.SCALARS:
            return 0, plain.pack_scalar(item)
        if not as_pickle and kind in plain.TYPES:
            return plain.pack(item)
    except not_of_handler(Exception):
        pass  # it is an int of more than 64 bits, for instance: the codec packs it, or says why it cannot
    return None


class _Generic:
    """Items by an engine that has records only."""

    def __init__(self, engine_: Engine) -> None:
        self._engine = engine_
        self.put_item, self.get_item = as_put_item(engine_.put), as_get_item(engine_.get)

    def put_items(
        self,
        items: Iterable[Any],
        block: bool,
        timeout: float | None,
        as_pickle: bool,
        dump: Callable[[Any], Dumped],
        /,
    ) -> int:
        records = [_packed(item, as_pickle) or dump(item) for item in items]
        deadline = engine.deadline_after(timeout)
        done = 0
        try:
            try:
                while done < len(records):
                    rest = records[done:] if done else records
                    put = self._engine.put_many(rest, block, engine.seconds_until(deadline))
                    if put == 0:
                        break
                    done += put
            except BaseException as error:
                tell_items_put(error, done, len(records))
                raise
        except BaseException as error:
            if done:
                error.items_put = done  # type: ignore[attr-defined] # of a signal handler, see tell_items_put()
            raise
        return done

    def get_items(
        self, most: int, block: bool, timeout: float | None, unpack: Unpack, /
    ) -> list[Any] | tuple[list[Any]]:
        entries = [_unpacked(record, unpack) for record in self._engine.get_many(most, block, timeout)]
        return (entries,) if any(type(entry) is Record for entry in entries) else entries


def load_many(entries: Iterable[Any], load: Callable[[int, bytes], Any]) -> list[Any]:
    """The items among which are records, which are loaded.

    Raises:
        ShmQueueDeserializationError: one of them cannot be loaded; ``items`` are the others.
    """
    items: list[Any] = []
    failed: Exception | None = None
    for entry in entries:
        try:
            items.append(load(*entry) if type(entry) is Record else entry)
        except not_of_handler(Exception) as error:
            failed = failed or error
    if isinstance(failed, ShmQueueDeserializationError):
        failed.items = items
        raise failed
    if failed is not None:
        raise ShmQueueDeserializationError(f"cannot load one of several items: {failed!r}", items=items) from failed
    return items
