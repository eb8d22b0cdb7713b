"""The bytes of a leased item: moved out of the way, whole, and given back."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from support import PATIENCE, Call, asleep

import shmqueue
from shmqueue import ShmQueue
from shmqueue.segment import path_of

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=[{"buffer_size": 1 << 17}, {"max_bytes": 1 << 24}], ids=["fixed", "elastic"])
def q(make: Make, request: pytest.FixtureRequest) -> ShmQueue:
    return make(**request.param)


LARGE = 40_000


def move_what_is_leased(q: ShmQueue) -> None:
    """So many bytes go through the queue that no leased record can stay where it was."""
    for number in range(60):
        q.put(bytes([number]) * 10_000)
        q.get()
        q.task_done()


def memory_of(name: str) -> int:
    return os.stat(path_of(name)).st_blocks * 512


def test_the_memory_of_a_moved_item_is_given_back_when_it_is_taken(make: Make, name: str) -> None:
    q = make(buffer_size=1 << 17)
    q.put(b"x" * LARGE)
    lease = q.lease()
    move_what_is_leased(q)
    lease.requeue()
    before = memory_of(name)
    assert q.get() == b"x" * LARGE
    assert memory_of(name) <= before - LARGE // 2


def test_the_memory_of_a_moved_item_is_given_back_when_it_is_dropped(make: Make, name: str, native: None) -> None:
    q = make(buffer_size=1 << 17)
    q.put(b"x" * LARGE)
    lease = q.lease()
    move_what_is_leased(q)
    before = memory_of(name)
    q.shutdown_all(immediate=True)
    lease.requeue()
    assert memory_of(name) <= before - LARGE // 2


@pytest.mark.parametrize("how", ["clear", "get", "ack"])
def test_moved_items_stay_whole_when_the_memory_of_others_is_given_back(q: ShmQueue, how: str) -> None:
    items = [bytes([65 + number]) * 9_001 for number in range(5)]
    for item in items:
        q.put(item)
    leases = [q.lease() for _ in items]
    move_what_is_leased(q)
    for number in (0, 2, 4):
        if how == "ack":
            leases[number].ack()
        else:
            leases[number].requeue()
    if how == "clear":
        q.clear()
    elif how == "get":
        assert [q.get() for _ in range(3)] == [items[0], items[2], items[4]]
    for number in (1, 3):
        leases[number].requeue()
        with q.get_view() as view:
            assert view == items[number]
    assert q.buffer_occupancy() == 0


def test_a_payload_is_whole_whenever_it_is_asked_for(q: ShmQueue) -> None:
    q.put(b"payload" * 1000)
    loan: Any = q._engine.lend(True, None, False)
    first = loan.payload()
    move_what_is_leased(q)
    assert loan.payload() == first
    assert loan.contents() == b"payload" * 1000
    move_what_is_leased(q)
    assert loan.payload() == first
    assert loan.finish()


@pytest.mark.usefixtures("only_portable")
@pytest.mark.parametrize("how", ["lease", "get_view"])
def test_nothing_can_be_leased_while_there_is_no_room_to_set_it_aside(make: Make, how: str) -> None:
    q = make(buffer_size=100_000)
    q.put(b"1" * 60_000)
    first = q.lease()
    q.put(b"2" * 60_000)
    lease: Callable[..., object] = getattr(q, how)
    for options in {"block": False}, {"timeout": 0}, {"timeout": 0.02}:
        with pytest.raises(shmqueue.ShmQueueEmpty, match=r"1 item is leased.*no room"):
            lease(**options)
    call = asleep(Call(lease))
    assert q.qsize() == 1
    assert first.ack()
    assert call.result() is not None


@pytest.mark.usefixtures("only_native")
@pytest.mark.parametrize("raises", [False, True])
def test_close_leaves_the_bytes_of_a_view_alone_until_nothing_looks_at_them(make: Make, raises: bool) -> None:
    q, other = make(buffer_size=100_000), make()
    q.put(b"A" * 5000)
    seen: Any = None
    with suppress(RuntimeError), q.get_view() as memory:
        seen = memoryview(memory)[:]
        if raises:
            raise RuntimeError
        q.close()
    q.close()
    for _ in range(15):
        other.put(b"B" * 5000)
        assert other.get(timeout=PATIENCE) == b"B" * 5000
    assert bytes(seen) == b"A" * 5000
    del memory, seen
    assert other.get(timeout=PATIENCE) == b"A" * 5000
    assert other.buffer_occupancy() == 0


@pytest.mark.parametrize("timeout", [0, PATIENCE])
def test_a_put_moves_leased_bytes_out_of_its_way(make: Make, timeout: float) -> None:
    q = make(buffer_size=100_000)
    q.put(b"1" * 60_000)
    first = q.lease()
    q.put(b"2" * 60_000, timeout=timeout)
    assert q.get() == b"2" * 60_000
    q.put_many([b"%d" % number * 20_000 for number in range(4)], timeout=timeout)
    assert [len(q.get()) for _ in range(4)] == [20_000] * 4
    assert first.item == b"1" * 60_000
    assert first.ack()
    assert q.buffer_occupancy() == 0


def test_a_put_moves_small_leased_bytes_as_well(make: Make) -> None:
    """Less than keeps a get from moving them on its own."""
    q = make(buffer_size=100_000)
    q.put(b"1" * 1000)
    first = q.lease()
    q.put(b"2" * 99_000, timeout=PATIENCE)
    assert q.get() == b"2" * 99_000
    first.requeue()
    assert q.get() == b"1" * 1000


def test_a_slow_holder_does_not_hold_up_the_others(q: ShmQueue) -> None:
    q.put(b"slow" * 500)
    slow = q.lease()
    for number in range(3000):
        q.put(number.to_bytes(4, "little") * 20)
        assert q.get(timeout=PATIENCE) == number.to_bytes(4, "little") * 20
    slow.requeue()
    again = q.lease()
    assert (again.item, again.attempt) == (b"slow" * 500, 2)
    again.ack()
    assert q.buffer_occupancy() == 0
