"""Items to records and back as the queues of multiprocessing do it, with ``ForkingPickler``.

Where a program has replaced it, or its ``dumps`` or ``loads``, the replacement is called for every item that needs
pickle.
"""

from __future__ import annotations

import copyreg
import pickle
import struct
import sys
from collections.abc import Callable
from multiprocessing import context, reduction
from multiprocessing.reduction import ForkingPickler
from typing import Any

from shmqueue.interruptions import not_of_handler
from shmqueue.pickling import BUFFER_LEAST, BUFFERS_MOST, Beside, Payload
from shmqueue.serialization import PickleSerializer

__all__ = ["SERIALIZER", "pickle_forking"]

_PICKLE, _PICKLE_BUFFERS = 1, 3


class _ForkingSerializer(PickleSerializer):
    """With the reducers that multiprocessing and its users have registered."""

    def _dump_pickle(self, item: Any) -> tuple[int, Payload]:
        replaced = _replaced_pickler()
        return _pickle(item) if replaced is None else (_PICKLE, bytes(replaced.dumps(item)))

    def load(self, method: int, payload: bytes) -> Any:
        """The item of a record, by the ``loads`` of whatever stands in ``ForkingPickler``'s place.

        Raises:
            ShmQueueDeserializationError: it was made with a method that is not known here.
            Exception: whatever unpickling raises.
        """
        if method == _PICKLE:
            replaced = _replaced_pickler()
            if replaced is not None:
                return replaced.loads(payload)
        return PickleSerializer.load(self, method, payload)  # super() would cost more than the call


SERIALIZER = _ForkingSerializer()


def pickle_forking(item: Any) -> bytes:
    """The bytes that multiprocessing would send: all of the item in one piece."""
    return bytes((_replaced_pickler() or ForkingPickler).dumps(item))


# ---- ForkingPickler without building its table of reducers anew for each item ----

_KEPT_PICKLE = 4096  # bytes: what a pickler remembers of a larger item takes longer to clear than to make a new one

_Reducers = dict[Any, Any]
_ForkingPickler: Any = ForkingPickler  # its table is nobody's declared interface


class _ReadOnlyError(Exception):
    """A read-only buffer would have to stand in the pickle, and arrive read-only."""


class _Beside(Beside):
    """Leaves read-only buffers out of the pickle, too: by multiprocessing's protocol, below 5, they arrive writable."""

    __slots__ = ("read_only",)

    def __init__(self) -> None:
        super().__init__()
        self.read_only = 0

    def __call__(self, buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        read_only = view.readonly and pickle.DEFAULT_PROTOCOL < 5
        if view.nbytes < BUFFER_LEAST or len(self.views) == BUFFERS_MOST:
            view.release()
            if read_only:
                raise _ReadOnlyError
            return True
        self.read_only += read_only
        self.views.append(view)
        return False

    def writable(self, pickled: bytes) -> bytes:
        """The pickle without its wish that buffers are read-only: two opcodes that follow each other, for each.

        They are found if these bytes stand nowhere else. Their frame, which must be the only one, becomes shorter.
        """
        (length,) = _FRAME.unpack_from(pickled, len(_FRAME_OPCODES))
        end = len(_FRAME_OPCODES) + _FRAME.size
        if (
            not pickled.startswith(_FRAME_OPCODES)
            or length != len(pickled) - end
            or pickled.count(_NEXT_READ_ONLY) != self.read_only
        ):
            raise _ReadOnlyError
        rest = pickled[end:].replace(_NEXT_READ_ONLY, _NEXT_READ_ONLY[:1])
        return _FRAME_OPCODES + _FRAME.pack(len(rest)) + rest


_FRAME_OPCODES = b"\x80\x05\x95"  # PROTO 5, FRAME
_FRAME = struct.Struct("<Q")
_NEXT_READ_ONLY = b"\x97\x98"  # NEXT_BUFFER, READONLY_BUFFER


class _Pickler:
    """A ForkingPickler that can be used again, what it writes to, and the reducers it was made with."""

    __slots__ = ("beside", "chunks", "common", "dump", "forget", "own", "write")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.write = self.chunks.append
        self.own: _Reducers = dict(_ForkingPickler._extra_reducers)
        self.common: _Reducers = dict(copyreg.dispatch_table)
        self.beside = _Beside()
        pickler = ForkingPickler(self, pickle.HIGHEST_PROTOCOL, True, self.beside)
        self.dump: Callable[[Any], None] = pickler.dump
        self.forget: Callable[[], None] = pickler.clear_memo


_idle_picklers: list[_Pickler] = []


def _pickle(item: Any) -> tuple[int, Payload]:
    """Pickle with what ``ForkingPickler`` knows.

    Each call has a pickler for itself: a ``__reduce__``, a finalizer or a signal handler in the middle of it may put.
    One that raised is not used again.
    """
    try:
        pickler = _idle_picklers.pop()
        if pickler.own != _ForkingPickler._extra_reducers or pickler.common != copyreg.dispatch_table:
            pickler = _Pickler()  # somebody has registered a reducer since
    except not_of_handler(IndexError):
        pickler = _Pickler()
    chunks = pickler.chunks
    beside = pickler.beside
    try:
        pickler.dump(item)
        pickled = b"".join(chunks)
        if beside.read_only:
            pickled = beside.writable(pickled)
    except _ReadOnlyError:
        return _PICKLE, bytes(ForkingPickler.dumps(item))
    if beside.views:
        return _PICKLE_BUFFERS, beside.payload(pickled)
    if len(pickled) <= _KEPT_PICKLE:
        chunks.clear()
        pickler.forget()
        _idle_picklers.append(pickler)
    return _PICKLE, pickled


# ---- a ForkingPickler that was replaced ----


def _standard(function: str) -> Any:
    """``ForkingPickler.dumps`` or ``loads`` as it stands in the class, None if that is not the standard library's."""
    value = vars(ForkingPickler)[function]
    code = getattr(getattr(value, "__func__", None), "__code__", None)
    came_with = value is pickle.loads or (code is not None and code.co_filename == reduction.dump.__code__.co_filename)
    return value if came_with else None


_DUMPS, _LOADS = _standard("dumps"), _standard("loads")


def _replaced_pickler() -> Any:
    """The class whose ``dumps`` and ``loads`` the standard queues would call; None if it is the standard one unchanged.

    They take it from ``multiprocessing.queues``, which took it from the reducer that was set in a context.
    """
    pickler: Any = sys.modules["multiprocessing.queues"]._ForkingPickler
    if pickler is ForkingPickler:
        pickler = getattr(vars(context)["reduction"], "ForkingPickler", pickler)  # a context's reducer may be set later
    if pickler is ForkingPickler:
        attributes = vars(pickler)
        if attributes["dumps"] is _DUMPS and attributes["loads"] is _LOADS:
            return None
    return pickler
