"""Leases of the adapters: between processes, through other classes of queues, and beside their own interface."""

from __future__ import annotations

import select
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from children import lease_and_wait
from support import PATIENCE, Opener

import shmqueue


@pytest.fixture(params=["Queue", "JoinableQueue"])
def mp_queue(our_mp: Opener, request: pytest.FixtureRequest) -> Iterator[Any]:
    queue = getattr(our_mp.of("fork"), request.param)()
    yield queue
    queue.close()


def test_a_killed_workers_item_goes_to_another_one(our_context: Opener) -> None:
    jobs, told = our_context.Queue(), our_context.Queue()
    jobs.put({"job": [1, 2]})
    worker = our_context.Process(target=lease_and_wait, args=(jobs, told))
    worker.start()
    assert told.get(timeout=PATIENCE) == (worker.pid, {"job": [1, 2]}, 1)
    worker.kill()
    with jobs.lease(timeout=PATIENCE) as lease:
        assert (lease.item, lease.attempt) == ({"job": [1, 2]}, 2)
    worker.join()
    assert jobs.empty()


def test_acknowledging_is_what_join_waits_for(our_context: Opener) -> None:
    jobs = our_context.JoinableQueue()
    jobs.put(1)
    jobs.put(2)
    jobs.lease().ack()
    jobs.get()
    jobs.task_done()
    jobs.join()


def test_an_item_is_leased_with_its_exact_type(mp_queue: Any) -> None:
    class_ = type(ValueError("x"))
    mp_queue.put(ValueError("x"))
    lease = mp_queue.lease()
    assert type(lease.item) is class_
    lease.requeue()
    assert str(mp_queue.get()) == "x"


def test_a_closed_queue_leases_nothing(mp_queue: Any) -> None:
    mp_queue.put(1)
    mp_queue.close()
    with pytest.raises(ValueError, match="is closed"):
        mp_queue.lease()


def test_the_standard_exceptions_are_raised(mp_queue: Any, our_queues: Opener) -> None:
    import queue

    with pytest.raises(queue.Empty):
        mp_queue.lease(block=False)
    q = our_queues.Queue()
    with pytest.raises(queue.Empty):
        q.lease(timeout=0.01)
    with pytest.raises(ValueError, match="non-negative"):
        q.lease(timeout=-1)
    q.shutdown()
    with pytest.raises(shmqueue.ShmQueueShutDown):
        q.lease()


def test_a_descriptor_tells_of_an_item_that_was_given_back(our_queues: Opener) -> None:
    q = our_queues.Queue()
    q.put("job")
    fd = q.fileno()
    lease = q.lease()
    assert select.select([fd], [], [], 0)[0] == []
    lease.requeue()
    assert select.select([fd], [], [], 0)[0] == [fd]
    with q.lease():
        assert select.select([fd], [], [], 0)[0] == []


def test_a_queue_opened_by_name_leases_to_all_classes(engine: str, our_queues: Opener) -> None:
    name = f"test-{uuid.uuid4().hex}"
    q = our_queues.Queue(name=name)
    q.put("job")
    with shmqueue.ShmQueue(name) as other:
        other.lease().requeue()
        lease = q.lease()
        assert (lease.item, lease.attempt) == ("job", 2)
        assert lease.ack()
        assert other.unfinished_tasks == 0
