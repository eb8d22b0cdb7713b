"""``maxsize`` changes for all processes, as it does for all threads in ``queue.Queue``; on both engines."""

from __future__ import annotations

import pickle
import queue
import random
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, Call, asleep, is_asleep, python, wait_until

import shmqueue
from shmqueue import ShmQueue
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue

pytestmark = pytest.mark.usefixtures("engine")

Make = Callable[..., ShmQueue]


def test_every_handle_sees_the_maxsize_of_now(make: Make, name: str) -> None:
    q, other = make(maxsize=3), make()
    with our_queue.Queue(name=name) as adapter, our_multiprocessing.Queue(name=name) as mp:
        for changer, maxsize in ((q, 5), (adapter, 7), (other, 1), (adapter, 2)):
            changer.maxsize = maxsize
            assert [q.maxsize, other.maxsize, adapter.maxsize, mp._maxsize] == [maxsize] * 4
            assert make().maxsize == maxsize
            assert pickle.loads(pickle.dumps(adapter)).maxsize == maxsize
        q.maxsize = 0
        assert adapter.maxsize == 0
        assert mp._maxsize == 2**31 - 1


@pytest.mark.parametrize("unbounded", [0, -1, -1000])
def test_zero_or_less_is_no_limit(make: Make, name: str, unbounded: int) -> None:
    q = make(maxsize=1)
    q.put(0)
    with our_queue.Queue(name=name) as adapter:
        for changer in (q, adapter):
            changer.maxsize = unbounded
            assert q.maxsize == adapter.maxsize == 0
            q.put_many(range(100), block=False)
            q.maxsize = 1
            assert q.full()


def test_a_queue_that_was_unbounded_can_be_bounded(make: Make) -> None:
    q = make()
    q.put_many(range(3))
    q.maxsize = 2
    assert q.full()
    with pytest.raises(queue.Full):
        q.put(3, block=False)
    assert q.get_many(2) == [0, 1]
    q.put(3, block=False)
    assert q.full()


def test_items_beyond_a_smaller_maxsize_stay(make: Make) -> None:
    q = make(maxsize=10)
    q.put_many(range(10))
    q.maxsize = 3
    assert q.qsize() == 10
    for expected in range(8):
        with pytest.raises(queue.Full):
            q.put("x", timeout=0)
        assert q.get() == expected
    q.put("x", block=False)
    assert [q.get() for _ in range(3)] == [8, 9, "x"]


def test_growing_wakes_a_blocked_put_of_another_process(make: Make, name: str) -> None:
    q = make(maxsize=1)
    q.put(0)
    code = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
print("up", flush=True)
q.put(1)
"""
    with python(code, name) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: is_asleep(process.pid), "the put blocks")
        q.maxsize = 2
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    assert q.get_many(2) == [0, 1]


def test_growing_wakes_all_blocked_puts_of_this_process(make: Make) -> None:
    q = make(maxsize=1)
    q.put(0)
    calls = [asleep(Call(q.put, 1)), asleep(Call(q.put, 1, True, PATIENCE)), asleep(Call(q.put_many, [1, 1]))]
    q.maxsize = 0
    for call in calls:
        call.result()
    assert q.get_many(10) == [0, 1, 1, 1, 1]


def test_a_blocked_batch_goes_on_in_smaller_pieces_when_maxsize_shrinks(make: Make, name: str) -> None:
    q = make(maxsize=5)
    q.put("first")
    with our_queue.Queue(name=name) as adapter:
        for putter in (q, adapter):
            call = asleep(Call(putter.put_many, list(range(5))))  # all of them fit an empty queue
            q.maxsize = 2
            assert q.get() == "first"
            assert [q.get(timeout=PATIENCE) for _ in range(5)] == list(range(5))
            call.result()
            q.maxsize = 5
            q.put("first")


def test_a_batch_that_has_become_too_large_still_times_out(make: Make) -> None:
    q = make(maxsize=3)
    q.put("first")
    call = Call(q.put_many, [1, 2, 3], True, 0.5)
    q.maxsize = 1  # while it is blocked, unless this machine is busy
    with pytest.raises(shmqueue.ShmQueueFull):
        call.result()
    assert q.get_many(10) == ["first"]


def test_a_queue_opened_with_the_maxsize_of_now_is_no_warning(make: Make) -> None:
    make(maxsize=3).maxsize = 4
    make(maxsize=4)
    with pytest.warns(shmqueue.ShmQueueShapeWarning, match="maxsize=4, which holds: maxsize=3"):
        make(maxsize=3)


def test_numbers_that_the_standard_attribute_takes(name: str) -> None:
    with our_queue.Queue(3, name=name) as q:
        for value, means in ((2.5, 3), (float("inf"), 0), (True, 1), (10**30, 2**62 - 1)):
            q.maxsize = value
            assert q.maxsize == means


@pytest.mark.parametrize("bad", ["3", 2.5, None, True])
def test_what_is_no_int_is_no_maxsize(make: Make, bad: Any) -> None:
    q = make(maxsize=3)
    with pytest.raises(shmqueue.ShmQueueTypeError, match="maxsize must be an int"):
        q.maxsize = bad
    assert q.maxsize == 3


def test_a_closed_queue_refuses_another_maxsize(make: Make, name: str) -> None:
    q, adapter = make(maxsize=3), our_queue.Queue(name=name)
    adapter.close()
    q.close()
    for closed in (q, adapter):
        with pytest.raises(shmqueue.ShmQueueNotInitializedError, match="is closed"):
            closed.maxsize = 5


def test_items_survive_a_maxsize_that_changes_all_the_time(make: Make) -> None:
    q, count = make(maxsize=1), 2000
    chance = random.Random(5)

    def put(producer: int) -> None:
        number = 0
        while number < count:
            size = min(count - number, 1 + number % 4)
            q.put_many([(producer, number + index) for index in range(size)])
            number += size
        q.put((producer, None))

    producers = [Call(put, 0), Call(put, 1)]
    got: dict[int, list[Any]] = {0: [], 1: []}
    while sum(items[-1:] == [None] for items in got.values()) < 2:
        q.maxsize = chance.choice([1, 2, 3, 8, 0])
        producer, number = q.get(timeout=PATIENCE)
        got[producer].append(number)
    for call in producers:
        call.result()
    assert got == {producer: [*range(count), None] for producer in (0, 1)}
