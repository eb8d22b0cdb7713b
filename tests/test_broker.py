"""``connect(url)``: the same program on shared memory and at each broker."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, run_python, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

import kombu
from broker_servers import Server, Servers, killed_holder

import shmqueue
from shmqueue.broker.queue import BrokerQueue


@pytest.fixture
def q(any_url: str) -> Iterator[Any]:
    """A queue that was just opened, and is closed at the end."""
    with shmqueue.connect(any_url) as queue:
        yield queue


def test_items_come_in_order_and_with_their_types(q: Any) -> None:
    items = [1, "text", b"bytes", (1, [2, {"three": (4,)}]), None, True, 1.5, {1: 2}]
    for item in items:
        q.put(item)
    assert q.qsize() == len(items)
    assert [q.get(timeout=PATIENCE) for _ in items] == items
    assert q.empty()


def test_several_are_put_and_taken_at_once(q: Any) -> None:
    q.put_many(range(5))
    assert q.get_many(3, timeout=PATIENCE) == [0, 1, 2]
    assert q.get_many(3, timeout=PATIENCE) == [3, 4]
    q.put_many("ab")
    q.clear()
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get_nowait()


def test_a_get_waits_until_its_timeout_or_an_item(q: Any) -> None:
    with pytest.raises(shmqueue.ShmQueueEmpty, match=r"after 0\.01 s"):
        q.get(timeout=0.01)
    putter = threading.Timer(0.05, q.put, ["late"])
    putter.start()
    assert q.get(timeout=PATIENCE) == "late"
    putter.join()


def test_a_lease_ends_once_and_what_is_requeued_comes_again(q: Any) -> None:
    q.put("item")
    lease = q.lease(timeout=PATIENCE)
    assert (lease.item, lease.attempt, lease.is_held) == ("item", 1, True)
    assert (lease.requeue(), lease.requeue(), lease.is_held) == (True, False, False)
    lease = q.lease(timeout=PATIENCE)
    assert (lease.item, lease.attempt) == ("item", 2)
    with pytest.raises(ZeroDivisionError), lease:
        1 / 0  # noqa: B018 - that it raises is the point
    with q.lease(timeout=PATIENCE) as lease:
        assert lease.item == "item"
    assert (lease.is_held, lease.ack()) == (False, False)
    assert q.empty()


def test_a_lease_outlives_the_thread_that_took_it(q: Any) -> None:
    q.put_many(["first", "second"])
    leases: list[Any] = []
    thread = threading.Thread(target=lambda: leases.extend(q.lease(timeout=PATIENCE) for _ in range(2)))
    thread.start()
    thread.join()
    assert q.empty()
    first, second = leases
    assert (first.item, second.item, first.is_held) == ("first", "second", True)
    assert (first.ack(), second.requeue()) == (True, True)
    assert q.get(timeout=PATIENCE) == "second"


def test_pickle_is_refused_unless_it_is_allowed(any_url: str) -> None:
    with shmqueue.connect(any_url) as q, shmqueue.connect(any_url, allow_pickle=True) as lax:
        with pytest.raises(shmqueue.ShmQueueSerializationError):
            q.put({1, 2})
        lax.put({1, 2})
        assert lax.get(timeout=PATIENCE) == {1, 2}
        lax.put({1, 2})
        with pytest.raises(shmqueue.ShmQueueDeserializationError):
            q.get(timeout=PATIENCE)
        assert q.empty()


def test_it_works_in_other_threads_and_processes(q: Any) -> None:
    travelled = pickle.loads(pickle.dumps(q))
    threads = [threading.Thread(target=travelled.put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    code = """
import os, pickle, sys
q = pickle.loads(bytes.fromhex(sys.argv[1]))
q.put("spawned")
if os.fork() == 0:
    q.put("forked")
    os._exit(0)
os.wait()
q.put("spawned again")
q.close()
"""
    run_python(code, pickle.dumps(q).hex())
    items = [q.get(timeout=PATIENCE) for _ in range(7)]
    assert sorted(items[:4]) == [0, 1, 2, 3]
    assert items[4:] == ["spawned", "forked", "spawned again"]
    travelled.close()


def test_a_closed_queue_refuses_everything(any_url: str) -> None:
    q: Any = shmqueue.connect(any_url)
    q.put(1)
    q.clear()
    q.close()
    q.close()
    assert q.closed
    for call in (q.get, q.qsize, q.lease, lambda: q.put(1)):
        with pytest.raises(shmqueue.ShmQueueNotInitializedError):
            call()


def test_what_a_killed_holder_had_leased_comes_again_and_what_it_acknowledged_does_not(any_url: str) -> None:
    with shmqueue.connect(any_url) as q:
        q.put_many(["done", "held"])
        with q.lease(timeout=PATIENCE) as lease:
            assert lease.item == "done"
        with killed_holder(any_url, "held 1"), pytest.raises(shmqueue.ShmQueueEmpty):
            q.get_nowait()
        with q.lease(timeout=PATIENCE) as lease:
            assert (lease.item, lease.attempt) == ("held", 2)
        assert q.empty()


def test_the_same_program_runs_on_every_url(any_url: str, tmp_path: Path) -> None:
    program = Path(__file__).parent / "programs" / "broker_recipe.py"
    code = "import runpy, sys; sys.argv[:] = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    with shmqueue.connect(any_url):  # or else the queue of shm:// ends with the first of the processes
        run_python(code, program, any_url, "put", "5")
        assert run_python(code, program, any_url, "work") == "".join(f"{n} squared is {n * n}\n" for n in range(5))


# ---- at brokers ----


def test_what_a_broker_does_not_have_says_so() -> None:
    q: Any = shmqueue.connect("redis://:secret@localhost/0?queue=jobs")
    for call in (
        q.join,
        q.task_done,
        q.full,
        q.get_view,
        q.shutdown_all,
        lambda: q.put_view(1),
        lambda: q.maxsize,
        lambda: q.unfinished_tasks,
        lambda: q.lease(max_attempts=1, dead_letter=q),
    ):
        with pytest.raises(
            shmqueue.ShmQueueUnsupportedError, match="cannot be had of queue 'jobs' at redis:"
        ) as caught:
            call()
        assert "secret" not in str(caught.value)
    assert "secret" not in repr(q)
    q.close()


def test_what_other_programs_put_as_json_arrives_and_their_pickles_do_not(server: Server, name: str) -> None:
    with shmqueue.connect(server.url(name)) as q:
        q.clear()
        with kombu.Connection(server.url(name).split("?")[0]) as connection:
            producer = kombu.Producer(connection.channel())
            producer.publish({"a": [1]}, routing_key=name)
            producer.publish({"a": [1]}, routing_key=name, serializer="pickle")
        assert q.get(timeout=PATIENCE) == {"a": [1]}
        with pytest.raises(shmqueue.ShmQueueDeserializationError, match="python-serialize"):
            q.get(timeout=PATIENCE)


def test_a_thread_that_ends_closes_its_connection(servers: Servers, name: str) -> None:
    with shmqueue.connect(servers.of("redis").url(name)) as q:
        assert isinstance(q, BrokerQueue)
        thread = threading.Thread(target=q.put, args=(1,))
        thread.start()
        thread.join()
        wait_until(lambda: not q._links._all, "the link of the thread is gone")
        assert q.get(timeout=PATIENCE) == 1
