"""What the native engine packs and unpacks itself is what msgpack would."""

from __future__ import annotations

import struct
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import shmqueue
from shmqueue import ShmQueue
from shmqueue.compat import queue as compat_queue
from shmqueue.serialization import LOADERS, Serializer

Make = Callable[..., ShmQueue]

EDGES = [
    edge + delta
    for power in (5, 7, 8, 15, 16, 31, 32, 63, 64)
    for edge in (2**power, -(2**power))
    for delta in (-1, 0, 1)
]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(EDGES),
    st.floats(),
    st.text(max_size=300),
    st.binary(max_size=300),
    st.sampled_from([31, 32, 255, 256, 257, 65535, 65536]).map("x".__mul__),
    st.sampled_from([0, 255, 256, 65535, 65536]).map(bytes),
)

CONTAINERS = st.recursive(
    SCALARS.filter(lambda item: not isinstance(item, int) or -(2**63) <= item < 2**64),
    lambda inner: st.one_of(
        st.lists(inner, max_size=20),
        st.dictionaries(st.text(max_size=8), inner, max_size=20),
        st.dictionaries(st.one_of(st.integers(-5, 300), st.binary(max_size=3), st.booleans()), inner, max_size=5),
    ),
    max_leaves=30,
)

TUPLES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=20), st.binary()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=9).map(tuple),
        st.lists(inner, max_size=5),
        st.dictionaries(st.one_of(st.text(max_size=5), st.tuples(st.integers(-9, 300))), inner, max_size=5),
    ),
    max_leaves=30,
)
DUMP, LOAD_TUPLES = Serializer(allow_pickle=True).dump, LOADERS[2]


@given(item=SCALARS)
def test_a_scalar_is_packed_as_msgpack_packs_it(make: Make, item: Any) -> None:
    q = make(buffer_size=1 << 20)
    q.put(item)
    record = q._engine.get(False, None)
    assert record is not None
    method, payload = record
    if method == 0:
        assert payload == msgpack.packb(item)
    else:
        assert type(item) is int
        assert not -(2**63) <= item < 2**64


@given(item=SCALARS)
def test_a_scalar_comes_back_as_it_was(make: Make, item: Any) -> None:
    q = make(buffer_size=1 << 20)
    q.put(item)
    (one,) = q.get_many(2)
    q.put_many([item])
    other = q.get()
    for back in (one, other):
        assert type(back) is type(item)
        assert struct.pack("d", back) == struct.pack("d", item) if type(item) is float else back == item


@given(item=CONTAINERS)
@example(item=[])
@example(item={})
@example(item=[[[[[[[[[[1]]]]]]]]]])
@example(item=[{} for _ in range(64)])
@example(item=[[]] + [[i] for i in range(70_000)])
@example(item={i: str(i) for i in range(70_000)})
@example(item=list(range(65)))
@example(item={"k": "x" * 1018})
@example(item={"k": "x" * 1019})
@example(item={"k": "x" * 1022})
def test_lists_and_dicts_are_packed_and_unpacked_as_msgpack_does_it(make: Make, item: Any) -> None:
    q = make(buffer_size=1 << 21)
    q.put(item)
    q.put_many([item])
    packed = msgpack.packb(item)
    for _ in range(2):
        assert q._engine.get(False, None) == (0, packed)
    expected = repr(msgpack.unpackb(packed, strict_map_key=False))
    q.put(item)
    q.put_many([item])
    assert repr(q.get()) == expected
    assert repr(q.get_many(1)[0]) == expected


@given(item=TUPLES)
@example(item=())
@example(item=((), ()))
@example(item=tuple((i,) for i in range(70_000)))
@example(item=(((((((((1,),),),),),),),),))
@example(item=tuple(range(65)))
@example(item=({"k": (1, 2)}, [(3,)]))
@example(item={(1, (2, b"")): "tuples can be keys"})
def test_tuples_are_packed_and_unpacked_as_the_serializer_does_it(make: Make, item: Any) -> None:
    q = make(buffer_size=1 << 21)
    q.put(item)
    q.put_many([item])
    for _ in range(2):
        assert q._engine.get(False, None) == DUMP(item)
    q.put(item)
    q.put_many([item])
    assert repr(q.get()) == repr(item)
    assert repr(q.get_many(1)[0]) == repr(item)


