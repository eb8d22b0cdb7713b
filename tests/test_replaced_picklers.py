"""A program that has replaced multiprocessing's pickler gets its own, as the standard queues would call it."""

from __future__ import annotations

import io
import multiprocessing.context
import multiprocessing.queues
import pickle
from multiprocessing import reduction
from typing import Any, ClassVar

import pytest
from support import Opener


class Thing:
    """What only pickle can carry."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


class Marking:
    """Stands for dill or cloudpickle: what it writes, only it can read."""

    used: ClassVar[list[str]] = []

    @classmethod
    def dumps(cls, obj: Any, protocol: int | None = None) -> memoryview:
        cls.used.append("dumps")
        return io.BytesIO(b"marked" + pickle.dumps(obj, protocol)).getbuffer()

    @classmethod
    def loads(cls, data: Any) -> Any:
        cls.used.append("loads")
        assert bytes(data[:6]) == b"marked"
        return pickle.loads(data[6:])

    @staticmethod
    def register(kind: type, reduce: Any) -> None: ...


class Reducer(reduction.AbstractReducer):
    """A reducer with another pickler."""

    ForkingPickler = Marking  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Nothing was called yet."""
    Marking.used.clear()


@pytest.fixture(params=["methods", "queues", "class", "reducer"])
def replaced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pickler is replaced, in each of the places where programs do so."""
    if request.param == "methods":
        monkeypatch.setattr(reduction.ForkingPickler, "dumps", Marking.dumps)
        monkeypatch.setattr(reduction.ForkingPickler, "loads", Marking.loads)
    elif request.param == "queues":
        monkeypatch.setattr(multiprocessing.queues, "_ForkingPickler", Marking)
    elif request.param == "class":
        monkeypatch.setattr(reduction, "ForkingPickler", Marking)
    else:
        monkeypatch.setitem(vars(multiprocessing.context), "reduction", multiprocessing.context.reduction)  # type: ignore[attr-defined]
        multiprocessing.get_context().reducer = Reducer()  # type: ignore[assignment]
    return str(request.param)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_the_replaced_pickler_is_used(our_mp: Opener, replaced: str, kind: str) -> None:
    q = getattr(our_mp, kind)()
    q.put(Thing(1))
    assert q.get() == Thing(1)
    assert Marking.used == ["dumps", "loads"]


def test_the_replaced_pickler_is_used_by_batches(our_mp: Opener, replaced: str) -> None:
    q = our_mp.Queue()
    q.put_many([Thing(1), 2, Thing(3)])
    assert q.get_many(3) == [Thing(1), 2, Thing(3)]
    assert Marking.used == ["dumps", "dumps", "loads", "loads"]


def test_the_replaced_pickler_is_used_by_the_ends(our_mp: Opener, replaced: str) -> None:
    q = our_mp.SimpleQueue()
    q._writer.send(Thing(1))
    assert q._reader.recv() == Thing(1)
    q.put("plain")
    assert Marking.loads(q._reader.recv_bytes()) == "plain"
    assert Marking.used == ["dumps", "loads", "dumps", "loads"]


def test_large_buffers_go_by_the_replaced_pickler(our_mp: Opener, replaced: str) -> None:
    q = our_mp.Queue()
    q.put(Thing(pickle.PickleBuffer(bytearray(10_000)).raw().tobytes()))
    assert q.get() == Thing(bytes(10_000))
    assert Marking.used == ["dumps", "loads"]


def test_a_pickler_may_be_replaced_between_two_items(our_mp: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    q = our_mp.Queue()
    q.put(Thing(1))
    assert q.get() == Thing(1)
    with monkeypatch.context() as patched:
        patched.setattr(reduction.ForkingPickler, "dumps", Marking.dumps)
        patched.setattr(reduction.ForkingPickler, "loads", Marking.loads)
        q.put(Thing(2))
        assert q.get() == Thing(2)
    q.put(Thing(3))
    assert q.get() == Thing(3)
    assert Marking.used == ["dumps", "loads"]


@pytest.mark.parametrize("function", ["dumps", "loads"])
def test_one_replaced_function_is_enough(our_mp: Opener, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    calls = []
    original = getattr(reduction.ForkingPickler, function)

    def counting(*arguments: Any) -> Any:
        calls.append(function)
        return original(*arguments)

    monkeypatch.setattr(reduction.ForkingPickler, function, counting)
    q = our_mp.Queue()
    q.put(Thing(bytearray(10_000)))
    assert q.get() == Thing(bytearray(10_000))
    assert calls == [function]
