"""A descriptor is made when it is asked for, and nothing stays behind when its queue is closed."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from children import is_readable
from fileno_support import KINDS, OpenQueue, descriptors, maker, source_of
from support import PATIENCE, Call, run_python, wait_until

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=KINDS)
def q(request: pytest.FixtureRequest, open_kind: OpenQueue) -> Any:
    return open_kind(request.param)


def test_nothing_is_made_before_it_is_asked_for(q: Any) -> None:
    q.put(1)
    before, threads = descriptors(), threading.active_count()
    source = source_of(q)
    if source is not q:
        assert source.poll()
    assert q.get() == 1
    assert descriptors() == before
    assert threading.active_count() <= threads


def test_closing_leaves_neither_thread_nor_descriptor(open_kind: OpenQueue) -> None:
    threads = threading.active_count()
    before = descriptors()
    for kind in KINDS:
        for item in ([], [1]):
            q = open_kind(kind)
            for value in item:
                q.put(value)
            assert is_readable(source_of(q), PATIENCE if item else 0) == bool(item)
            q.close()
    wait_until(lambda: threading.active_count() <= threads, "the threads have ended")
    assert descriptors() == before


def test_a_queue_that_is_collected_leaves_neither_thread_nor_descriptor() -> None:
    threads = threading.active_count()
    before = descriptors()
    for kind in KINDS:
        q: Any = maker(kind)()
        source_of(q).fileno()
        del q
    wait_until(lambda: threading.active_count() <= threads, "the threads have ended")
    wait_until(lambda: descriptors() == before, "the descriptors are closed")


def test_a_closed_queue_has_no_descriptor(open_kind: OpenQueue) -> None:
    for kind in KINDS:
        for asked_before in (False, True):
            q = open_kind(kind)
            source = source_of(q)
            if asked_before:
                source.fileno()
            q.close()
            with pytest.raises((OSError, ValueError, RuntimeError), match="is closed"):
                source.fileno()


def test_closing_while_many_things_go_on(open_kind: OpenQueue) -> None:
    for number in range(20):
        q = open_kind(KINDS[number % len(KINDS)])
        source_of(q).fileno()
        taken: list[object] = []
        calls = [Call(until_closed, q.put, 1), Call(until_closed, _taking, q, taken)]
        wait_until(lambda taken=taken: len(taken) > 2, "items go through it")  # type: ignore[misc]
        q.close()
        for call in calls:
            call.result()


def _taking(q: Any, taken: list[object]) -> None:
    taken.append(q.get())


def until_closed(call: Callable[..., object], *arguments: object) -> None:
    def repeat() -> None:
        while True:
            call(*arguments)

    with pytest.raises((OSError, ValueError, RuntimeError), match="is closed"):
        repeat()


def test_an_interpreter_ends_with_its_watchers_running(engine: str) -> None:
    code = """
from shmqueue import ShmQueue
from shmqueue.compat import multiprocessing as mp, queue
queues = [queue.Queue(), mp.Queue(), mp.JoinableQueue(), mp.SimpleQueue(), ShmQueue("at-the-end")]
for number, q in enumerate(queues):
    if number % 2:
        q.put(number)
    getattr(q, "_reader", q).fileno()
print("over")
"""
    for _ in range(3):
        assert run_python(code) == "over\n"


@pytest.mark.parametrize("kind", ["mp.Queue", "mp.JoinableQueue", "mp.SimpleQueue"])
def test_a_queue_without_its_writer_that_is_collected_leaves_neither_thread_nor_descriptor(kind: str) -> None:
    before, threads = descriptors(), len(os.listdir("/proc/self/task"))
    q: Any = maker(kind)()
    q._writer.close()
    q._reader.fileno()
    del q
    wait_until(lambda: descriptors() <= before, "the descriptors are closed")
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= threads, "the threads have ended")
