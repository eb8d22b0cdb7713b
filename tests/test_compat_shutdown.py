"""Shutting down stand-ins for ``queue.Queue``: which calls raise then, what is left, and which processes see it.

A test that gets the ``queues`` fixture runs on the standard library's module too, where it has ``shutdown()``.

Fails if: a program that shuts down a ``queue.Queue`` would behave differently on ours.
"""

from __future__ import annotations

import queue as standard
import sys
from multiprocessing import get_context
from typing import Any

import children
import pytest
from support import PATIENCE, START_METHODS, Call, Opener, asleep, running, succeed

HAS_SHUTDOWN = sys.version_info >= (3, 13)


def require_shutdown(queues: Opener) -> None:
    if queues.is_standard and not HAS_SHUTDOWN:
        pytest.skip("queue.Queue has no shutdown() before Python 3.13")


def test_after_shutdown_put_raises_and_get_takes_what_is_left(queues: Opener) -> None:
    require_shutdown(queues)
    q = queues.Queue()
    assert q.is_shutdown is False
    q.put(1)
    q.put(2)
    q.shutdown()
    assert q.is_shutdown is True
    for put in (lambda: q.put(3), lambda: q.put_nowait(3), lambda: q.put(3, timeout=PATIENCE)):
        with pytest.raises(queues.ShutDown):
            put()
    assert [q.get(), q.get_nowait()] == [1, 2]
    for get in (q.get, q.get_nowait, lambda: q.get(timeout=PATIENCE), lambda: q.get(timeout=0)):
        with pytest.raises(queues.ShutDown):
            get()
    assert q.unfinished_tasks == 2
    q.task_done(), q.task_done()
    q.join()


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("timeout", [None, 1000.0])
def test_shutdown_wakes_calls_that_wait(queues: Opener, immediate: bool, timeout: float | None) -> None:
    require_shutdown(queues)
    empty, full = queues.Queue(), queues.Queue(1)
    full.put("there")
    calls = [asleep(Call(empty.get, timeout=timeout)) for _ in range(2)]
    calls += [asleep(Call(full.put, 1, timeout=timeout)) for _ in range(2)]
    empty.shutdown(immediate)
    full.shutdown(immediate=immediate)
    for call in calls:
        with pytest.raises(queues.ShutDown):
            call.result()
    assert full.qsize() == (0 if immediate else 1)


def test_an_immediate_shutdown_drops_the_items_and_ends_join(queues: Opener) -> None:
    require_shutdown(queues)
    q = queues.Queue()
    for number in range(3):
        q.put(number)
    join = asleep(Call(q.join))
    q.shutdown(immediate=True)
    join.result()
    assert (q.qsize(), q.unfinished_tasks) == (0, 0)
    with pytest.raises(queues.ShutDown):
        q.get()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


def test_items_in_flight_still_need_their_task_done(queues: Opener) -> None:
    require_shutdown(queues)
    q = queues.Queue()
    for number in range(3):
        q.put(number)
    q.get()
    join = asleep(Call(q.join))
    q.shutdown(immediate=True)
    assert q.unfinished_tasks == 1
    asleep(join)
    q.task_done()
    join.result()


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_shutting_down_again_is_allowed(queues: Opener, first: bool, second: bool) -> None:
    require_shutdown(queues)
    q = queues.Queue()
    q.put(1)
    q.put(2)
    q.shutdown(first)
    q.shutdown(second)
    assert q.is_shutdown
    assert q.qsize() == (0 if first or second else 2)
    with pytest.raises(queues.ShutDown):
        q.put(3)


def test_shutdown_raises_the_standard_exception_where_there_is_one(our_queues: Opener) -> None:
    if HAS_SHUTDOWN:
        assert our_queues.ShutDown is standard.ShutDown  # type: ignore[attr-defined]
    else:
        assert issubclass(our_queues.ShutDown, Exception)
    assert not issubclass(our_queues.ShutDown, standard.Empty)
    assert not issubclass(our_queues.ShutDown, standard.Full)


@pytest.mark.parametrize("method", START_METHODS)
@pytest.mark.parametrize("immediate", [False, True])
def test_shutdown_reaches_every_process(our_queues: Opener, method: str, immediate: bool) -> None:
    q, full, report = our_queues.Queue(), our_queues.Queue(1), our_queues.Queue()
    full.put("there")
    context: Any = get_context(method)
    waiting = [
        context.Process(target=children.get_until_shut_down, args=(q, report)),
        context.Process(target=children.put_until_shut_down, args=(full, report)),
    ]
    with running(*waiting):
        assert {report.get(timeout=PATIENCE), report.get(timeout=PATIENCE)} == {"getting", "putting"}
        q.shutdown(immediate)
        full.shutdown(immediate)
        assert {report.get(timeout=PATIENCE), report.get(timeout=PATIENCE)} == {"get: ShutDown", "put: ShutDown"}
        succeed(*waiting)
    assert full.qsize() == (0 if immediate else 1)
