"""Bytes that a queue's own users never write: headers that lie although their checksum is right, and records."""

from __future__ import annotations

import os
import pickle
import random
import struct
from typing import Any

import msgpack

from shmqueue import ShmQueue, segment
from shmqueue.exceptions import ShmQueueDeserializationError, ShmQueueError, ShmQueueTypeError
from shmqueue.segment.header import Header, Shape

from .planted import image_of_a_segment, sealed, write_held
from .trials import Notes

__all__ = ["hostile_headers", "hostile_records"]

_NUMBERS = sorted(
    {edge + step for edge in (0, 8, 4096, *(1 << bits for bits in (16, 31, 32, 47, 48, 62, 63))) for step in (-1, 0, 1)}
)
_MUST_REFUSE = {"capacity": True, "data_size": True, "initial": None, "maxsize": False, "threshold": False}


def hostile_headers(notes: Notes) -> None:
    """Each number of the shape is replaced by others: the queue is refused, or works within its bounds."""
    image = image_of_a_segment()
    header = Header.unpack(image, len(image), "")
    for field, must_refuse in _MUST_REFUSE.items():
        for value in (*(number for number in _NUMBERS if number >= 0), (1 << 64) - 1):
            if getattr(header.shape, field) == value:
                continue
            shape = Shape(**(header.shape._asdict() | {field: value}))
            lying = header._replace(shape=shape)
            name = f"{field}-{value}"
            write_held(segment.path_of(name), sealed(image, lying))
            _use(notes, name, must_refuse)


def _use(notes: Notes, name: str, must_refuse: bool | None) -> None:
    try:
        with ShmQueue(name, create=False) as queue:
            notes.require(must_refuse is not True, f"{name}: it was not refused")
            queue.put("item", False)
            notes.require(queue.get(False) == "item", f"{name}: something else came out")
            notes.count("headers that lie and do no harm")
    except ShmQueueError as error:
        notes.require(name in str(error), f"names neither queue nor path: {error}")
        notes.require(must_refuse is not False, f"{name}: {error}")
        notes.count("headers that lie refused")


# ---- records ----


class _Trap:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: str) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._mark,)


def hostile_records(notes: Notes, seed: int) -> None:
    """Records that another process puts past all serialization, for a reader that allows no pickle."""
    mark = os.path.join(segment.directory(), "mark")
    trap = pickle.dumps(_Trap(mark))
    with_count = trap + struct.pack("<I", 0)
    with_buffer = bytes(64) + trap + struct.pack("<QI", 64, 1)
    forbidden = "allow_pickle=False"
    unknown = "which has no function here: call custom_deserialize() first"
    with ShmQueue("records", buffer_size=1 << 20, allow_pickle=False) as queue:
        for method, payload, words in (
            (1, trap, forbidden),
            (1, b"", forbidden),
            (3, with_count, forbidden),
            (3, with_buffer, forbidden),
            *((method, trap, f"method {method}, {unknown}") for method in (4, 999, 1000, 1001, 0x7FFFFFFF, 0xFFFFFFFF)),
            (0, trap, "serialization method 0"),
            (2, trap, "serialization method 2"),
            (0, b"", "serialization method 0"),
            (2, b"", "serialization method 2"),
            (0, b"\x91" * 100_000, "serialization method 0"),
            (2, _nested_tuples(), "serialization method 2"),
        ):
            for way in ("get", "get_many", "get_view", "lease"):
                _put_raw(notes, [(method, payload)])
                queue.put("after")
                _take(notes, queue, way, words)
                found = queue.get(False)
                notes.require(found == "after" and queue.empty(), f"method {method}: {found!r} came after it")
            notes.require(not os.path.exists(mark), f"method {method}: it was unpickled")
        _garbage(notes, queue, random.Random(seed))
        notes.require(not os.path.exists(mark), "it was unpickled")


def _put_raw(notes: Notes, records: list[tuple[int, bytes]]) -> None:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with ShmQueue("records", create=False) as queue:
                for method, payload in records:
                    queue._engine.put(method, payload, False, None)
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    notes.require(status == 0, f"the process that puts records ended with {status}")


def _take(notes: Notes, queue: ShmQueue, way: str, words: str) -> None:
    try:
        if way == "get_view":
            _look(notes, queue)
        if way == "lease":
            _lease(notes, queue, words)
        found = queue.get_many(1, 0) if way == "get_many" else queue.get(False)
        notes.fault(f"{words}: loaded all the same, with {way}: {str(found)[:80]}")
    except ShmQueueDeserializationError as error:
        notes.require(words in str(error), f"unclear: {error}")
        notes.count("records refused")


def _look(notes: Notes, queue: ShmQueue) -> None:
    """It is not bytes, so it stays."""
    before = queue.qsize()
    try:
        with queue.get_view(False):
            notes.fault("get_view() gives a view of what is not bytes")
    except ShmQueueTypeError:
        notes.require(queue.qsize() == before, "get_view() took what it cannot view")
    except ShmQueueError as error:
        notes.require("needs the native engine" in str(error), f"unclear: {error}")


def _lease(notes: Notes, queue: ShmQueue, words: str) -> None:
    """It cannot be loaded, and is given back by the block."""
    try:
        with queue.lease(False) as lease:
            notes.fault(f"{words}: a lease loaded it: {str(lease.item)[:80]}")
    except ShmQueueDeserializationError as error:
        notes.require(words in str(error), f"unclear: {error}")


def _garbage(notes: Notes, queue: ShmQueue, chance: random.Random) -> None:
    """What msgpack makes of it is an item, or else an error; nothing else."""
    count = 300
    _put_raw(notes, [(chance.choice((0, 2)), chance.randbytes(chance.randrange(60))) for _ in range(count)])
    for _ in range(count):
        try:
            queue.get(False)
            notes.count("records of garbage that are msgpack")
        except ShmQueueDeserializationError:
            notes.count("records of garbage refused")
    notes.require(queue.empty(), "there is an item too many")


def _nested_tuples() -> bytes:
    """Tuples within tuples, deeper than a stack: the extension type of a tuple holds a list packed once more."""
    packed: bytes = msgpack.packb([])
    for _ in range(3000):
        packed = b"\x91\xc9" + struct.pack(">Ib", len(packed), -84) + packed
    return packed
