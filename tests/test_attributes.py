"""What ``dir()`` lists can be read, so programs that look at every attribute of an object may be given a queue."""

from __future__ import annotations

import abc
import inspect
import multiprocessing.managers
import pickle
import unittest.mock
import xmlrpc.server
from typing import Any

import pytest
from queue_kinds import KINDS

from shmqueue import ShmQueueNotInitializedError
from shmqueue.compat import _queues
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue

ABSENT = ["queue", "mutex", "not_empty", "_buffer", "_sem", "_notempty", "_poll", "_opid"]


@pytest.fixture(params=list(KINDS))
def q(engine: str, request: pytest.FixtureRequest) -> Any:
    """An open queue of each kind."""
    queue = KINDS[request.param]()
    yield queue
    queue.close()


def test_every_listed_attribute_of_a_queue_can_be_read(q: Any) -> None:
    for name in dir(q):
        getattr(q, name)
    assert {"put", "get"} <= dict(inspect.getmembers(q)).keys()


def test_every_listed_attribute_of_a_class_can_be_read(q: Any) -> None:
    for name in dir(type(q)):
        getattr(type(q), name)
    assert {"put", "get"} <= dict(inspect.getmembers(type(q))).keys()


def test_every_listed_attribute_of_a_closed_queue_can_be_read(q: Any) -> None:
    q.close()
    for name in dir(q):
        getattr(q, name)


def test_asking_a_closed_queue_for_its_state_raises_no_other_error(q: Any) -> None:
    names = dir(q)
    q.close()
    listed = dir(q)
    for name in names:
        assert hasattr(q, name) == (name in listed)


STATE = ["maxsize", "is_shutdown", "unfinished_tasks", "used_bytes", "capacity_bytes", "initial_bytes", "closed"]


def test_the_state_of_a_closed_queue_is_what_it_was(q: Any) -> None:
    q.put("item")
    names = [name for name in STATE if hasattr(q, name)]
    assert {"used_bytes", "capacity_bytes", "initial_bytes", "closed"} <= {*names}
    before = {name: getattr(q, name) for name in names}
    assert before["used_bytes"] > 0
    q.close()
    q.close()
    assert {name: getattr(q, name) for name in names} == {**before, "closed": True}


def test_what_only_an_open_queue_can_say_raises_that_it_is_closed(engine: str) -> None:
    q = KINDS["ShmQueue"]()
    q.close()
    for name in ("refs", "debug_ref_data"):
        with pytest.raises(ShmQueueNotInitializedError, match="is closed"):
            getattr(q, name)


def test_the_state_of_a_queue_that_was_shut_down_is_kept(engine: str) -> None:
    for kind, shut_down in (("ShmQueue", "shutdown_all"), ("queue.Queue", "shutdown")):
        q = KINDS[kind]()
        assert not q.is_shutdown
        getattr(q, shut_down)()
        q.close()
        assert q.is_shutdown


def test_what_is_absent_is_listed_neither_by_the_queue_nor_by_its_class(q: Any) -> None:
    for name in ABSENT:
        assert name not in dir(q)
        assert name not in dir(type(q))
        assert not hasattr(q, name)
        assert not hasattr(type(q), name)


def test_a_subclass_may_have_an_attribute_that_is_absent_otherwise(engine: str) -> None:
    class WithMutex(our_queue.Queue[int]):
        mutex = "mine"  # type: ignore[assignment]

    with pytest.raises(AttributeError, match="type object 'Queue' has no attribute 'mutex'"):
        our_queue.Queue.mutex  # noqa: B018
    q = WithMutex()
    try:
        assert q.mutex == "mine"
        assert "mutex" in dir(q)
        assert "mutex" in dir(WithMutex)
        q.not_full = "mine too"  # type: ignore[assignment]
        assert "not_full" in dir(q)
    finally:
        q.close()


def test_a_subclass_may_be_abstract(engine: str) -> None:
    class Abstract(our_queue.Queue[int], abc.ABC):
        @abc.abstractmethod
        def report(self) -> None: ...

    class Concrete(Abstract):
        def report(self) -> None: ...

    with pytest.raises(TypeError, match="abstract"):
        Abstract()  # type: ignore[abstract]
    Concrete().close()


def test_a_manager_serves_a_queue(q: Any) -> None:
    class Manager(multiprocessing.managers.BaseManager):
        pass

    Manager.register("queue", callable=lambda: q)
    manager = Manager(ctx=multiprocessing.get_context("fork"))
    manager.start()
    try:
        proxy = manager.queue()  # type: ignore[attr-defined]
        proxy.put("item")
        assert q.get() == "item"
    finally:
        manager.shutdown()


def test_a_mock_has_the_methods_of_a_queue(q: Any) -> None:
    for spec in (q, type(q)):
        mock = unittest.mock.create_autospec(spec, instance=True)
        mock.put("item")
        mock.put.assert_called_once_with("item")
        for name in ABSENT:
            assert not hasattr(mock, name)


def test_xmlrpc_lists_the_methods_of_a_queue(q: Any) -> None:
    assert {"put", "get"} <= set(xmlrpc.server.list_public_methods(q))


# ---- subclasses ----


@pytest.mark.parametrize("hook", ["_init", "_put", "_get", "_qsize"])
@pytest.mark.parametrize("kind", [our_queue.Queue, our_queue.SimpleQueue])
def test_a_subclass_cannot_override_what_is_never_called(kind: type, hook: str) -> None:
    with pytest.raises(TypeError, match=rf"'Sorted' overrides {hook}\(\), which .* never calls: .*override put"):
        type("Sorted", (kind,), {hook: lambda *arguments: None})


def test_a_subclass_cannot_inherit_what_is_never_called() -> None:
    import queue

    with pytest.raises(TypeError, match=r"\(of PriorityQueue\)"):

        class Sorted(our_queue.Queue, queue.PriorityQueue):  # type: ignore[misc, type-arg]
            pass


@pytest.mark.parametrize("hook", ["_feed", "_start_thread", "_on_queue_feeder_error", "_reset", "_after_fork"])
@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_subclass_cannot_override_what_the_feeder_thread_would_call(engine: str, kind: str, hook: str) -> None:
    q = getattr(our_multiprocessing, kind)()
    try:
        with pytest.raises(TypeError, match=rf"overrides {hook}\(\)"):
            type("Fed", (type(q),), {hook: lambda *arguments: None})
    finally:
        q.close()


def test_a_subclass_may_change_items_in_put_and_get(engine: str) -> None:
    class Negated(our_queue.Queue[int]):
        def put(self, item: int, block: bool = True, timeout: float | None = None) -> None:
            super().put(-item, block, timeout)

        def get(self, block: bool = True, timeout: float | None = None) -> int:
            return 1000 - super().get(block, timeout)

    q = Negated()
    try:
        q.put(1)
        q.put_nowait(2)
        assert [q.get(), q.get_nowait()] == [1001, 1002]
    finally:
        q.close()


class Labelled(_queues.SimpleQueue):
    """A queue with something of its own that travels with it, as the standard classes allow."""

    def __init__(self) -> None:
        super().__init__()
        self.label = "mine"

    def __getstate__(self) -> Any:
        return {"queue": super().__getstate__(), "label": self.label}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state["queue"])
        self.label = state["label"]


def test_the_state_of_a_subclass_travels(engine: str) -> None:
    q = Labelled()
    copy = pickle.loads(pickle.dumps(q))
    try:
        copy.put("item")
        assert (q.get(), copy.label) == ("item", "mine")
    finally:
        copy.close()
        q.close()
