"""Objects to bytes and back.

Each record carries the number of the method that made its payload, so a reader never guesses:

====== ====================================================================================================
0      msgpack, of what msgpack itself keeps exactly
1      pickle, for everything else; refused on both sides with ``allow_pickle=False``
2      msgpack in which tuples stand as an extension type
3      pickle with large buffers beside it, see ``shmqueue.pickling``; refused like 1
>=1001 the caller's own, see ``ShmQueue.custom_serialize``
====== ====================================================================================================

What comes back equals what was put, and has the same type, with one exception: bytearray and memoryview arrive as
bytes. Subclasses of msgpack's types (an OrderedDict, an IntEnum, a numpy float) go by pickle and stay what they are. An
object whose buffers travelled beside its pickle (a large numpy array) lives in the memory that it was received in.
This module knows nothing of queues or shared memory.
"""

from __future__ import annotations

import enum
import functools
import pickle
from collections.abc import Callable
from typing import Any

import msgpack

from shmqueue import pickling
from shmqueue.arguments import whole_number
from shmqueue.exceptions import (
    ShmQueueDeserializationError,
    ShmQueueNoDeserializerError,
    ShmQueueNoSerializerError,
    ShmQueueSerializationError,
    ShmQueueValueError,
)
from shmqueue.limits import require_possible_length
from shmqueue.pickling import Payload

