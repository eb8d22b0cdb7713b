"""Looking at the oldest record of a queue, and taking the very one that was looked at; both engines."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import pytest
from support import Call, asleep

import shmqueue
from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


def test_the_oldest_record_is_copied_and_stays(make: Make) -> None:
    q = make()
    q.put("first")
    q.put("second")
    before = q.statistics(), q.snapshot()
    assert q._engine.peek(False, None) == q._engine.peek(True, 1.0) == (0, 0, b"\xa5first")
    assert (q.statistics(), q.snapshot()) == before
    assert q.get_many(10) == ["first", "second"]


@pytest.mark.parametrize("size", [0, 1, 56, 57, 32767, 32768, 200_000])
def test_records_of_all_sizes_are_copied(make: Make, size: int) -> None:
    q = make(buffer_size=1 << 18)
    payload = os.urandom(size)
    for number in range(4):  # the larger ones wrap
        assert q._engine.put(1001, payload, True, None)
        assert q._engine.peek(True, None) == (number, 1001, payload)
        assert q._engine.get(True, None) == (1001, payload)


def test_a_queue_that_grows_is_looked_at_and_taken_from_too(make: Make) -> None:
    q = make(max_bytes=1 << 24)
    payloads = [os.urandom(5000 * i) for i in range(40)]
    for payload in payloads:
        assert q._engine.put(7, payload, True, None)
    for number, payload in enumerate(payloads):
        assert q._engine.peek(False, None) == (number, 7, payload)
        assert q._engine.take(number)
    assert q.empty()
    assert q.buffer_occupancy() == 0


def number_of_next(q: ShmQueue, block: bool) -> int:
    """The number of the oldest record; there is one."""
    seen = q._engine.peek(block, None)
    assert seen is not None
    return seen[0]


def test_only_the_record_with_that_number_is_taken(make: Make) -> None:
    q = make()
    assert not q._engine.take(0)
    q.put("first")
    q.put("second")
    assert not q._engine.take(1)
    assert q._engine.take(0)
    assert not q._engine.take(0)
    assert number_of_next(q, False) == 1
    assert q.statistics().gets == 1
    assert q.get() == "second"


def test_a_record_is_taken_by_one_of_several_that_saw_it(make: Make, name: str) -> None:
    q = make()
    q.put("only")
    handles = [make(name) for _ in range(4)]
    number = number_of_next(q, False)
    barrier = threading.Barrier(len(handles))

    def take(handle: ShmQueue) -> bool:
        barrier.wait()
        return handle._engine.take(number)

    calls = [Call(take, handle) for handle in handles]
    assert sorted(call.result() for call in calls) == [False, False, False, True]
    assert q.statistics().gets == 1


def test_an_empty_queue_has_nothing_to_look_at(make: Make) -> None:
    q = make()
    assert q._engine.peek(False, None) is None
    assert q._engine.peek(True, 0.01) is None


def test_a_look_waits_for_a_record(make: Make, name: str) -> None:
    q = make()
    call = asleep(Call(q._engine.peek, True, None))
    make(name).put(None)
    assert call.result() == (0, 0, b"\xc0")
    assert q.qsize() == 1


def test_room_is_made_by_taking(make: Make) -> None:
    q = make(maxsize=1)
    q.put(1)
    call = asleep(Call(q.put, 2))
    assert q._engine.take(0)
    call.result()
    assert q.get() == 2


def test_a_queue_that_was_shut_down_is_looked_at_to_its_end(make: Make) -> None:
    q = make()
    q.put(1)
    q.shutdown_all()
    assert number_of_next(q, True) == 0
    assert q._engine.take(0)
    assert not q._engine.take(1)
    with pytest.raises(shmqueue.ShmQueueShutDown):
        q._engine.peek(True, None)


def test_a_closed_handle_refuses_both(make: Make) -> None:
    q = make()
    q.shutdown()
    for call, arguments in ((q._engine.peek, (False, None)), (q._engine.take, (0,))):
        with pytest.raises(shmqueue.ShmQueueNotInitializedError):
            call(*arguments)
