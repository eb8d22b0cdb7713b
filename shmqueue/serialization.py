"""Objects to bytes and back.

Each record carries the number of the method that made its payload, so a reader never guesses:

====== ====================================================================================================
0      msgpack, of what msgpack itself keeps exactly
1      pickle, for everything else; refused on both sides with ``allow_pickle=False``
2      msgpack in which tuples stand as arrays that begin with a mark
3      pickle with large buffers beside it, see ``shmqueue.pickling``; refused like 1
>=1001 the caller's own, see ``ShmQueue.custom_serialize``
====== ====================================================================================================

What comes back equals what was put, and has the same type, with one exception: bytearray and memoryview arrive as
bytes. A container to which an item refers more than once is one container afterwards, by pickle; with
``allow_pickle=False`` it arrives as copies. Subclasses of msgpack's types (an OrderedDict, an IntEnum, a numpy float)
go by pickle and stay what they are. The adapters keep to pickle more closely, see ``PickleSerializer``. This module
knows nothing of queues or shared memory.
"""

from __future__ import annotations

import enum
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

from shmqueue import pickling, plain, plain_unpacking
from shmqueue.arguments import whole_number
from shmqueue.exceptions import (
    ShmQueueDeserializationError,
    ShmQueueNoDeserializerError,
    ShmQueueNoSerializerError,
    ShmQueueSerializationError,
    ShmQueueValueError,
)
from shmqueue.interruptions import not_of_handler
from shmqueue.pickling import Payload

__all__ = [
    "LOADERS",
    "PickleSerializer",
    "SerializationMethods",
    "Serializer",
]


class SerializationMethods(enum.IntEnum):
    """The numbers that travel with each record."""

    MSGPACK = 0
    """The default: msgpack where it keeps the item's types, pickle otherwise."""
    DEFAULT = 0
    """The same as ``MSGPACK``."""
    PICKLE = 1
    MSGPACK_TUPLES = 2
    """Chosen by ``MSGPACK`` for items with tuples in them."""
    PICKLE_BUFFERS = 3
    """Chosen by ``MSGPACK`` and ``PICKLE`` for items with large buffers in them."""
    FIRST_PUBLIC_NUMBER = 1001
    """Numbers from this one on are the caller's own."""


CustomSerialize = Callable[[int, Any], bytes]
CustomDeserialize = Callable[[int, list[bytes]], Any]

_LARGEST_NUMBER = 0xFFFFFFFF

_MSGPACK = int(SerializationMethods.MSGPACK)
_PICKLE = int(SerializationMethods.PICKLE)
_MSGPACK_TUPLES = int(SerializationMethods.MSGPACK_TUPLES)
_PICKLE_BUFFERS = int(SerializationMethods.PICKLE_BUFFERS)

LOADERS: dict[int, Callable[[bytes], Any]] = {
    **plain_unpacking.UNPACKERS,
    _PICKLE: pickle.loads,
    _PICKLE_BUFFERS: pickling.loads,
}
"""What turns the payload of each method back into an item; raises whatever it raises."""

_BYTES = frozenset({bytes, bytearray, memoryview})


def _require_whole_bytes(data: bytes | bytearray | memoryview) -> None:
    """Refuse bytes that no queue takes, before anything copies them."""
    if isinstance(data, memoryview) and not data.c_contiguous:
        raise ShmQueueSerializationError(
            f"this memoryview is not contiguous (shape {data.shape}, strides {data.strides}): put bytes(view) instead"
        )