__all__ = [
    "LOADERS",
    "PLAIN",
    "SerializationMethods",
    "Serializer",
    "new_packer",
    "pack_plain",
    "unpack_plain",
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

# Extension codes below 0 are msgpack's own to give, and ExtType() refuses them: no item can hold one by accident.
_TUPLE_CODE = -84
_TUPLE_DEPTH_MAX = 32  # deeper nesting goes by pickle, since each level is packed once more inside the outer one

PLAIN = frozenset({int, float, bool, type(None), str, bytes})
"""Types of which exact instances are scalars to msgpack, and come back as they were."""


def new_packer() -> Callable[[Any], bytes]:
    """A function that packs with msgpack what msgpack keeps exactly, and raises for all else.

    One call at a time: half-way through an item that it refuses the garbage collector may run any code, which may put.
    After it has raised it is not to be used again: what it has written of that item, all of it if there was no memory
    for the result, would come before the next one.
    """
    pack: Callable[[Any], bytes] = msgpack.Packer(strict_types=True).pack
    return pack


_KEPT_PAYLOAD = 1 << 18  # bytes: a packer keeps the memory of the largest item it has packed

_CONTAINERS = frozenset({tuple, list, dict})  # which may hold tuples, and nothing else that msgpack refuses

_idle_packers: list[Callable[[Any], bytes]] = []


def pack_plain(data: Any) -> bytes:
    """msgpack for what it keeps exactly; raises for all else. Each call has a packer for itself."""
    try:
        pack = _idle_packers.pop()
    except IndexError:
        pack = new_packer()
    payload = pack(data)
    if len(payload) <= _KEPT_PAYLOAD:
        _idle_packers.append(pack)
    return payload


unpack_plain: Callable[[bytes], Any] = msgpack.unpackb
"""The way back. Without options, which would cost more than a small item's unpacking: keys that are no strings raise
ValueError and are left to ``Serializer.load``."""


class _TupleDepth(ValueError):
    """Tuples are nested too deeply for the extension type."""


def _pack_tuples(data: Any, depth: int = 0) -> bytes:
    def as_extension(value: Any) -> msgpack.ExtType:
        if type(value) is not tuple:
            raise TypeError(f"msgpack does not keep {type(value).__name__}")
        if depth >= _TUPLE_DEPTH_MAX:
            raise _TupleDepth
        content = (_TUPLE_CODE, _pack_tuples(list(value), depth + 1))
        return msgpack.ExtType._make(content)

    packed: bytes = msgpack.packb(data, strict_types=True, default=as_extension)
    return packed


def _tuple_from_extension(depth: int, code: int, data: bytes) -> Any:
    if code == _TUPLE_CODE:
        return tuple(_unpack_tuples(data, depth + 1))
    return msgpack.ExtType(code, data)


_EXTENSION_HOOKS = tuple(functools.partial(_tuple_from_extension, depth) for depth in range(_TUPLE_DEPTH_MAX + 1))


def _unpack_tuples(payload: bytes, depth: int = 0) -> Any:
    if depth > _TUPLE_DEPTH_MAX:  # nobody packs that, and each level takes much of the stack
        raise _TupleDepth(f"tuples are nested more than {_TUPLE_DEPTH_MAX} deep")
    return msgpack.unpackb(payload, ext_hook=_EXTENSION_HOOKS[depth], strict_map_key=False)


def _unpack_msgpack(payload: bytes) -> Any:
    try:
        return unpack_plain(payload)
    except ValueError:  # keys that are no strings: allowed here, but the option would slow down all other items
        return msgpack.unpackb(payload, strict_map_key=False)


LOADERS: dict[int, Callable[[bytes], Any]] = {
    _MSGPACK: _unpack_msgpack,
    _PICKLE: pickle.loads,
    _MSGPACK_TUPLES: _unpack_tuples,
    _PICKLE_BUFFERS: pickling.loads,
}
"""What turns the payload of each method back into an item; raises whatever it raises."""

_BYTES = frozenset({str, bytes, bytearray, memoryview})


def _require_whole_bytes(data: str | bytes | bytearray | memoryview) -> None:
    """Refuse bytes that no queue takes, before anything copies them."""
    require_possible_length(data)
    if isinstance(data, memoryview) and not data.c_contiguous:
        raise ShmQueueSerializationError(
            f"this memoryview is not contiguous (shape {data.shape}, strides {data.strides}): put bytes(view) instead"
        )


class Serializer:
    """One handle's rules for turning items into (method, payload) and back.

    Args:
        allow_pickle: whether pickle may be used, in either direction.
    """

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
        try:
            return _MSGPACK, pack_plain(data)
        except Exception as error:
            why: Exception | None = error
        try:
            if type(data) in _CONTAINERS:
                try:
                    return _MSGPACK_TUPLES, _pack_tuples(data)
                except Exception as error:
                    why = error
            if not self.allow_pickle:
                raise ShmQueueSerializationError(
                    f"msgpack cannot keep this {type(data).__name__} ({why}) and this queue has allow_pickle=False"
                ) from why
            return self._dump_pickle(data)
        finally:
            why = None  # its traceback holds this frame, and so the item, until the next garbage collection

    def _dump_pickle(self, data: Any) -> tuple[int, Payload]:
        try:
            has_buffers, payload = pickling.dumps(data)
        except MemoryError:
            raise  # it is not the item's fault
        except Exception as error:
            raise ShmQueueSerializationError(f"cannot pickle this {type(data).__name__}: {error}") from error
        return _PICKLE_BUFFERS if has_buffers else _PICKLE, payload

    def _dump_custom(self, data: Any, method: int) -> bytes:
        if self.custom_serialize is None:
            raise ShmQueueNoSerializerError(
                f"serialization method {int(method)} is your own and has no function: call custom_serialize() first"
            )
        try:
            payload = self.custom_serialize(method, data)
        except Exception as error:
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
        except Exception as error:
            is_missing = isinstance(error, NotImplementedError) and method not in LOADERS
            kind = ShmQueueNoDeserializerError if is_missing else ShmQueueDeserializationError
            raise kind(
                f"cannot load an item of {len(payload)} bytes with serialization method {method}: {error!r}"
            ) from error

    def _custom_loader(self, method: int) -> Callable[[bytes], Any]:
        custom = self.custom_deserialize
        if custom is None or method < SerializationMethods.FIRST_PUBLIC_NUMBER:
            raise ShmQueueNoDeserializerError(
                f"the item was put with serialization method {method}, which has no function here: "
                "call custom_deserialize() first"
            )
        return lambda payload: custom(method, [payload])
