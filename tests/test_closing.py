"""Closing a handle, on both engines: what it does, and how it differs from a shut-down, for every kind of queue."""

from __future__ import annotations

import queue
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import shmqueue
from shmqueue import ShmQueue, ShmQueueClosedError
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue

KINDS: dict[str, Callable[..., Any]] = {
    "ShmQueue": lambda name: ShmQueue(name),
    "queue.Queue": lambda name: our_queue.Queue(name=name),
    "queue.SimpleQueue": lambda name: our_queue.SimpleQueue(name=name),
    "mp.Queue": lambda name: our_multiprocessing.Queue(name=name),
    "mp.JoinableQueue": lambda name: our_multiprocessing.JoinableQueue(name=name),
    "mp.SimpleQueue": lambda name: our_multiprocessing.SimpleQueue(name=name),
}

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=list(KINDS))
def q(request: pytest.FixtureRequest, name: str) -> Iterator[Any]:
    opened = KINDS[request.param](name)
    yield opened
    opened.close()


def test_every_queue_can_be_closed_and_tells_so(q: Any) -> None:
    assert q.closed is False
    q.close()
    assert q.closed is True
    q.close()
    for call in (q.get, q.empty, lambda: q.put(1)):
        with pytest.raises((RuntimeError, OSError, ValueError), match="is closed"):
            call()


def test_every_queue_is_closed_at_the_end_of_a_with_block(q: Any) -> None:
    with q as entered:
        assert entered is q
        q.put("item")
        assert q.get() == "item"
    assert q.closed
    with pytest.raises(RuntimeError, match="is closed"), q:
        pass


def test_a_block_that_raises_closes_the_queue_and_the_exception_goes_on(q: Any) -> None:
    with pytest.raises(ZeroDivisionError), q:
        raise ZeroDivisionError
    assert q.closed


def test_closing_one_handle_leaves_the_others_open(q: Any, name: str) -> None:
    with ShmQueue(name, create=False) as other:
        q.put("item")
        q.close()
        assert other.get() == "item"
        assert not other.closed


def test_shutdown_of_a_shmqueue_is_close(make: Callable[..., ShmQueue], name: str) -> None:
    q = make()
    q.shutdown()
    assert q.closed
    with pytest.raises(shmqueue.ShmQueueNotInitializedError, match=f"^queue '{name}' is closed$"):
        q.get()


def test_closed_and_shut_down_are_told_apart(make: Callable[..., ShmQueue], name: str) -> None:
    q, adapter = make(), our_queue.Queue(name=name)
    with adapter:
        q.shutdown_all()
        told = f"^queue '{re.escape(name)}' was shut down for all processes$"
        for call in (lambda: q.put(1), q.get, lambda: q.put_many([1]), lambda: q.get_many(1)):
            with pytest.raises(shmqueue.ShmQueueShutDown, match=told):
                call()
        for call in (lambda: adapter.put(1), adapter.get, lambda: adapter.get(timeout=-1)):
            with pytest.raises(our_queue.ShutDown, match=told):
                call()
        assert not q.closed
        assert not adapter.closed
    with pytest.raises(shmqueue.ShmQueueNotInitializedError, match=f"^queue '{name}' is closed$"):
        adapter.qsize()


def test_a_handle_that_is_closed_is_no_empty_queue(q: Any) -> None:
    q.close()
    with pytest.raises(Exception, match="is closed") as raised:
        q.get()
    assert not isinstance(raised.value, (queue.Empty, queue.Full, shmqueue.ShmQueueShutDown))


def test_a_closed_queue_says_so_before_it_packs_an_item(q: Any) -> None:
    q.close()
    pickled = []

    class Pickled:
        def __reduce__(self) -> tuple[Any, ...]:
            pickled.append(self)
            return int, ()

    for item in (Pickled(), lambda: None):
        with pytest.raises(ShmQueueClosedError):
            q.put(item)
        if hasattr(q, "put_many"):
            with pytest.raises(ShmQueueClosedError):
                q.put_many([item])
            with pytest.raises(ShmQueueClosedError):
                q.put_many([])
    assert pickled == []
