"""What a signal handler raises comes out of a call as it is, whatever its type: it is not the item's error."""

from __future__ import annotations

import functools
import gc
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import msgpack
import pytest
from handler_support import FAILURES, at_call, at_line, raised_by_a_handler
from support import PATIENCE, wait_until

import shmqueue
from shmqueue import ShmQueue, channel, items, messages, pickling, plain, serialization
from shmqueue.engine import portable_processes
from shmqueue.interruptions import is_of_handler
from shmqueue.segment import descriptor, sidecar

Make = Callable[..., ShmQueue]

_FILES = {
    str(module.__file__)
    for module in (channel, descriptor, items, pickling, plain, portable_processes, serialization, sidecar)
}

ITEMS = {
    "bytes": b"x",
    "int": 2**70,
    "containers": [1, {"a": (2,)}],
    "twice": [[]] * 2,
    "memoryview": memoryview(b"x"),
    "keys": {1: 2},
}


@pytest.fixture(params=FAILURES)
def heard(request: pytest.FixtureRequest) -> Iterator[type[Exception]]:
    """What a handler of SIGUSR1 raises."""
    with raised_by_a_handler(request.param):
        yield request.param


class Signals:
    """An item whose own code is interrupted, when it is pickled or when it is loaded."""

    def __init__(self, when: str) -> None:
        self.when = when

    def __reduce__(self) -> tuple[Callable[[str], Signals], tuple[str]]:
        if self.when == "put":
            signal.raise_signal(signal.SIGUSR1)
        return _load, (self.when,)


def _load(when: str) -> Signals:
    if when == "get":
        signal.raise_signal(signal.SIGUSR1)
    return Signals(when)


class Raises:
    """An item that cannot be pickled."""

    def __init__(self, failure: type[Exception]) -> None:
        self.failure = failure

    def __reduce__(self) -> str:
        raise self.failure("the item's")


