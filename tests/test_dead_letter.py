"""``lease(max_attempts=…, dead_letter=…)``: what was leased too often goes to another queue, and nothing is lost."""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import PATIENCE, Call, Opener, Unloadable, asleep, python, wait_until

import shmqueue
from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def jobs(make: Make, name: str) -> ShmQueue:
    return make(name + "-jobs")


@pytest.fixture
def failed(make: Make, name: str) -> ShmQueue:
    return make(name + "-failed")


@pytest.fixture(params=["ShmQueue", "queue.Queue", "multiprocessing.Queue", "multiprocessing.JoinableQueue"])
def pair(
    make: Make, name: str, our_queues: Opener, our_mp: Opener, request: pytest.FixtureRequest
) -> Iterator[tuple[Any, Any]]:
    """Two queues of each class that has leases."""
    module, _, kind = request.param.rpartition(".")
    if not module:
        yield make(name + "-jobs"), make(name + "-failed")
        return
    opener = our_queues if module == "queue" else our_mp
    yield getattr(opener, kind)(), getattr(opener, kind)()


def fail(jobs: Any, times: int) -> None:
    """Lease the oldest item and give it back, so often."""
    for _ in range(times):
        jobs.lease(timeout=PATIENCE).requeue()


# ---- what it does ----


def test_an_item_is_leased_as_often_as_allowed_and_moved_then(pair: tuple[Any, Any]) -> None:
    jobs, failed = pair
    for item in ({"bad": 1}, "good"):
        jobs.put(item)
    for attempt in 1, 2:
        with jobs.lease(max_attempts=2, dead_letter=failed) as lease:
            assert (lease.item, lease.attempt) == ({"bad": 1}, attempt)
            lease.requeue()
    with jobs.lease(max_attempts=2, dead_letter=failed) as lease:
        assert (lease.item, lease.attempt) == ("good", 1)
    assert failed.get(timeout=PATIENCE) == {"bad": 1}
    assert failed.empty()
    assert jobs.empty()


def test_what_is_moved_has_left_the_queue(pair: tuple[Any, Any]) -> None:
    jobs, failed = pair
    for item in range(3):
        jobs.put(item)
    for _ in range(2):
        for lease in [jobs.lease() for _ in range(3)]:
            lease.requeue()
    with pytest.raises(queue.Empty):
        jobs.lease(block=False, max_attempts=2, dead_letter=failed)
    assert [failed.get(timeout=PATIENCE) for _ in range(3)] == [0, 1, 2]
    if hasattr(jobs, "join"):
        jobs.join()


@pytest.mark.parametrize("kind", [queue.Queue, queue.SimpleQueue, multiprocessing.SimpleQueue])
def test_any_queue_takes_dead_letters(jobs: ShmQueue, kind: Callable[[], Any]) -> None:
    dead_letter = kind()
    jobs.put(["bad"])
    jobs.put("good")
    fail(jobs, 1)
    assert jobs.lease(max_attempts=1, dead_letter=dead_letter).item == "good"
    assert dead_letter.get() == ["bad"]


def test_the_timeout_is_for_the_whole_call(jobs: ShmQueue, failed: ShmQueue) -> None:
    jobs.put("bad")
    fail(jobs, 1)
    with pytest.raises(queue.Empty, match=r"after 0\.05 s"):
        jobs.lease(timeout=0.05, max_attempts=1, dead_letter=failed)
    assert failed.get(block=False) == "bad"


def test_a_blocked_lease_moves_what_comes(jobs: ShmQueue, failed: ShmQueue) -> None:
    jobs.put("bad")
    fail(jobs, 1)
    leasing = asleep(Call(jobs.lease, timeout=PATIENCE, max_attempts=1, dead_letter=failed))
    assert failed.get(timeout=PATIENCE) == "bad"
    jobs.put("good")
    assert leasing.result().item == "good"


# ---- items that cannot be loaded, or not by everybody ----


def test_an_item_that_cannot_be_loaded_is_moved_as_it_is(pair: tuple[Any, Any]) -> None:
    jobs, failed = pair
    jobs.put(Unloadable())
    fail(jobs, 1)
    with pytest.raises(queue.Empty):
        jobs.lease(block=False, max_attempts=1, dead_letter=failed)
    assert failed.qsize() == 1
    with pytest.raises(Exception, match="not a number"):
        failed.get(timeout=PATIENCE)


def test_an_item_that_cannot_be_loaded_stays_if_the_other_queue_takes_items_only(jobs: ShmQueue) -> None:
    jobs.put(Unloadable())
    fail(jobs, 1)
    with pytest.raises(shmqueue.ShmQueueDeserializationError, match="not a number"):
        jobs.lease(block=False, max_attempts=1, dead_letter=queue.Queue())
    assert jobs.qsize() == 1


