"""Programs written for PyPI's shmqueue 0.0.2 find the names that they import."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import shmqueue
from shmqueue import ShmQueue, shared_memory_collection

pytestmark = pytest.mark.usefixtures("engine")


def test_an_item_costs_the_size_of_the_header_and_its_payload(make: Callable[..., ShmQueue]) -> None:
    q = make()
    q.put(b"x" * 100)  # msgpack: 2 bytes and the content
    assert q.buffer_occupancy() == shmqueue.SIZE_HEADER + 2 + 100


def test_the_default_serialization_method_has_a_name(make: Callable[..., ShmQueue]) -> None:
    q = make()
    q.put("item", serialization_method=shmqueue.SerializationMethods.DEFAULT)
    assert q.get() == "item"


def test_the_old_module_has_its_names() -> None:
    for name in ("SIZE_HEADER", "SYSTEM_PAGESIZE", "SerializationMethods"):
        assert getattr(shared_memory_collection, name) is getattr(shmqueue, name)
    for action in shared_memory_collection.DebugRefLogAction:
        assert shmqueue.DebugRefLogAction(action.value).name == action.name


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("ShmQueueException", Exception),
        ("ShmQueueRuntimeError", RuntimeError),
        ("ShmQueueBufferOverflow", OverflowError),
    ],
)
def test_the_exceptions_have_the_bases_that_they_had(name: str, base: type[Exception]) -> None:
    for module in (shmqueue, shmqueue.exceptions):
        assert issubclass(getattr(module, name), base)


def test_every_error_is_a_shmqueue_exception(make: Callable[..., ShmQueue]) -> None:
    with pytest.raises(shmqueue.ShmQueueException):
        make().get(block=False)


def test_a_missing_function_is_a_not_implemented_error(make: Callable[..., ShmQueue]) -> None:
    q = make()
    with pytest.raises(NotImplementedError, match=r"method 1001 .* call custom_serialize\(\) first"):
        q.put(1, serialization_method=1001)
    assert q.empty()


def test_a_function_that_does_not_implement_a_method_is_a_not_implemented_error(make: Callable[..., ShmQueue]) -> None:
    def refuse(method: int, data: object) -> bytes:
        raise NotImplementedError

    q = make()
    q.custom_serialize(refuse)
    with pytest.raises(NotImplementedError, match="custom_serialize failed with method 1001"):
        q.put(1, serialization_method=1001)
    q.custom_serialize(lambda method, data: b"bytes")
    q.custom_deserialize(refuse)
    q.put(1, serialization_method=1001)
    with pytest.raises(NotImplementedError, match="cannot load an item of 5 bytes with serialization method 1001"):
        q.get()


def test_a_missing_way_back_is_a_not_implemented_error(make: Callable[..., ShmQueue]) -> None:
    q, other = make(), make()
    q.custom_serialize(lambda method, data: b"bytes")
    q.put(1, serialization_method=1001)
    with pytest.raises(NotImplementedError, match=r"method 1001, .* call custom_deserialize\(\) first"):
        other.get()
