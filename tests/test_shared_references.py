"""An item may refer to one container many times: what arrives does so too, and a put takes no longer for it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from support import run_python

import shmqueue
from shmqueue import ShmQueue, plain
from shmqueue.compat import multiprocessing as compat_multiprocessing

Make = Callable[..., ShmQueue]


def doubled(times: int, kind: Callable[[Any], Any] = lambda inner: {"a": inner, "b": inner}) -> Any:
    """A container in which the innermost one stands 2**times times."""
    item: Any = {"leaf": 1}
    for _ in range(times):
        item = kind(item)
    return item


KINDS: list[Callable[[Any], Any]] = [
    lambda inner: {"a": inner, "b": inner},
    lambda inner: [inner, inner],
    lambda inner: (inner, inner),
    lambda inner: [inner, [1, inner]],
]


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_that_would_be_endless_as_copies_arrives_as_it_was(any_queue: Any, kind: Callable[[Any], Any]) -> None:
    any_queue.put(doubled(64, kind))
    back = any_queue.get()
    first, second = (back["a"], back["b"]) if isinstance(back, dict) else (back[0], back[1])
    assert first is second or first is second[1]


@pytest.mark.parametrize("kind", KINDS)
def test_so_do_those_of_a_batch(make: Make, engine: str, kind: Callable[[Any], Any]) -> None:
    q = make(max_bytes=1 << 26)
    adapter = compat_multiprocessing.Queue()
    for queue in (q, adapter):
        queue.put_many([1, doubled(64, kind), 2])
        one, item, two = queue.get_many(3)
        assert (one, two, type(item)) == (1, 2, type(kind(1)))
    adapter.close()


@pytest.mark.parametrize("size", [0, 1, 30, 3000])
def test_a_container_that_stands_twice_arrives_as_one(any_queue: Any, size: int) -> None:
    shared = {"shared": 1}
    rest = [[i] for i in range(size)]
    for item in ([*rest, shared, shared], [shared, *rest, [shared]], {"a": [shared], "rest": rest, "b": shared}):
        any_queue.put(item)
        back = any_queue.get()
        assert back == item
        found = [value for value in _containers(back) if value == shared]
        assert len(found) == 2
        assert found[0] is found[1]


def _containers(item: Any) -> list[Any]:
    values = list(item.values() if isinstance(item, dict) else item)
    inner = [value for value in values if isinstance(value, (dict, list))]
    return inner + [one for value in inner for one in _containers(value)]


def test_one_of_each_object_is_no_sharing(make: Make, engine: str) -> None:
    q = make(max_bytes=1 << 26)
    text, number, kept = "x" * 100, 10**6, [[i] for i in range(100)]  # `kept` has other references, not in the item
    for item in ([text] * 50, [number] * 50, [(), (), ((),)], [kept[i] for i in range(100)], [bytearray(b"x")] * 2):
        q.put(item)
        record = q._engine.get(False, None)
        assert record is not None
        assert record[0] in (0, 2)  # msgpack


def test_a_large_string_that_stands_often_is_put_once(make: Make, native: None) -> None:
    q = make(max_bytes=1 << 26)
    for text in ("x" * 100_000, b"x" * 100_000):
        q.put([text] * 1000)
        assert q.buffer_occupancy() < 200_000
        assert q.get() == [text] * 1000


@pytest.mark.parametrize("make_item", [list, dict])
def test_what_contains_itself_arrives_so(any_queue: Any, make_item: Callable[[], Any]) -> None:
    item = make_item()
    if isinstance(item, dict):
        item["me"] = item
    else:
        item.append(item)
    any_queue.put(item)
    back = any_queue.get()
    assert (back["me"] if isinstance(item, dict) else back[0]) is back


# ---- without pickle ----


def test_without_pickle_copies_arrive(make: Make, engine: str) -> None:
    q = make(max_bytes=1 << 26, allow_pickle=False)
    shared = {"shared": (1, [2])}
    for item in ([shared, shared], doubled(10), [shared] * 10_000, ({"a": shared}, shared)):
        q.put(item)
        assert q.get() == item
        q.put_many([item])
        assert q.get_many(1) == [item]
    q.put([shared, shared])
    first, second = q.get()
    assert first is not second


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [20, 64, 200])
def test_without_pickle_too_many_copies_are_refused(
    make: Make, engine: str, kind: Callable[[Any], Any], times: int
) -> None:
    q = make(max_bytes=1 << 26, allow_pickle=False)
    put: Callable[[Any], object]
    for put in (q.put, lambda item: q.put_many([1, item])):
        with pytest.raises(
            shmqueue.ShmQueueSerializationError,
            match=r"refers to some containers more than once: .* \d+ are distinct.* allow_pickle=False",
        ):
            put(doubled(times, kind))
    assert q.empty()


def test_without_pickle_what_contains_itself_is_refused(make: Make, engine: str) -> None:
    q = make(allow_pickle=False)
    item: list[Any] = [1]
    item.append({"me": item})
    with pytest.raises(shmqueue.ShmQueueSerializationError, match=r"it contains itself.* allow_pickle=False"):
        q.put(item)


def test_a_memoryview_beside_a_shared_container_arrives_as_bytes(make: Make, engine: str) -> None:
    q = make()
    shared = [1]
    q.put([shared, shared, memoryview(b"x")])
    assert q.get() == [[1], [1], b"x"]


def test_an_item_is_packed_once_before_pickle(make: Make, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __reduce__(self) -> tuple[Any, ...]:
            return int, (7,)

    q = make()
    packed: list[Any] = []
    pack = plain._pack
    monkeypatch.setattr(plain, "_pack", lambda item: packed.append(item) or pack(item))  # type: ignore[func-returns-value]
    monkeypatch.setattr(msgpack, "packb", lambda *_, **__: pytest.fail("msgpack was tried once more"))
    q.put(Other())
    q.put_many([Other(), Other()])
    assert q.get_many(3) == [7, 7, 7]
    assert packed == []
    q.put([1, Other()])
    assert q.get() == [1, 7]
    assert len(packed) <= 1


def test_pickle_is_asked_once(make: Make, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q = make()
    asked = []
    dumps = pickle.dumps

    def count(*arguments: Any, **options: Any) -> bytes:
        asked.append(arguments[0])
        return dumps(*arguments, **options)

    monkeypatch.setattr("shmqueue.pickling.pickle.dumps", count)
    for item in ({1, 2}, [{1, 2}], ({"a": {3}},)):
        q.put(item)
        assert q.get() == item
    assert len(asked) == 3


@pytest.mark.parametrize("allow_pickle", [True, False])
def test_ctrl_c_ends_a_program_that_puts_such_items(engine: str, name: str, allow_pickle: bool) -> None:
    code = """
import os, signal, sys, threading
from shmqueue import ShmQueue, ShmQueueSerializationError
item = {"leaf": 1}
for _ in range(60):
    item = {"a": item, "b": item}
q = ShmQueue(sys.argv[1], max_bytes=1 << 26, allow_pickle=sys.argv[2] == "True")
signal.setitimer(signal.ITIMER_REAL, 0.2)
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    while True:
        try:
            q.put(item)
            q.get()
        except ShmQueueSerializationError:
            pass
except KeyboardInterrupt:
    print("interrupted")
"""
    assert run_python(code, name, allow_pickle) == "interrupted\n"
