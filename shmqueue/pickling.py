"""Pickle with large buffers beside it (PEP 574), so that put and get copy each of them once.

A payload of this kind is  buffers | pickle | u64 index[count] | u32 count . Each buffer begins at a multiple of 64
bytes from the payload's start; its index entry is its length in bytes. (The pickle itself says which of them it wants
read-only.)

A buffer that makes up a good part of the payload stays in the memory that it was received in. All others are loaded
into memory of their own: an object that is kept keeps no more than a few times its size.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from typing import Any, Union

__all__ = ["BUFFERS_MOST", "BUFFER_LEAST", "Beside", "Buffer", "Large", "Payload", "dumps", "loads"]

Buffer = Union[bytes, bytearray, memoryview]
Payload = Union[Buffer, "tuple[Buffer, ...]"]
"""A payload in one piece, or its parts in their order."""

BUFFER_LEAST = 4096  # bytes: a smaller buffer is copied into the pickle at less than it costs to keep it apart
BUFFERS_MOST = 16  # buffers of one item that are kept apart
_ALIGNMENT = 64  # bytes
_SHARE = 4  # a buffer of at least the payload's length, divided by this, stays in it
_COUNT = struct.Struct("<I")
_PADDING = bytes(_ALIGNMENT)


_MSGPACK_MOST = 0xFFFFFFFF  # bytes of a bytes object


class Large:
    """Stands for bytes that msgpack is too small for: pickled without a copy of them, they arrive as bytes."""

    __slots__ = ("_data",)

    def __init__(self, data: Buffer) -> None:
        self._data = data

    def __reduce__(self) -> tuple[type[bytes], tuple[pickle.PickleBuffer]]:
        return bytes, (pickle.PickleBuffer(self._data),)

    @classmethod
    def of(cls, data: Any) -> Any:
        """What is to be pickled in the place of an item: itself, unless it is such bytes."""
        if type(data) in (bytes, bytearray, memoryview):
            length = data.nbytes if isinstance(data, memoryview) else len(data)
            return cls(data) if length > _MSGPACK_MOST else data
        return data


class Beside:
    """What a pickler leaves out of its pickle: to be called as its ``buffer_callback``."""

    __slots__ = ("views",)

    def __init__(self) -> None:
        self.views: list[memoryview] = []

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        """Whether the pickler is to write the buffer into the pickle after all."""
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < BUFFER_LEAST or len(self.views) == BUFFERS_MOST:
            view.release()
            return True
        self.views.append(view)
        return False

    def payload(self, pickled: bytes) -> Payload:
        """All of it as the parts of one payload."""
        parts: list[Buffer] = []
        index = []
        for view in self.views:
            parts.append(view)
            if gap := -view.nbytes % _ALIGNMENT:
                parts.append(_PADDING[:gap])
            index.append(view.nbytes)
        trailer = struct.pack(f"<{len(index)}Q", *index) + _COUNT.pack(len(index))
        return (*parts, pickled + trailer)


def dumps(data: Any) -> tuple[bool, Payload]:
    """Pickle an item. Returns whether there are buffers beside the pickle, and the payload."""
    beside = Beside()
    pickled = pickle.dumps(data, pickle.HIGHEST_PROTOCOL, buffer_callback=beside)
    return (True, beside.payload(pickled)) if beside.views else (False, pickled)


def loads(payload: Buffer, load: Callable[..., Any] = pickle.loads) -> Any:
    """The item of a payload with buffers.

    Args:
        payload: if it is a bytearray, objects may live in it.
        load: unpickles.

    Raises:
        ValueError: the payload contradicts itself.
        Exception: whatever unpickling raises.
    """
    view = memoryview(payload)
    end = len(view) - _COUNT.size
    count = _COUNT.unpack_from(view, end)[0] if end >= 0 else 0
    pickle_end = end - 8 * count
    if pickle_end < 0:
        raise ValueError(f"a pickle with {count} buffers does not fit in {len(view)} bytes")
    buffers: list[Buffer] = []
    offset = 0
    for length in struct.unpack_from(f"<{count}Q", view, pickle_end):
        if length > pickle_end - offset:
            raise ValueError(f"a buffer of {length} bytes does not fit in {len(view)} bytes")
        buffer = view[offset : offset + length]
        buffers.append(bytearray(buffer) if view.readonly or _SHARE * length < len(view) else buffer)
        offset += length + -length % _ALIGNMENT
    return load(view[offset:pickle_end], buffers=buffers)
