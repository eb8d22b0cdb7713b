"""What comes back equals what was put, with its type; errors are raised where they belong and lose nothing else."""

from __future__ import annotations

import collections
import decimal
import enum
import math
import pickle
import struct
import threading
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Unloadable

import shmqueue
from shmqueue import SerializationMethods, ShmQueue, plain
from shmqueue.serialization import Serializer

Make = Callable[..., ShmQueue]
MY_METHOD = SerializationMethods.FIRST_PUBLIC_NUMBER + 1


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    pass


class Point(collections.namedtuple("Point", "x y")):
    pass


def round_trip(item: object) -> tuple[int, Any]:
    serializer = Serializer(allow_pickle=True)
    method, payload = serializer.dump(item, 0)
    assert isinstance(payload, bytes)
    return method, serializer.load(method, payload)


@pytest.mark.parametrize(
    ("item", "method"),
    [
        (None, 0), (True, 0), (-1, 0), (2**64 - 1, 0), (-(2**63), 0), (1.5, 0), (math.inf, 0), ("ü", 0), (b"\0", 0),
        ([1, [2, {}]], 0), ({"a": 1, b"b": [None]}, 0), ({1: {2.5: None}, None: True}, 0),
        (msgpack.ExtType(5, b"x"), 0), (msgpack.Timestamp(1, 2), 0),
        ((), 2), ((1, (2, [3, (4,)])), 2), ({(1, 2): (3,)}, 2), ([msgpack.ExtType(84, b"x"), (1,)], 2),
        (2**64, 1), (-(2**63) - 1, 1), ("\ud800", 1), ({1, 2}, 1), (1j, 1), (decimal.Decimal("1.5"), 1),
        (Colour.RED, 1), (Text("x"), 1), (Point(1, 2), 1), (collections.OrderedDict(a=1), 1), ([(Colour.RED,)], 1),
    ],
)  # fmt: skip
def test_items_keep_their_types(item: object, method: int) -> None:
    used, back = round_trip(item)
    assert used == method
    assert back == item
    assert_same_types(back, item)


def assert_same_types(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
            assert_same_types(key, other_key)
            assert_same_types(value, other_value)
    elif isinstance(one, (list, tuple)):
        for value, other_value in zip(one, other, strict=True):
            assert_same_types(value, other_value)


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda children: (
        st.lists(children) | st.tuples(children, children) | st.dictionaries(st.integers() | st.text(), children)
    ),
)


@given(nested)
def test_any_nested_item_comes_back_as_it_was(item: Any) -> None:
    back = round_trip(item)[1]
    assert back == item
    assert_same_types(back, item)


@pytest.mark.parametrize("item", [bytearray(b"x"), memoryview(b"x")])
def test_other_byte_strings_arrive_as_bytes(item: Any) -> None:
    back = round_trip(item)[1]
    assert (back, type(back)) == (b"x", bytes)


@pytest.mark.parametrize("depth", [31, 32, 33, 100, 200])
@pytest.mark.parametrize("kind", [tuple, list])
def test_deep_nesting_comes_back(depth: int, kind: type) -> None:
    item: Any = kind()
    for _ in range(depth):
        item = kind([item])
    assert round_trip(item)[1] == item


@pytest.mark.parametrize("depth", [*range(400, 1100, 37), 5000])
def test_nesting_is_kept_or_refused_by_put_but_never_lost(depth: int) -> None:
    item: Any = []
    for _ in range(depth):
        item = [item]
    try:
        method, payload = Serializer(allow_pickle=True).dump(item, 0)
    except shmqueue.ShmQueueSerializationError:
        assert depth > 250
        return
    assert isinstance(payload, bytes)
    back = Serializer(allow_pickle=True).load(method, payload)
    for _ in range(depth):
        (back,) = back
    assert back == []


def test_a_list_that_contains_itself_comes_back() -> None:
    item: list[Any] = [1]
    item.append(item)
    back = round_trip(item)[1]
    assert back[0] == 1
    assert back[1] is back