def test_pickles_are_not_forced_on_a_queue_that_refuses_them(jobs: ShmQueue, make: Make, name: str) -> None:
    plain = make(name + "-plain", allow_pickle=False)
    jobs.put({1, 2})
    fail(jobs, 1)
    with pytest.raises(shmqueue.ShmQueueSerializationError, match="allow_pickle"):
        jobs.lease(block=False, max_attempts=1, dead_letter=plain)
    assert (plain.qsize(), jobs.get(block=False)) == (0, {1, 2})


def test_a_serialization_of_ones_own_is_known_to_the_other_queue_or_undone(jobs: ShmQueue, failed: ShmQueue) -> None:
    jobs.custom_serialize(lambda method, item: item.encode())
    jobs.custom_deserialize(lambda method, chunks: b"".join(chunks).decode())
    for _ in range(2):
        jobs.put("mine", serialization_method=1001)
        fail(jobs, 1)
        with pytest.raises(queue.Empty):
            jobs.lease(block=False, max_attempts=1, dead_letter=failed)
        assert failed.get(block=False) == "mine"
        failed.custom_deserialize(lambda method, chunks: b"".join(chunks).decode())


def test_a_put_of_ones_own_is_called(jobs: ShmQueue, name: str) -> None:
    class Upper(ShmQueue):
        def put(self, data: Any, *arguments: Any, **options: Any) -> None:
            super().put(data.upper(), *arguments, **options)

    jobs.put("bad")
    fail(jobs, 1)
    with Upper(name) as failed:
        with pytest.raises(queue.Empty):
            jobs.lease(block=False, max_attempts=1, dead_letter=failed)
        assert failed.get(block=False) == "BAD"


# ---- nothing is lost ----


def test_a_full_dead_letter_queue_loses_nothing(pair: tuple[Any, Any]) -> None:
    jobs, _ = pair
    failed = type(jobs)(**({"queue_name": jobs.identifier + "-f"} if isinstance(jobs, ShmQueue) else {}), maxsize=1)
    with failed:
        failed.put("in the way")
        jobs.put("bad")
        fail(jobs, 1)
        for options in {"block": False}, {"timeout": 0.02}:
            with pytest.raises(queue.Full, match=r"no room for an item of queue .* handed out \d times"):
                jobs.lease(**options, max_attempts=1, dead_letter=failed)
            assert jobs.qsize() == 1
        assert failed.get(timeout=PATIENCE) == "in the way"
        with pytest.raises(queue.Empty):
            jobs.lease(block=False, max_attempts=1, dead_letter=failed)
        assert failed.get(timeout=PATIENCE) == "bad"


def test_a_lease_that_blocks_waits_for_room(jobs: ShmQueue, make: Make, name: str) -> None:
    failed = make(name + "-small", maxsize=1)
    failed.put("in the way")
    jobs.put("bad")
    fail(jobs, 1)
    jobs.put("good")
    leasing = asleep(Call(jobs.lease, max_attempts=1, dead_letter=failed))
    assert (jobs.statistics().leased, jobs.qsize()) == (1, 1)
    assert failed.get() == "in the way"
    assert leasing.result().item == "good"
    assert failed.get(timeout=PATIENCE) == "bad"


@pytest.mark.parametrize("timeout", [None, 10 * PATIENCE])
def test_closing_the_queue_ends_the_wait_for_room(jobs: ShmQueue, make: Make, name: str, timeout: float | None) -> None:
    failed, another = make(name + "-failed", maxsize=1), make(name + "-jobs")
    failed.put("in the way")
    jobs.put("bad")
    fail(jobs, 1)
    waiting = Call(lambda: jobs.lease(timeout=timeout, max_attempts=1, dead_letter=failed))
    wait_until(lambda: another.statistics().leased == 1, "the item is in the hands of the lease")
    jobs.close()
    with pytest.raises(shmqueue.ShmQueueClosedError, match="is closed"):
        waiting.result()
    assert another.get(timeout=PATIENCE) == "bad"
    assert failed.get_many(2) == ["in the way"]


@pytest.mark.parametrize("error", [ValueError("never fits"), KeyboardInterrupt()])
def test_a_put_that_raises_gives_the_item_back(jobs: ShmQueue, error: BaseException) -> None:
    class Refusing:
        def put(self, item: Any) -> None:
            raise error

    jobs.put("bad")
    fail(jobs, 1)
    with pytest.raises(type(error)):
        jobs.lease(max_attempts=1, dead_letter=Refusing())
    assert jobs.get(block=False) == "bad"


