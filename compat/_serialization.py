"""Items to records and back, as the adapters promise it: what comes back is what was put, as pickle would have it.

msgpack (record method 0) is used only for exact None, bool, int of 64 bits, float, str and bytes, pickle (method 1) for
all else. Whatever a ``ShmQueue`` puts can be loaded, except what was made with a method of its user's own. Errors of
pickling and unpickling are raised as they are.
"""

from __future__ import annotations

import copyreg
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

from shmqueue.exceptions import ShmQueueDeserializationError
from shmqueue.serialization import LOADERS, SCALARS, pack_plain, pack_scalar, unpack_plain

__all__ = [
    "SCALARS",
    "Record",
    "dump",
    "dump_forking",
    "load",
    "load_many",
    "pack_scalar",
    "pickle_forking",
    "unpack_plain",
]

Record = tuple[int, bytes]

_MSGPACK, _PICKLE = 0, 1
_PLAIN = SCALARS | {str, bytes}


def dump(item: Any) -> Record:
    """The record of an item, with plain pickle."""
    if type(item) in _PLAIN:
        try:
            return _MSGPACK, pack_plain(item)
        except Exception:
            pass  # an int of more than 64 bits, or a str with lone surrogates
    return _PICKLE, pickle.dumps(item, pickle.HIGHEST_PROTOCOL)


def dump_forking(item: Any) -> Record:
    """The record of an item, with the reducers that multiprocessing and its users have registered."""
    if type(item) in _PLAIN:
        try:
            return _MSGPACK, pack_plain(item)
        except Exception:
            pass
    return _PICKLE, pickle_forking(item)


# ---- ForkingPickler without building its table of reducers anew for each item ----

_KEPT_PICKLE = 4096  # bytes: what a pickler remembers of a larger item takes longer to clear than to make a new one

_Reducers = dict[Any, Any]
_ForkingPickler: Any = ForkingPickler  # its table is nobody's declared interface


class _Pickler:
    """A ForkingPickler that can be used again, the list it writes to, and the reducers it was made with."""

    __slots__ = ("chunks", "common", "dump", "forget", "own", "write")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.write = self.chunks.append
        self.own: _Reducers = dict(_ForkingPickler._extra_reducers)
        self.common: _Reducers = dict(copyreg.dispatch_table)
        pickler = ForkingPickler(self)
        self.dump: Callable[[Any], None] = pickler.dump
        self.forget: Callable[[], None] = pickler.clear_memo


_idle_picklers: list[_Pickler] = []


def pickle_forking(item: Any) -> bytes:
    """The bytes that ``ForkingPickler.dumps`` would give.

    Each call has a pickler for itself: a ``__reduce__``, a finalizer or a signal handler in the middle of it may put.
    One that raised is not used again.
    """
    try:
        pickler = _idle_picklers.pop()
        if pickler.own != _ForkingPickler._extra_reducers or pickler.common != copyreg.dispatch_table:
            pickler = _Pickler()  # somebody has registered a reducer since
    except IndexError:
        pickler = _Pickler()
    chunks = pickler.chunks
    pickler.dump(item)
    payload = b"".join(chunks)
    if len(payload) <= _KEPT_PICKLE:
        chunks.clear()
        pickler.forget()
        _idle_picklers.append(pickler)
    return payload


# ---- the way back ----


def load(method: int, payload: bytes) -> Any:
    """The item of a record.

    Raises:
        ShmQueueDeserializationError: it was made with a method that is not known here.
        Exception: whatever unpickling raises.
    """
    loader = LOADERS.get(method)
    if loader is None:
        raise ShmQueueDeserializationError(
            f"the item was put with serialization method {method}, its user's own: "
            "take it with a ShmQueue on which custom_deserialize() was called"
        )
    return loader(payload)


def load_many(records: list[Record]) -> list[Any]:
    """The items of records.

    Raises:
        ShmQueueDeserializationError: one of them could not be loaded; ``items`` are those that could.
    """
    items: list[Any] = []
    failed: Exception | None = None
    for method, payload in records:
        try:
            items.append(load(method, payload))
        except Exception as error:
            failed = failed or error
    if failed is not None:
        raise ShmQueueDeserializationError(
            f"cannot load one of {len(records)} items: {failed!r}", items=items
        ) from failed
    return items