class Serializer:
    """One handle's rules for turning items into (method, payload) and back; a ``Codec`` of ``shmqueue.channel``.

    Args:
        allow_pickle: whether pickle may be used, in either direction.
    """

    as_pickle: ClassVar[bool] = False

    def __init__(self, allow_pickle: bool) -> None:
        self.allow_pickle = allow_pickle
        self.custom_serialize: CustomSerialize | None = None
        self.custom_deserialize: CustomDeserialize | None = None

    def dump(self, data: Any, method: int = _MSGPACK) -> tuple[int, Payload]:
        """Turn an item into the number that its record will carry, and its payload, perhaps in parts.

        Raises:
            ShmQueueSerializationError: it cannot be done with this method, or not without pickle.
            ShmQueueTypeError, ShmQueueValueError: ``method`` is no number of a method.
        """
        if type(method) is not int:
            method = whole_number("serialization_method", method)
        if type(data) in _BYTES:
            _require_whole_bytes(data)
        if method in (_MSGPACK, _MSGPACK_TUPLES):
            return self._dump_default(data)
        if method in (_PICKLE, _PICKLE_BUFFERS):
            if not self.allow_pickle:
                raise ShmQueueSerializationError("serialization_method is PICKLE and this queue has allow_pickle=False")
            return self._dump_pickle(data)
        if SerializationMethods.FIRST_PUBLIC_NUMBER <= method <= _LARGEST_NUMBER:
            return int(method), self._dump_custom(data, method)
        raise ShmQueueValueError(
            f"there is no serialization method {method}: use 0 (msgpack), 1 (pickle), "
            f"or one of your own from {int(SerializationMethods.FIRST_PUBLIC_NUMBER)} to {_LARGEST_NUMBER}"
        )

    def _dump_default(self, data: Any) -> tuple[int, Payload]:
        if type(data) in plain.TYPES:
            try:
                return plain.pack(data)
            except not_of_handler(Exception):
                pass  # whatever it was: the rest of the ladder says what is wrong with the item
        return self.dump_rest(data)

    def dump_rest(self, data: Any) -> tuple[int, Payload]:
        """``dump`` for an item which ``plain.pack``, or the native engine in its place, has refused."""
        if type(data) in _BYTES:
            _require_whole_bytes(data)
        if not self.allow_pickle:
            try:
                return plain.pack_copies(data)
            except MemoryError:
                raise  # it is not the item's fault
            except not_of_handler(Exception) as error:
                raise ShmQueueSerializationError(
                    f"msgpack cannot keep this {type(data).__name__} ({error}) and this queue has allow_pickle=False"
                ) from error
        try:
            return self._dump_pickle(pickling.Large.of(data))
        except ShmQueueSerializationError:
            try:
                return plain.pack_copies(data)  # a memoryview, for instance, beside containers that stand twice
            except MemoryError:
                raise  # it is not the item's fault
            except not_of_handler(Exception):
                pass  # the error of pickle says more than that of this last attempt
            raise

    def _dump_pickle(self, data: Any) -> tuple[int, Payload]:
        if type(data) is bytes:
            data = pickling.Large.of(data)
        try:
            has_buffers, payload = pickling.dumps(data)
        except MemoryError:
            raise  # it is not the item's fault
        except not_of_handler(Exception) as error:
            raise ShmQueueSerializationError(f"cannot pickle this {type(data).__name__}: {error}") from error
        return _PICKLE_BUFFERS if has_buffers else _PICKLE, payload

    def _dump_custom(self, data: Any, method: int) -> bytes:
        if self.custom_serialize is None:
            raise ShmQueueNoSerializerError(
                f"serialization method {int(method)} is your own and has no function: call custom_serialize() first"
            )
        try:
            payload = self.custom_serialize(method, data)
        except not_of_handler(Exception) as error:
            is_missing = isinstance(error, NotImplementedError)
            kind = ShmQueueNoSerializerError if is_missing else ShmQueueSerializationError
            raise kind(f"custom_serialize failed with method {int(method)}: {error!r}") from error
        if not isinstance(payload, (bytes, bytearray, memoryview)):
            raise ShmQueueSerializationError(
                f"custom_serialize returned {type(payload).__name__} for method {method}, not bytes"
            )
        return bytes(payload)

    def load(self, method: int, payload: bytes) -> Any:
        """Turn a record back into the item.

        Raises:
            ShmQueueDeserializationError: it cannot be done, or not without pickle.
        """
        if method in (_PICKLE, _PICKLE_BUFFERS) and not self.allow_pickle:
            raise ShmQueueDeserializationError("the item was pickled and this queue has allow_pickle=False")
        loader = LOADERS.get(method) or self._custom_loader(method)
        try:
            return loader(payload)
        except not_of_handler(Exception) as error:
            is_missing = isinstance(error, NotImplementedError) and method not in LOADERS
            kind = ShmQueueNoDeserializerError if is_missing else ShmQueueDeserializationError
            raise kind(
                f"cannot load an item of {len(payload)} bytes with serialization method {method}: {error!r}"
            ) from error

    def takes(self, method: int) -> bool:
        """Whether an item may be put as the record of another queue, with this method, and could be loaded then."""
        if method in (_PICKLE, _PICKLE_BUFFERS):
            return self.allow_pickle
        return method in LOADERS or self.custom_deserialize is not None

    def _custom_loader(self, method: int) -> Callable[[bytes], Any]:
        custom = self.custom_deserialize
        if custom is None or method < SerializationMethods.FIRST_PUBLIC_NUMBER:
            raise ShmQueueNoDeserializerError(
                f"the item was put with serialization method {method}, which has no function here: "
                "call custom_deserialize() first"
            )
        return lambda payload: custom(method, [payload])


class PickleSerializer:
    """The rules of ``shmqueue.compat``: what comes back is what was put, as pickle would have it.

    msgpack is used only for exact None, bool, int of 64 bits, float, str and bytes, and by the native engine (methods 0
    and 2) for lists, dicts and tuples of those, up to 64 KiB, in which none of these occurs twice; pickle for all else.
    Whatever a ``ShmQueue`` puts can be loaded, except what was made with a method of its user's own. Errors of pickling
    and unpickling are raised as they are.
    """

    as_pickle: ClassVar[bool] = True

    def dump(self, item: Any) -> tuple[int, Payload]:
        """The record of an item."""
        if type(item) in plain.SCALARS:
            try:
                return _MSGPACK, plain.pack_scalar(item)
            except not_of_handler(Exception):
                pass  # it is an int of more than 64 bits, or a str with lone surrogates
        return self._dump_pickle(item)

    dump_rest = dump

    def _dump_pickle(self, item: Any) -> tuple[int, Payload]:
        has_buffers, payload = pickling.dumps(item)
        return _PICKLE_BUFFERS if has_buffers else _PICKLE, payload

    def load(self, method: int, payload: bytes) -> Any:
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

    def takes(self, method: int) -> bool:
        """Whether a record of this method, which another queue has made, could be loaded."""
        return method in LOADERS