def test_a_dead_letter_queue_that_is_shut_down_gets_nothing(jobs: ShmQueue, failed: ShmQueue) -> None:
    jobs.put("bad")
    fail(jobs, 1)
    failed.shutdown_all()
    with pytest.raises(shmqueue.ShmQueueShutDown):
        jobs.lease(max_attempts=1, dead_letter=failed)
    assert jobs.get(block=False) == "bad"


def test_a_put_that_would_have_to_be_awaited_is_refused(jobs: ShmQueue) -> None:
    jobs.put("bad")
    fail(jobs, 1)
    with pytest.raises(TypeError, match="awaitable"):
        jobs.lease(max_attempts=1, dead_letter=asyncio.Queue())
    assert jobs.get(block=False) == "bad"


KILLED_BETWEEN = """
import os, signal, sys
from shmqueue import ShmQueue, dead_letters

jobs, failed = ShmQueue(sys.argv[1]), ShmQueue(sys.argv[2])

class Dying:
    def put(self, item):
        if sys.argv[3] == "after":
            failed.put(item)
        os.kill(os.getpid(), signal.SIGKILL)

print(jobs.lease(max_attempts=1, dead_letter=Dying()))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_death_while_an_item_is_moved_moves_it_again(jobs: ShmQueue, failed: ShmQueue, moment: str) -> None:
    jobs.put("bad")
    fail(jobs, 1)
    with python(KILLED_BETWEEN, jobs.identifier, failed.identifier, moment) as process:
        assert process.wait(PATIENCE) == -signal.SIGKILL
    copies = 2 if moment == "after" else 1
    leasing = Call(jobs.lease, timeout=PATIENCE, max_attempts=1, dead_letter=failed)
    assert [failed.get(timeout=PATIENCE) for _ in range(copies)] == ["bad"] * copies
    jobs.put("good")
    assert leasing.result().item == "good"
    assert failed.empty()


FATAL = """
import os, signal, sys
from shmqueue import ShmQueue

jobs, failed = ShmQueue(sys.argv[1]), ShmQueue(sys.argv[2])
while True:
    with jobs.lease(max_attempts=3, dead_letter=failed) as lease:
        if lease.item == "fatal":
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_item_that_kills_its_consumers_ends_in_the_other_queue(jobs: ShmQueue, failed: ShmQueue) -> None:
    jobs.put_many(["fatal", "good"])
    for _ in range(3):
        with python(FATAL, jobs.identifier, failed.identifier) as process:
            assert process.wait(PATIENCE) == -signal.SIGKILL
    with python(FATAL, jobs.identifier, failed.identifier):
        assert failed.get(timeout=PATIENCE) == "fatal"
        wait_until(lambda: jobs.unfinished_tasks == 0, "the other item is done")


# ---- arguments ----


def test_one_argument_needs_the_other(pair: tuple[Any, Any]) -> None:
    jobs, failed = pair
    with pytest.raises(ValueError, match="max_attempts needs dead_letter"):
        jobs.lease(max_attempts=3)
    with pytest.raises(ValueError, match="dead_letter needs max_attempts"):
        jobs.lease(dead_letter=failed)


@pytest.mark.parametrize("wrong", [0, -1])
def test_an_item_is_leased_at_least_once(pair: tuple[Any, Any], wrong: int) -> None:
    jobs, failed = pair
    with pytest.raises(ValueError, match="max_attempts must be at least 1"):
        jobs.lease(max_attempts=wrong, dead_letter=failed)


@pytest.mark.parametrize("wrong", [True, 1.5, "3"])
def test_attempts_are_a_whole_number(jobs: ShmQueue, failed: ShmQueue, wrong: Any) -> None:
    with pytest.raises(TypeError, match="max_attempts must be an int"):
        jobs.lease(max_attempts=wrong, dead_letter=failed)


def test_dead_letters_go_to_a_queue(jobs: ShmQueue) -> None:
    wrong: Any = ["a list"]
    with pytest.raises(TypeError, match="dead_letter must be a queue"):
        jobs.lease(max_attempts=1, dead_letter=wrong)


def test_dead_letters_do_not_go_to_the_queue_itself(pair: tuple[Any, Any]) -> None:
    jobs, _ = pair
    with pytest.raises(ValueError, match="itself"):
        jobs.lease(max_attempts=1, dead_letter=jobs)


def test_another_handle_on_the_queue_is_the_queue_itself(make: Make, name: str) -> None:
    jobs, again = make(name), make(name)
    with pytest.raises(ValueError, match="itself"):
        jobs.lease(max_attempts=1, dead_letter=again)


def test_a_closed_dead_letter_queue_is_told_before_an_item_is_taken(pair: tuple[Any, Any]) -> None:
    jobs, failed = pair
    jobs.put("bad")
    fail(jobs, 1)
    failed.close()
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        jobs.lease(max_attempts=1, dead_letter=failed)
    assert jobs.lease(timeout=PATIENCE).attempt == 2
