"""Arrays, and whatever pickles with buffers: what arrives is writable where it should be, and owns its memory."""

from __future__ import annotations

import array
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from typing import Any

import pytest

import shmqueue
from shmqueue import ShmQueue, pickling
from shmqueue.compat import multiprocessing as compat_multiprocessing
from shmqueue.compat import queue as compat_queue

Make = Callable[..., ShmQueue]


class Array:
    """As numpy pickles its arrays: without buffers beside the pickle they arrive writable."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        if protocol >= 5:
            return type(self), (pickle.PickleBuffer(self.data),)
        return type(self)._of_bytes, (bytes(self.data),)

    @classmethod
    def _of_bytes(cls, data: bytes) -> Array:
        return cls(bytearray(data))

    @property
    def is_writable(self) -> bool:
        return not memoryview(self.data).readonly


SIZES = [0, 1, 100, 4095, 4096, 5000, 70_000]


@pytest.fixture(params=["Queue", "JoinableQueue", "SimpleQueue"])
def standard_and_ours(request: pytest.FixtureRequest, engine: str) -> Any:
    """A queue of multiprocessing, and the one that stands in for it."""
    pair = getattr(multiprocessing, request.param)(), getattr(compat_multiprocessing, request.param)()
    yield pair
    for q in pair:
        q.close()
    if hasattr(pair[0], "join_thread"):
        pair[0].join_thread()


@pytest.mark.parametrize("size", [0, 1, 100, 4095, 4096, 5000, 50_000])  # a pipe holds less than 64 KiB
def test_what_multiprocessing_delivers_writable_arrives_writable(standard_and_ours: Any, size: int) -> None:
    delivered = []
    for q in standard_and_ours:
        received = []
        for item in (Array(bytearray(size)), Array(bytes(size)), bytearray(size), array.array("b", bytes(size))):
            q.put(item)
            received.append(q.get())
        delivered.append(
            [one.is_writable if isinstance(one, Array) else not memoryview(one).readonly for one in received]
        )
        assert [bytes(getattr(one, "data", one)) for one in received] == [bytes(size)] * 4
    assert delivered[0] == delivered[1]


def test_read_only_ones_in_an_item_arrive_writable_as_from_multiprocessing(standard_and_ours: Any) -> None:
    item = [Array(bytes([i]) * (50 * i)) for i in range(40)] + [Array(bytearray(9000)), {"a": Array(bytes(5000))}]
    delivered = []
    for q in standard_and_ours:
        q.put(item)
        *some, last = q.get()
        delivered.append([(one.is_writable, bytes(one.data)) for one in [*some, last["a"]]])
    assert delivered[0] == delivered[1]


def test_read_only_ones_in_a_batch_arrive_writable(engine: str) -> None:
    q = compat_multiprocessing.Queue()
    writable = pickle.DEFAULT_PROTOCOL < 5
    q.put_many([Array(bytes(size)) for size in SIZES])
    assert [one.is_writable for one in q.get_many(len(SIZES))] == [writable] * len(SIZES)
    q.close()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [compat_queue.Queue, compat_queue.SimpleQueue, None])
def test_elsewhere_read_only_ones_stay_so(make: Make, engine: str, kind: Any, size: int) -> None:
    q = make(max_bytes=1 << 26) if kind is None else kind()
    q.put([Array(bytes(size)), Array(bytearray(size))])
    assert [one.is_writable for one in q.get()] == [False, True]
    if kind is not None:
        q.close()


@pytest.mark.parametrize(
    "sizes",
    [
        [8192, 4 << 20],
        [4 << 20, 8192],
        [4096] * 5,
        [1 << 20, 1 << 20],
        [3 << 20, 1 << 20, 8192],
        [8192, 8192, 3 << 20, 1 << 19],
        [100_000],
        [4096, 100, 70_000, 0, 5000],
        [5000 + i for i in range(40)],
    ],
)
def test_each_buffer_owns_its_memory(any_queue: Any, sizes: list[int]) -> None:
    item = [Array(bytearray(i.to_bytes(1, "big") * size)) for i, size in enumerate(sizes)]
    for put, get in ((any_queue.put, any_queue.get), _batches(any_queue), _leases(any_queue)):
        put(item)
        received = get()
        assert [bytes(one.data) for one in received] == [bytes(one.data) for one in item]
        for size, one in zip(sizes, received, strict=True):
            assert one.is_writable
            memory = one.data.obj if isinstance(one.data, memoryview) else one.data
            assert sys.getsizeof(memory) <= 4 * size + 200


def _batches(q: Any) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
    if not hasattr(q, "put_many"):
        return q.put, q.get
    return lambda item: q.put_many([item]), lambda: q.get_many(1)[0]


def _leases(q: Any) -> tuple[Callable[[Any], Any], Callable[[], Any]]:
    def by_lease() -> Any:
        with q.lease() as lease:
            return lease.item

    return q.put, by_lease if hasattr(q, "lease") else q.get


def test_a_large_leased_array_lives_where_the_record_was_copied_to(make: Make, native: None) -> None:
    q = make()
    q.put(Array(bytearray(100_000)))
    with q.lease() as lease:
        assert isinstance(lease.item.data, memoryview), "copied once more"
        assert lease.item.is_writable


def test_what_arrives_is_nobody_elses(any_queue: Any) -> None:
    data = bytearray(20_000)
    any_queue.put(Array(data))
    data[0] = 1
    any_queue.put(Array(data))
    first, second = any_queue.get(), any_queue.get()
    first.data[1] = 7
    assert (first.data[0], second.data[0], second.data[1]) == (0, 1, 0)


def test_more_buffers_than_are_kept_apart(any_queue: Any) -> None:
    items = [Array(bytearray([i]) * (4096 + i)) for i in range(40)]
    any_queue.put(items)
    assert [bytes(array.data) for array in any_queue.get()] == [bytes(array.data) for array in items]


def test_buffers_in_a_batch(make: Make, engine: str) -> None:
    q = make(max_bytes=1 << 26)
    q.put_many([1, Array(bytearray(b"x" * 9000)), 2])
    one, array, two = q.get_many(3)
    assert (one, bytes(array.data), two) == (1, b"x" * 9000, 2)


def test_buffers_are_pickle_to_allow_pickle(make: Make, engine: str) -> None:
    q, careful = make(max_bytes=1 << 26), make(max_bytes=1 << 26, allow_pickle=False)
    with pytest.raises(shmqueue.ShmQueueSerializationError, match="allow_pickle=False"):
        careful.put(Array(bytearray(10_000)))
    q.put(Array(bytearray(10_000)))
    with pytest.raises(shmqueue.ShmQueueDeserializationError, match="allow_pickle=False"):
        careful.get()


def test_a_buffer_is_aligned_in_what_is_received() -> None:
    has_buffers, parts = pickling.dumps([Array(bytearray(5000)), Array(bytearray(6000))])
    assert has_buffers
    assert isinstance(parts, tuple)
    received = bytearray(b"".join(parts))
    first, second = pickling.loads(received, load=lambda pickled, buffers: buffers)
    assert (len(first), len(second)) == (5000, 6000)
    second[:] = b"2" * 6000
    assert bytes(received[5056 : 5056 + 6000]) == b"2" * 6000


@pytest.mark.parametrize("text", ["", "\u5603", "x" * 70_000], ids=["short", "with the opcodes in it", "of two frames"])
def test_a_pickle_of_any_kind_asks_for_writable_buffers(engine: str, text: str) -> None:
    noise = b"\x97\x98" if text == "\u5603" else b""
    q = compat_multiprocessing.Queue()
    item = [noise, text, Array(bytes(9000)), Array(bytearray(8000)), {"last": Array(bytes(7000))}]
    q.put(item)
    *start, first, second, third = q.get()
    assert start == [noise, text]
    received = [first, second, third["last"]]
    assert [bytes(one.data) for one in received] == [bytes(9000), bytes(8000), bytes(7000)]
    assert [one.is_writable for one in received] == [pickle.DEFAULT_PROTOCOL < 5, True, pickle.DEFAULT_PROTOCOL < 5]
    q.close()


@pytest.mark.parametrize("at", [1, 3, 4, 5, 8, 11])
def test_a_payload_that_contradicts_itself_is_an_error(at: int) -> None:
    _, parts = pickling.dumps([Array(bytearray(5000))])
    assert isinstance(parts, tuple)
    payload = bytearray(b"".join(parts))
    payload[-at] ^= 0x80
    for damaged in (payload, bytes(payload)):
        with pytest.raises((ValueError, EOFError, pickle.UnpicklingError, OverflowError)):
            pickling.loads(damaged)
