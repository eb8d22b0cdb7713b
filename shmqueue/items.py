"""The short way of ordinary items: from objects to records and back in one call.

The native engine does it in C for what msgpack packs; any other engine, and what is put around one, gets the same from
here. Where a put, a get or a lease of the most ordinary items succeeds at once, the native engine does all of it: see
``fast_put``, ``fast_get`` and ``fast_lease``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from shmqueue import clock, engine, plain
from shmqueue.exceptions import ShmQueueDeserializationError
from shmqueue.messages import tell_items_put

if TYPE_CHECKING:
    from shmqueue.engine import Engine, Payload

try:
    from shmqueue.engine.native import CoroutineMethod, QueueBase, Record, Ring
except ImportError:
    if not TYPE_CHECKING:
        Ring = None

        class Record(tuple):
            """A record that must be loaded, (method, payload): a type of its own, for an item may be a tuple."""

        class QueueBase:
            """Base of the queue classes; without the native engine they do everything by themselves."""

            def _try_first(self, engine: object, load: object, ended: object, /) -> None:
                self._calls, self._paused = 0, clock.monotonic()

            def _is_turn_over(self) -> bool:
                """Whether a coroutine is to let the loop's other tasks run before it takes or puts anything."""
                self._calls += 1
                now = clock.monotonic() if self._calls % CALLS == 0 else self._paused
                is_over = now - self._paused > TURN
                if is_over:
                    self._paused = now
                return is_over


__all__ = [
    "GetItem",
    "Items",
    "PutItem",
    "QueueBase",
    "Record",
    "allow_fast_paths",
    "as_get_item",
    "as_put_item",
    "fast_get",
    "fast_get_coroutine",
    "fast_lease",
    "fast_put",
    "fast_put_coroutine",
    "items_of",
    "load_many",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])
Unpack = Callable[[bytes], Any]
Dumped = tuple[int, Any]

TURN = 0.002
"""Seconds of coroutines that need not wait before one lets the loop's other tasks run, as in ``python_queue.c``."""

CALLS = 16
"""Calls between two looks at the clock."""


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
        except Exception:
            pass  # loading it again says why
    return Record(record)


def _packed(item: Any, as_pickle: bool) -> tuple[int, bytes] | None:
    kind = type(item)
    try:
        if kind in plain.SCALARS:
            return 0, plain.pack_scalar(item)
        if not as_pickle and kind in plain.TYPES:
            return plain.pack(item)
    except Exception:
        pass
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
            while done < len(records):
                put = self._engine.put_many(records[done:] if done else records, block, engine.seconds_until(deadline))
                if put == 0:
                    break
                done += put
        except BaseException as error:
            tell_items_put(error, done, len(records))
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
        except Exception as error:
            failed = failed or error
    if isinstance(failed, ShmQueueDeserializationError):
        failed.items = items
        raise failed
    if failed is not None:
        raise ShmQueueDeserializationError(f"cannot load one of several items: {failed!r}", items=items) from failed
    return items


# ---- what needs no Python at all ----


def fast_put_coroutine(put: _Function) -> _Function:
    """``fast_put`` for an ``async def put(self, item)``, with ``as_pickle``.

    In the class is what passes for the function then. Calling it makes what passes for its coroutine, which makes the
    attempt when it is awaited. Where that does not succeed, and now and then where it would, the function's coroutine
    does everything: it asks ``self._is_turn_over()`` whether to let the loop's other tasks run.
    """
    return _coroutine_in_place_of(put, True)


def fast_get_coroutine(get: _Function) -> _Function:
    """The same for an ``async def get(self)``."""
    return _coroutine_in_place_of(get, False)


def fast_put(as_pickle: bool) -> Callable[[_Function], _Function]:
    """Have a queue's ``put(self, item, block, timeout)``, or ``put(self, item)``, tried by the native engine first.

    In the class is a built-in method then, with the function's name, parameters and documentation. It makes one
    attempt, which waits for nothing, for scalars, small lists, dicts and tuples of them, without a timeout. Whatever
    does not succeed is left to the function, so it must do the same, and more. The class is a ``QueueBase``, and tells
    by ``_try_first`` which engine its object uses, and how to load what the engine does not unpack.

    Args:
        as_pickle: as for ``PutItem``.
    """

    def decorate(put: _Function) -> _Function:
        way = "put" if not as_pickle else "put_as_pickle" if _takes_options(put) else "put_without_options"
        return _in_place_of(put, way)

    return decorate


def fast_get(get: _Function) -> _Function:
    """The same for ``get(self, block, timeout)``."""
    return _in_place_of(get, "get" if _takes_options(get) else "get_without_options")


def fast_lease(lease: _Function) -> _Function:
    """The same for ``lease(self, block, timeout)``."""
    return _in_place_of(lease, "lease")


def allow_fast_paths(engine_: Engine, puts: bool, gets: bool) -> None:
    """Whether items may pass by whatever was put around the engine."""
    if Ring is not None and isinstance(engine_, Ring):
        engine_.fast_puts, engine_.fast_gets = puts, gets


def _takes_options(function: Callable[..., Any]) -> bool:
    assert isinstance(function, FunctionType)
    return "timeout" in function.__code__.co_varnames[: function.__code__.co_argcount]


def _in_place_of(function: _Function, way: str) -> _Function:
    in_class: Any = function if Ring is None else _BuiltIn(function, way)
    return in_class  # type: ignore[no-any-return]


def _coroutine_in_place_of(function: _Function, is_put: bool) -> _Function:
    in_class: Any = function if Ring is None else CoroutineMethod(function, is_put)
    return in_class  # type: ignore[no-any-return]


class _BuiltIn:
    """Stands for a built-in method until its class has been made, which that needs."""

    def __init__(self, function: Callable[..., Any], way: str) -> None:
        self._function, self._way = function, way

    def __set_name__(self, owner: type[QueueBase], name: str) -> None:
        setattr(owner, f"_slow_{self._way.partition('_')[0]}", self._function)
        setattr(owner, name, owner._method(self._way, name, _text_of(self._function)))


def _text_of(function: Callable[..., Any]) -> str:
    """Signature and documentation of a function as those of a built-in method are given."""
    assert isinstance(function, FunctionType)
    code, defaults = function.__code__, function.__defaults__ or ()
    required = code.co_argcount - len(defaults)
    parameters = ["$self", *code.co_varnames[1:required]]
    for name, default in zip(code.co_varnames[required:], defaults, strict=False):
        parameters.append(f"{name}={default if default is None or default is True else int(default)}")
    if code.co_kwonlyargcount:
        by_name = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        parameters += ["*", *(f"{name}=None" for name in by_name)]
        assert function.__kwdefaults__ == dict.fromkeys(by_name), "none has another default"
    return f"{function.__name__}({', '.join(parameters)})\n--\n\n{textwrap.dedent(function.__doc__ or '')}"