@pytest.mark.usefixtures("engine")
class TestInItems:
    def test_in_the_middle_of_what_an_item_does_to_be_put(self, make: Make, heard: type[Exception]) -> None:
        q = make()
        with pytest.raises(heard, match="the handler's"):
            q.put(Signals("put"))
        with pytest.raises(heard, match="the handler's"):
            q.put_many([1, Signals("put")])
        assert q.empty()

    def test_in_the_middle_of_what_an_item_does_to_be_loaded(self, make: Make, heard: type[Exception]) -> None:
        q = make()
        for _ in range(3):
            q.put(Signals("get"))
        with pytest.raises(heard, match="the handler's"):
            q.get()
        with pytest.raises(heard, match="the handler's"):
            q.get_many(1)
        with q.lease() as lease, pytest.raises(heard, match="the handler's"):
            _ = lease.item

    def test_in_functions_that_the_user_gave(self, make: Make, heard: type[Exception]) -> None:
        def serialize(method: int, item: object) -> bytes:
            signal.raise_signal(signal.SIGUSR1)
            return b""

        q = make()
        q.custom_serialize(serialize)
        with pytest.raises(heard, match="the handler's"):
            q.put(1, serialization_method=1001)
        q.custom_serialize(lambda method, item: b"x")
        q.custom_deserialize(lambda method, chunks: signal.raise_signal(signal.SIGUSR1))
        q.put(1, serialization_method=1001)
        with pytest.raises(heard, match="the handler's"):
            q.get()

    def test_in_the_middle_of_telling_how_many_items_were_put(
        self, make: Make, heard: type[Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def shut_down() -> None:
            wait_until(lambda: not q.empty(), "the first piece is put")
            q.shutdown_all()

        q = make(buffer_size=10_000)
        for module in (messages, items):
            monkeypatch.setattr(module, "tell_items_put", lambda *_: signal.raise_signal(signal.SIGUSR1))
        thread = threading.Thread(target=shut_down)
        thread.start()
        with pytest.raises(heard, match="the handler's") as raised:
            q.put_many([bytes(3000)] * 6)
        thread.join()
        assert raised.value.items_put == q.qsize() == 4  # type: ignore[attr-defined]

    @pytest.mark.parametrize("ending", ["full", "shut down"])
    def test_at_any_point_of_telling_how_many_items_were_put(
        self, make: Make, name: str, heard: type[Exception], ending: str
    ) -> None:
        put = 0
        end: BaseException | None = None

        def put_too_many() -> None:
            nonlocal put, end
            q = make(f"{name}-{number}", buffer_size=10_000)
            if ending == "shut down":
                q._handle.engine.while_waiting = lambda is_put: shmqueue.ShmQueueShutDown("it was")
            put, end = 0, None
            try:
                q.put_many([bytes(3000)] * 6, timeout=0.01 if ending == "full" else PATIENCE)
            except shmqueue.ShmQueueError as error:
                end = error
            except heard as error:
                end = error
                raise
            finally:
                put = q.qsize()

        number = 1
        while at_call(number, put_too_many, heard, {str(messages.__file__)}):
            assert put == getattr(end, "items_put", 0) == 4, number
            number += 1
        assert number > 2
        assert put == getattr(end, "items_put", 0) == 4

    def test_in_the_middle_of_unpacking(self, make: Make, heard: type[Exception]) -> None:
        def put_and_get() -> None:
            q._handle.engine.put(0, msgpack.packb(msgpack.Timestamp(1)), False, None)
            q.get(block=False)  # the serializer unpacks it

        q = make()
        number = 1
        while at_call(number, put_and_get, heard, _FILES):
            q.clear()
            number += 1
        assert number > 1

    @pytest.mark.parametrize("failure", FAILURES)
    def test_what_the_item_raises_itself_is_the_error_of_the_item(self, make: Make, failure: type[Exception]) -> None:
        with pytest.raises(shmqueue.ShmQueueSerializationError, match="the item's"):
            make().put(Raises(failure))

    @pytest.mark.parametrize("at", [at_line, at_call])
    @pytest.mark.parametrize("allow_pickle", [True, False])
    @pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
    def test_at_any_point(
        self, make: Make, heard: type[Exception], item: object, allow_pickle: bool, at: Callable[..., bool]
    ) -> None:
        q = make(allow_pickle=allow_pickle)

        def put_and_get() -> None:
            try:
                q.put(item)
            except shmqueue.ShmQueueSerializationError:
                return  # without pickle, this item cannot be put
            q.get(block=False)

        put_and_get()  # what is done once only, such as opening a lock file, is done
        for number in range(1, 2000):
            q.clear()
            if not at(number, put_and_get, heard, _FILES):
                break
        else:
            pytest.fail("the calls never came to their end")
        assert number > 3 or at is at_call  # the native engine calls no Python code for some


def test_asking_whose_exception_it_is_keeps_nothing_alive() -> None:
    class Thing:
        """Something that is to be collected at once."""

    def fail() -> None:
        int("x")

    def ask(thing: Thing) -> weakref.ref[Thing]:
        try:
            fail()
        except ValueError as error:
            assert not is_of_handler(error)  # noqa: PT017 - what is asked is not the exception
        return weakref.ref(thing)

    gc.disable()
    try:
        reference = ask(Thing())
        assert reference() is None
    finally:
        gc.enable()


class Handler:
    """Ways to be a handler."""

    def method(self, number: int, frame: FrameType | None) -> None:
        raise ValueError

    def __call__(self, *arguments: object) -> None:
        raise ValueError

    def deeper(self, number: int, frame: FrameType | None) -> None:
        int("x")


def _with_name(name: str, number: int, frame: FrameType | None) -> None:
    raise ValueError(name)


@pytest.mark.parametrize(
    "handler",
    [Handler().method, Handler(), Handler().deeper, functools.partial(_with_name, "x"), lambda *_: int("x")],
    ids=["method", "object", "deeper", "partial", "lambda"],
)
def test_whose_exception_it_is(handler: Any) -> None:
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - of five handlers
            signal.raise_signal(signal.SIGUSR1)
        assert is_of_handler(caught.value)
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - of int(), as in a handler
        int("x")
    assert not is_of_handler(caught.value)
