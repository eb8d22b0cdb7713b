"""A queue's descriptor is readable while the queue is not empty."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import selectors
import threading
import time
from collections.abc import Callable
from typing import Any

import children
import pytest
from children import is_readable
from fileno_support import KINDS, OpenQueue, source_of
from support import (
    PATIENCE,
    START_METHODS,
    Call,
    asleep,
    cpu_seconds,
    exit_status,
    in_child,
    running,
    succeed,
    wait_until,
)

from shmqueue import ShmQueue

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=KINDS)
def q(request: pytest.FixtureRequest, open_kind: OpenQueue) -> Any:
    return open_kind(request.param)


def test_it_is_readable_while_there_are_items(q: Any) -> None:
    source = source_of(q)
    for _ in range(20):
        assert not is_readable(source)
        q.put(1)
        q.put(2)
        assert is_readable(source, PATIENCE)
        assert q.get() == 1
        assert is_readable(source, PATIENCE)
        assert q.get() == 2


def test_items_that_were_there_before_make_it_readable(q: Any) -> None:
    q.put(1)
    source = source_of(q)
    assert is_readable(source, PATIENCE)
    q.get()
    assert not is_readable(source)


def test_it_is_the_same_one_each_time(q: Any) -> None:
    source = source_of(q)
    number = source.fileno()
    assert source.fileno() == number
    os.fstat(number)
    assert not os.get_inheritable(number)


def test_a_selector_sees_items_and_other_things(q: Any) -> None:
    source = source_of(q)
    one, other = os.pipe()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ, "queue")
            selector.register(one, selectors.EVENT_READ, "pipe")
            assert selector.select(0) == []
            q.put(1)
            assert [key.data for key, _ in selector.select(PATIENCE)] == ["queue"]
            os.write(other, b"x")
            wait_until(lambda: len(selector.select(PATIENCE)) == 2, "both are readable")
            q.get()
            assert [key.data for key, _ in selector.select(PATIENCE)] == ["pipe"]
    finally:
        os.close(one)
        os.close(other)


def test_an_item_of_another_thread_wakes_who_waits(q: Any) -> None:
    source = source_of(q)
    for number in range(20):
        waiting = asleep(Call(is_readable, source, PATIENCE))
        q.put(number)
        assert waiting.result()
        assert q.get() == number


def test_every_way_of_taking_the_last_item_makes_it_unreadable(open_kind: OpenQueue) -> None:
    q = open_kind("queue.Queue")
    q.fileno()
    for take in (q.get, q.get_nowait, lambda: q.get(timeout=1), lambda: q.get_many(5), lambda: q.get_many(5, 1)):
        q.put(1)
        assert is_readable(q, PATIENCE)
        take()
        assert not is_readable(q)
    q.put_many([1, 2, 3])
    assert is_readable(q, PATIENCE)
    q.get_many(2)
    assert is_readable(q, PATIENCE)
    q.get_many(2)
    assert not is_readable(q)


def test_items_that_another_handle_takes_make_it_unreadable_soon(open_kind: OpenQueue) -> None:
    from shmqueue.compat.queue import Queue

    q = open_kind("queue.Queue")
    q.put(1)
    assert is_readable(q, PATIENCE)
    other: Queue[int] = pickle.loads(pickle.dumps(q))
    try:
        assert other.get() == 1
        wait_until(lambda: not is_readable(q), "it is not readable any more")
        other.put(2)
        assert is_readable(q, PATIENCE)
    finally:
        other.close()


def test_shutting_down_with_drop_makes_it_no_trap(open_kind: OpenQueue) -> None:
    from shmqueue.compat.queue import ShutDown

    q = open_kind("queue.Queue")
    q.put(1)
    assert is_readable(q, PATIENCE)
    q.shutdown(immediate=True)
    with pytest.raises(ShutDown):
        q.get_nowait()


@pytest.mark.parametrize("method", START_METHODS)
def test_a_child_has_a_descriptor_of_its_own(q: Any, open_kind: OpenQueue, method: str) -> None:
    report = open_kind("mp.Queue")
    source = source_of(q)
    source.fileno()
    before = threading.active_count()
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=children.watch, args=(q, report))
    with running(child):
        assert report.get(timeout=PATIENCE) == ("empty", False, False)
        assert not is_readable(source)
        q.put("for the child")
        assert report.get(timeout=PATIENCE) == ("item", True, "for the child", False)
        succeed(child)
    assert threading.active_count() <= before  # one of an earlier test may just have been ending
    wait_until(lambda: not is_readable(source), "the parent sees that it is empty")
    q.put("for the parent")
    assert is_readable(source, PATIENCE)
    assert q.get() == "for the parent"
    assert not is_readable(source)


def test_many_items_through_a_watched_queue(q: Any) -> None:
    """Each time that it is readable there is something, and each item is seen."""
    source = source_of(q)
    count = 2000

    def produce() -> None:
        for number in range(count):
            q.put(number)
            if number % 100 == 0:
                time.sleep(0)

    producer = Call(produce)
    got: list[int] = []
    while len(got) < count:
        assert is_readable(source, PATIENCE)
        while not q.empty():
            got.append(q.get())
    producer.result()
    assert got == list(range(count))
    assert not is_readable(source)


def test_waiting_costs_nothing(open_kind: OpenQueue) -> None:
    q = open_kind("queue.Queue")
    q.fileno()
    before = cpu_seconds(os.getpid())
    assert not is_readable(q, 1.0)
    assert cpu_seconds(os.getpid()) - before < 0.5
    with pytest.raises(queue.Empty):
        q.get_nowait()


@pytest.mark.parametrize("kind", ["mp.Queue", "mp.JoinableQueue", "mp.SimpleQueue"])
def test_a_queue_has_a_descriptor_as_its_reader_has(open_kind: OpenQueue, kind: str) -> None:
    q = open_kind(kind)
    assert q.fileno() == q._reader.fileno()
    q.put(1)
    assert multiprocessing.connection.wait([q], PATIENCE) == [q]


def test_every_call_of_a_shm_queue_leaves_it_true(open_kind: OpenQueue) -> None:
    q = open_kind("ShmQueue")
    assert not is_readable(q)
    takes = [
        q.get,
        lambda: q.get(timeout=1),
        lambda: q.get(False),
        lambda: q.get_many(5),
        lambda: q.lease().ack(),
        lambda: q.lease(timeout=1).ack(),
        lambda: q.lease(max_attempts=2, dead_letter=queue.Queue()).ack(),
        q.clear,
    ]
    puts: list[Callable[[], object]] = [
        lambda: q.put(b"1"),
        lambda: q.put(b"1", timeout=1),
        lambda: q.put(b"1", serialization_method=1),
        lambda: q.put(b"1" * 40_000),
        lambda: q.put_many([b"1"]),
    ]
    for number, put in enumerate(puts):
        for take in takes[number:] + takes[:number]:
            put()
            assert is_readable(q)
            take()
            assert not is_readable(q)
    q.put(1)
    for options in ({}, {"timeout": 1}):
        lease = q.lease(**options)
        assert not is_readable(q)
        lease.requeue()
        assert is_readable(q)
    q.get()
    with q.put_view(1) as view:
        view[0] = 1
    assert is_readable(q, PATIENCE)
    view = q.get_view()
    with view:
        assert not is_readable(q)
    q.put(b"1")
    view = q.get_view()
    view.__enter__()
    view.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert is_readable(q, PATIENCE)
    q.get()
    q.shutdown_all()
    assert is_readable(q)


def test_many_handles_on_a_queue_each_have_one(open_kind: OpenQueue, name: str) -> None:
    with ShmQueue(name) as one, ShmQueue(name) as other:
        assert one.fileno() != other.fileno()
        one.put(1)
        assert is_readable(one)
        assert is_readable(other, PATIENCE)
        other.get()
        assert not is_readable(other)
        wait_until(lambda: not is_readable(one), "it is not readable any more")


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_child_without_a_descriptor_puts_and_gets(open_kind: OpenQueue, kind: str) -> None:
    q = open_kind(kind)
    q.fileno()

    def use() -> None:
        q.put(1)
        q.put(2)
        assert q.get() == 1
        assert is_readable(q, PATIENCE)
        assert q.get() == 2
        assert not is_readable(q)
        q.put(3)

    assert exit_status(in_child(use)) == 0
    assert is_readable(q, PATIENCE)
    assert q.get() == 3
    assert not is_readable(q)