@pytest.mark.parametrize(
    "length", [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 254, 255, 256, 257, 990, 1015, 1016, 1017, 1020, 1030]
)
def test_a_tuple_of_any_length_is_packed_so(make: Make, length: int) -> None:
    q = make(buffer_size=1 << 16)
    for item in [("x" * length,), (b"x" * length, 1), ["", ("x" * length,)], (("x" * length,),), (("x" * length,), 1)]:
        q.put(item)
        assert q._engine.get(False, None) == DUMP(item)


def damaged(packed: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda at, byte, end: (packed[: at % len(packed)] + bytes([byte]) + packed[at % len(packed) + 1 :])[:end],
        st.integers(0, 2000),
        st.integers(0, 255),
        st.integers(1, 2000),
    )


@given(payload=TUPLES.map(lambda item: cast(bytes, DUMP(item)[1])).flatmap(damaged))
@example(payload=b"\x91\xc7\x00\xac")
@example(payload=b"\x91\xc8\x00\x00\xac")
@example(payload=b"\xc7\x00\xac")
@example(payload=b"\x92\x01\xc7\x00\xac")
@example(payload=b"\x81\xc7\x00\xac\x01")
@example(payload=b"\x81\x01\xc7\x00\xac")
@example(payload=b"\x92\xc7\x00\xac")
@example(payload=b"\x91\xc7\x01\xac\x00")
@example(payload=b"\x91\xd4\x05\x90")
@example(payload=b"\x81\x91\xc7\x00\xac\x01")
@example(payload=b"\x81\x92\xc7\x00\xac\x90\x01")
@example(payload=b"\x92\x91\xc7\x00\xac\xc7\x00\xac")
def test_damaged_tuples_are_what_the_serializer_says_they_are(make: Make, payload: bytes) -> None:
    q = make(buffer_size=1 << 21)
    q._engine.put(2, payload, True, None)
    try:
        expected = repr(LOAD_TUPLES(payload))
    except Exception:
        with pytest.raises(shmqueue.ShmQueueDeserializationError):
            q.get()
    else:
        assert repr(q.get()) == expected


@given(payload=CONTAINERS.map(msgpack.packb).flatmap(damaged))
def test_damaged_lists_and_dicts_are_what_msgpack_says_they_are(make: Make, payload: bytes) -> None:
    q = make(buffer_size=1 << 21)
    q._engine.put(0, payload, True, None)
    try:
        expected = repr(msgpack.unpackb(payload, strict_map_key=False))
    except Exception:
        with pytest.raises(shmqueue.ShmQueueDeserializationError):
            q.get()
    else:
        assert repr(q.get()) == expected


@given(payload=st.binary(max_size=20), method=st.sampled_from([0, 0, 0, 1, 2, 3]))
@example(payload=b"", method=0)
@example(payload=b"\xc1", method=0)
@example(payload=b"\xa1\xff", method=0)
@example(payload=b"\xd9\x05abc", method=0)
@example(payload=b"\xc6\xff\xff\xff\xff", method=0)
@example(payload=b"\x00\x00", method=0)
@example(payload=b"\xff\xff\xff\xff", method=3)
@example(payload=bytes(8) + b"\x01\x00\x00\x00", method=3)
@example(payload=bytes(16) + bytes(8) + b"\x01\x00\x00\x00", method=3)
def test_any_bytes_are_an_item_or_a_clear_error_and_are_consumed(make: Make, payload: bytes, method: int) -> None:
    q = make()
    take: Callable[[], object]
    for take in (q.get, lambda: q.get_many(1)[0]):
        q._engine.put(method, payload, True, None)
        try:
            item = take()
        except shmqueue.ShmQueueDeserializationError:
            pass
        else:
            if method == 0:
                expected = msgpack.unpackb(payload, strict_map_key=False)
                assert repr(item) == repr(expected)
        assert q.empty()


def test_a_lone_surrogate_goes_by_pickle(make: Make, engine: str) -> None:
    q = make()
    q.put("\ud800")
    assert q.get() == "\ud800"


def test_an_item_that_is_a_tuple_is_not_taken_for_a_record(make: Make, engine: str) -> None:
    q = make()
    items = [(), (0, b"\x01"), (1, b"x"), ((),), (None,)]
    for item in items:
        q.put(item)
    assert q.get() == items[0]
    assert q.get_many(9) == items[1:]
    q.put_many(items)
    assert [q.get() for _ in items] == items


