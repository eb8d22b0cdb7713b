"""What every kind of queue has beside what the class has that it stands in for."""

from __future__ import annotations

import queue as standard_queue
from collections.abc import Callable
from typing import Any

import pytest
from queue_kinds import KINDS
from support import Call, asleep

from shmqueue import ShmQueue, ShmQueueShapeWarning, Statistics
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue

pytestmark = pytest.mark.usefixtures("engine")

BATCHES = [kind for kind in KINDS if "SimpleQueue" not in kind]
MAKERS: dict[str, Callable[..., Any]] = {
    "queue.Queue": our_queue.Queue,
    "queue.SimpleQueue": our_queue.SimpleQueue,
    "multiprocessing.Queue": our_multiprocessing.Queue,
    "multiprocessing.JoinableQueue": our_multiprocessing.JoinableQueue,
    "multiprocessing.SimpleQueue": our_multiprocessing.SimpleQueue,
    "context.Queue": our_multiprocessing.get_context("spawn").Queue,
    "context.JoinableQueue": our_multiprocessing.get_context("spawn").JoinableQueue,
    "context.SimpleQueue": our_multiprocessing.get_context("spawn").SimpleQueue,
    "ShmQueue": ShmQueue,
}


@pytest.fixture(params=list(KINDS))
def q(request: pytest.FixtureRequest, engine: str) -> Any:
    """An open queue of each kind."""
    queue = KINDS[request.param]()
    yield queue
    queue.close()


@pytest.fixture(params=BATCHES)
def batching(request: pytest.FixtureRequest, engine: str) -> Any:
    """An open queue of each kind that has get_many()."""
    queue = KINDS[request.param]()
    yield queue
    queue.close()


def shut_down(q: Any) -> None:
    """For all processes, also through a queue whose class cannot."""
    if hasattr(q, "shutdown_all"):
        q.shutdown_all()
    else:
        q._channel.engine.shut_down(False)


# ---- figures ----


def test_bytes_are_counted(q: Any) -> None:
    assert q.used_bytes == 0
    q.put(b"x" * 1000)
    assert 1000 < q.used_bytes < 1100
    assert 0 < q.initial_bytes <= q.capacity_bytes
    q.get()
    assert q.used_bytes == 0


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_limit_of_bytes_holds(make: Callable[..., Any], name: str) -> None:
    with make(name=name, max_bytes=1 << 20) if make is not ShmQueue else make(name, max_bytes=1 << 20) as q:
        assert q.capacity_bytes == 1 << 20
        with ShmQueue(name) as same:
            assert same.capacity_bytes == same.max_buffer_size() == 1 << 20
            assert same.initial_bytes == q.initial_bytes
            same.put(b"x" * 1000)
            assert same.used_bytes == same.buffer_occupancy() == q.used_bytes


def test_another_limit_of_bytes_than_the_creators_is_told(name: str) -> None:
    with our_multiprocessing.Queue(name=name, max_bytes=1 << 20) as q:
        with pytest.warns(ShmQueueShapeWarning, match="max_bytes"):
            other = our_multiprocessing.Queue(name=name, max_bytes=1 << 21)
        assert other.capacity_bytes == q.capacity_bytes
        other.close()


def test_a_queue_of_fixed_size_has_its_bytes_from_the_beginning(name: str) -> None:
    with ShmQueue(name, buffer_size=1 << 16) as q:
        assert q.initial_bytes == q.capacity_bytes == 1 << 16


def test_statistics_have_everything(q: Any) -> None:
    assert q.statistics() == Statistics(
        **{
            **dict.fromkeys(("puts", "gets", "bytes", "high_water", "recoveries"), 0),
            "waiting": False,
            "capacity_bytes": q.capacity_bytes,
            "initial_bytes": q.initial_bytes,
        }
    )
    for number in range(3):
        q.put(number)
    q.get()
    figures = q.statistics()
    assert (figures.puts, figures.gets, figures.qsize, figures.high_water) == (3, 1, 2, 3)
    assert figures.unfinished_tasks == 3
    assert figures.used_bytes == q.used_bytes
    shut_down(q)
    assert q.statistics().is_shutdown


def test_statistics_tell_the_limit_of_items() -> None:
    with our_queue.Queue[int](5) as q:
        assert q.statistics().maxsize == 5
        q.maxsize = 7
        assert q.statistics().maxsize == 7


# ---- several items ----


def test_a_batch_is_taken_without_waiting(batching: Any) -> None:
    q = batching
    for timeout in (None, 5, 0):
        with pytest.raises(standard_queue.Empty):
            q.get_many(3, timeout, block=False)
    q.put_many([1, 2, 3, 4])
    assert q.get_many(3, block=False) == [1, 2, 3]
    assert q.get_many(3, 5, block=True) == [4]


def test_a_batch_that_may_block_waits_for_its_first_item(batching: Any) -> None:
    waiting = asleep(Call(batching.get_many, 3, block=True))
    batching.put(1)
    assert waiting.result() == [1]


# ---- the items of a loop ----


def test_a_loop_takes_all_items_until_the_queue_is_shut_down(q: Any) -> None:
    for number in range(3):
        q.put(number)
    shut_down(q)
    assert list(q) == [0, 1, 2]
    assert list(q) == []


def test_a_loop_waits_for_items(q: Any) -> None:
    waiting = asleep(Call(list, q))
    q.put(1)
    q.put(2)
    shut_down(q)
    assert waiting.result() == [1, 2]


def test_a_loop_that_is_left_has_taken_what_it_was_given_and_no_more(q: Any) -> None:
    for number in range(3):
        q.put(number)
    for item in q:
        if item == 1:
            break
    assert q.get() == 2


def test_a_loop_hands_on_what_its_block_raises(q: Any) -> None:
    q.put(1)
    shut_down(q)
    items = iter(q)
    assert next(items) == 1
    q.close()
    with pytest.raises((OSError, ValueError, RuntimeError), match="closed"):
        next(items)


def test_nothing_is_taken_to_see_whether_it_is_there(q: Any) -> None:
    q.put(1)
    with pytest.raises(TypeError):
        1 in q  # noqa: B015
    assert q.get() == 1


def test_errors_of_wrong_calls_name_the_class_that_programs_use(make: Callable[..., ShmQueue]) -> None:
    q: Any = make()
    for call in (q.put, q.get_many, q.put_view, lambda: q.join(1, 2, 3)):
        with pytest.raises(TypeError, match=r"^ShmQueue\.\w+\(\) "):
            call()