@pytest.mark.usefixtures("engine")
class TestThroughAQueue:
    def test_an_item_that_cannot_be_serialized_is_refused_by_put(self, make: Make) -> None:
        q = make()
        with pytest.raises(shmqueue.ShmQueueSerializationError, match="cannot pickle this lock"):
            q.put(threading.Lock())
        with pytest.raises(pickle.PicklingError):
            q.put(threading.Lock())
        assert q.empty()

    def test_an_item_that_cannot_be_loaded_is_consumed_and_blocks_nothing(self, make: Make) -> None:
        q = make()
        q.put_many([1, Unloadable(), 2])
        assert q.get() == 1
        with pytest.raises(shmqueue.ShmQueueDeserializationError, match=r"cannot load an item of \d+ bytes .*a number"):
            q.get()
        assert q.get() == 2

    def test_get_many_hands_over_what_could_be_loaded(self, make: Make) -> None:
        q = make()
        q.put_many([1, Unloadable(), 2])
        with pytest.raises(shmqueue.ShmQueueDeserializationError) as caught:
            q.get_many(3)
        assert caught.value.items == [1, 2]

    def test_allow_pickle_false_refuses_on_put(self, make: Make) -> None:
        q = make(allow_pickle=False)
        q.put((1, {"a": 2}))
        assert q.get() == (1, {"a": 2})
        with pytest.raises(shmqueue.ShmQueueSerializationError, match="allow_pickle=False"):
            q.put({1, 2})
        with pytest.raises(shmqueue.ShmQueueSerializationError, match="allow_pickle=False"):
            q.put("test", serialization_method=SerializationMethods.PICKLE)
        assert q.empty()

    def test_allow_pickle_false_refuses_on_get_before_unpickling(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make().put({1, 2})
        careful = make(allow_pickle=False)
        monkeypatch.setattr("shmqueue.serialization.pickle.loads", lambda payload: pytest.fail("it was unpickled"))
        with pytest.raises(shmqueue.ShmQueueDeserializationError, match=r"was pickled and .* allow_pickle=False"):
            careful.get()

    def test_the_method_can_be_chosen_for_each_put(self, make: Make) -> None:
        q = make()
        q.put("x", serialization_method=SerializationMethods.PICKLE)
        assert q.buffer_occupancy() == 8 + len(pickle.dumps("x", pickle.HIGHEST_PROTOCOL))
        assert q.get() == "x"

    def test_a_method_of_ones_own(self, make: Make) -> None:
        q = make()
        q.custom_serialize(lambda method, data: struct.pack("I", data))
        q.custom_deserialize(lambda method, chunks: struct.unpack("I", b"".join(chunks))[0])
        q.put(42, serialization_method=MY_METHOD)
        assert q.buffer_occupancy() == 12
        assert q.get() == 42

    @pytest.mark.parametrize("returned", [None, "text", 5])
    def test_a_custom_serializer_must_return_bytes(self, make: Make, returned: object) -> None:
        q = make()
        q.custom_serialize(lambda method, data: returned)  # type: ignore[arg-type, return-value]
        with pytest.raises(shmqueue.ShmQueueSerializationError, match="not bytes"):
            q.put(1, serialization_method=MY_METHOD)
        assert q.empty()

    def test_a_custom_serializer_that_raises_puts_nothing(self, make: Make) -> None:
        q = make()
        q.custom_serialize(lambda method, data: 1 // data)
        with pytest.raises(shmqueue.ShmQueueSerializationError, match="ZeroDivisionError"):
            q.put(0, serialization_method=MY_METHOD)
        assert q.empty()

    def test_custom_functions_must_be_set_and_callable(self, make: Make) -> None:
        q, other = make(), make()
        with pytest.raises(shmqueue.ShmQueueSerializationError, match="custom_serialize"):
            q.put(1, serialization_method=MY_METHOD)
        q.custom_serialize(lambda method, data: b"x")
        q.put(1, serialization_method=MY_METHOD)
        with pytest.raises(shmqueue.ShmQueueDeserializationError, match="custom_deserialize"):
            other.get()
        for setter in (q.custom_serialize, q.custom_deserialize):
            with pytest.raises(shmqueue.ShmQueueTypeError):
                setter(None)  # type: ignore[arg-type]

    @pytest.mark.parametrize("method", [4, 1000, -1, 2**32])
    def test_an_unknown_method_is_refused(self, make: Make, method: int) -> None:
        with pytest.raises(shmqueue.ShmQueueValueError, match=f"no serialization method {method}"):
            make().put(1, serialization_method=method)

    def test_a_method_that_is_no_number_is_refused(self, make: Make) -> None:
        with pytest.raises(shmqueue.ShmQueueTypeError, match="serialization_method must be an int"):
            make().put(1, serialization_method="pickle")  # type: ignore[arg-type]


def test_a_lack_of_memory_is_not_said_to_be_the_items_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(item: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(plain, "pack", lack)
    monkeypatch.setattr(plain, "pack_copies", lack)
    with pytest.raises(MemoryError):
        Serializer(allow_pickle=True).dump(memoryview(b"large"))