def test_a_batch_holds_items_of_all_kinds_in_order(make: Make, engine: str) -> None:
    q = make(buffer_size=1 << 20)
    items = [1, "a", (1, 2), {3}, {"k": [None, 1.5]}, b"x", 2**80, [(1,), {2: 3}], bytes(70_000)] * 3
    q.put_many(items)
    assert q.get_many(len(items)) + (q.get_many(len(items)) if not q.empty() else []) == items


def test_a_batch_of_which_one_cannot_be_serialized_puts_nothing(make: Make, engine: str) -> None:
    q = make()
    with pytest.raises(shmqueue.ShmQueueSerializationError):
        q.put_many([1, lambda: None, 2])
    assert q.empty()


def test_a_packer_is_not_shared_with_a_put_in_the_middle_of_it(make: Make, engine: str) -> None:
    q = make()

    class Putting:
        def __reduce__(self) -> tuple[Any, ...]:
            q.put({"inner": 1})
            return dict, ()

    q.put([{"outer": 1}, Putting()])
    assert q.get() == {"inner": 1}
    assert q.get() == [{"outer": 1}, {}]


def test_records_and_large_items_are_taken_side_by_side(make: Make) -> None:
    q = make(buffer_size=1 << 21)
    item, count = bytes(40_000), 4000
    records: list[Any] = []
    items: list[Any] = []

    def take(get: Callable[[], Any], into: list[Any]) -> None:
        while (one := get()) not in (None, (0, b"\xc0")):
            into.append(one)

    takers = [
        threading.Thread(target=take, args=(lambda: q._engine.get(True, None), records)),
        threading.Thread(target=take, args=(q.get, items)),
    ]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for taker in takers:
            taker.start()
        for _ in range(count):
            q.put(item)
        for _ in takers:
            q.put(None)
        for taker in takers:
            taker.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(records) + len(items) == count
    assert all(record == (0, msgpack.packb(item)) for record in records)
    assert all(one == item for one in items)


LARGE = 1 << 15  # bytes from which on the native engine releases the GIL while it copies

ORDINARY: list[Any] = [
    *(
        sign * 2**bits + near
        for bits in (5, 7, 8, 15, 16, 30, 31, 32, 60, 62)
        for sign in (1, -1)
        for near in (-1, 0, 1)
    ),
    *(
        kind * size
        for kind in ("x", "\u00e9", b"b")
        for size in (0, 1, 2, 31, 32, 255, 256, 1014, 1015, 1016, 1022, 1024)
    ),
    *(b"b" * (LARGE + near) for near in (-9, -8, -7, -6, -5, -1, 0, 1)),
    *(None, True, False, 0.0, -0.5, float("inf"), 2**63, 2**64 - 1, -(2**63)),
]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("number", range(len(ORDINARY)))
def test_a_scalar_is_the_very_bytes_of_msgpack(number: int, name: str) -> None:
    item = ORDINARY[number]
    with ShmQueue(name, buffer_size=1 << 16) as q, compat_queue.Queue(name=name) as adapter:
        q.put(item)
        assert q._engine.get(True, None) == (0, msgpack.packb(item))
        for one in (q, adapter):
            one.put(item)
            got = one.get()
            assert (type(got), got) == (type(item), item)


RAW = [
    b"",
    b"\xc1",
    b"\xd9",
    b"\xd9\x00",
    b"\xd9\x01\xff",
    b"\xd9\x02a",
    b"\xa1\xff",
    b"\xa0",
    b"\xa0a",
    b"\xcc",
    b"\xcc\x01",
]
RAW += [
    b"\xcc\x01\x01",
    b"\xcd\x00",
    b"\xcd\x00\x01",
    b"\xd0\xff\x00",
    b"\xd0\xff",
    b"\xd1\xff\xfe",
    b"\xc4",
    b"\xc4\x00",
]
RAW += [
    b"\xc4\x02a",
    b"\xcb" + b"\x00" * 7,
    b"\xcb" + b"\x00" * 9,
    b"\xd3" + b"\xff" * 8,
    b"\xcf" + b"\xff" * 8,
    b"\xc0\xc0",
]


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("payload", RAW, ids=bytes.hex)
def test_a_record_is_read_as_msgpack_reads_it(payload: bytes, name: str) -> None:
    with ShmQueue(name, buffer_size=1 << 16) as q:
        q._engine.put(0, payload, True, None)
        try:
            due = msgpack.unpackb(payload)
        except Exception:
            with pytest.raises(shmqueue.ShmQueueDeserializationError):
                q.get()
        else:
            got = q.get()
            assert (type(got), got) == (type(due), due)
        assert q.empty()
