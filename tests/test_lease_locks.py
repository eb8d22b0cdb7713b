"""The end of a lease, a view or a reservation while another call or another process has the queue's lock."""

from __future__ import annotations

import gc
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import PATIENCE, Call, asleep, is_thread_asleep, python, wait_for_line, wait_until

import shmqueue
from shmqueue import ShmQueue
from shmqueue.segment import path_of

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


HOLDS = """
import sys, shmqueue
with shmqueue.ShmQueue(sys.argv[1]):  # or else its lock is taken over after a slice
    print("has it", flush=True)
    sys.stdin.read()
"""


@contextmanager
def get_lock_held(name: str) -> Iterator[Callable[[], None]]:
    """A living process that has the queue open has the native get lock until the returned function is called."""
    with python(HOLDS, name) as owner, open(path_of(name), "r+b", buffering=0) as file:
        wait_for_line(owner, "has it")

        def write(word: int) -> None:
            os.pwrite(file.fileno(), struct.pack("=I", word), 512)

        write(owner.pid)
        try:
            yield lambda: write(0)
        finally:
            write(0)


@pytest.mark.usefixtures("only_native")
def test_a_view_may_end_while_its_item_is_being_acknowledged(make: Make, name: str) -> None:
    q = make()
    q.put(b"item" * 100)
    loan: Any = q._engine.lend(True, None, True)
    view = loan.contents()
    with get_lock_held(name) as release:
        finishing = asleep(Call(loan.finish))
        view.release()
        release()
        assert finishing.result() is True
    assert q.buffer_occupancy() == 0


@pytest.mark.usefixtures("only_native")
def test_nothing_looks_at_an_item_that_is_being_acknowledged(make: Make, name: str) -> None:
    q = make()
    q.put(b"item" * 100)
    loan: Any = q._engine.lend(True, None, True)
    with get_lock_held(name) as release:
        finishing = asleep(Call(loan.finish))
        with pytest.raises(BufferError, match="over"):
            loan.contents()
        assert not loan.finish()
        release()
        assert finishing.result() is True


@pytest.mark.usefixtures("only_native")
def test_a_signal_handler_may_end_a_lease_that_is_being_ended(make: Make, name: str) -> None:
    q, other = make(), make()
    q.put("first")
    q.put("second")
    first, second = q.lease(), q.lease()
    inner: list[bool] = []
    main = threading.main_thread()
    with get_lock_held(name) as release:

        def handle(number: int, frame: object) -> None:
            release()
            inner.append(first.ack())

        def interrupt() -> None:
            wait_until(lambda: is_thread_asleep(main), "the main thread waits")
            assert main.ident is not None
            signal.pthread_kill(main.ident, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            interrupting = Call(interrupt)
            outer = first.ack()
            interrupting.result()
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert [outer, *inner].count(True) == 1
    q.close()
    assert not second.is_held
    assert other.get(timeout=PATIENCE) == "second"
    assert other.unfinished_tasks == 1


@pytest.mark.usefixtures("only_native")
def test_a_handle_that_is_closed_beside_a_lease_keeps_nothing(make: Make, name: str) -> None:
    other = make()
    for _ in range(10):
        q = make()
        for item in ("first", "second"):
            q.put(item)
        held = q.lease()
        with get_lock_held(name) as release:
            leasing, closing = asleep(Call(q.lease)), asleep(Call(q.close))
            release()
            closing.result()
            try:
                leased = leasing.result()
            except shmqueue.ShmQueueNotInitializedError:
                pass
            else:
                assert not leased.is_held
        assert not held.is_held
        assert [other.get(block=False) for _ in range(2)] == ["first", "second"]


LOCKED = """if True:
    import sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    hold = q._engine._lock.hold()
    assert hold.owner.acquire(hold, None, lambda: False)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.usefixtures("only_portable")
def test_a_handle_with_leases_is_closed_while_another_process_has_the_lock(make: Make, name: str) -> None:
    q, _ = make(), make()  # the other one is the last
    q.put("job")
    lease = q.lease()
    with python(LOCKED, name) as owner:
        wait_for_line(owner, "locked")
        Call(q.close).result()
    assert not lease.is_held


@pytest.mark.usefixtures("only_portable")
@pytest.mark.parametrize("leased", [0, 2])
def test_figures_need_no_lock(make: Make, name: str, leased: int) -> None:
    q = make()
    q.put_many(["job"] * (1 + leased))
    leases = [q.lease() for _ in range(leased)]
    with python(LOCKED, name) as owner:
        wait_for_line(owner, "locked")
        figures = Call(q.statistics).result()
        assert (figures.qsize, figures.leased, figures.oldest_lease > 0) == (1, leased, leased > 0)
        assert Call(q.qsize).result() == 1
    assert all(lease.ack() for lease in leases)


@pytest.mark.usefixtures("only_portable")
def test_leases_are_collected_while_another_process_has_the_lock(make: Make, name: str) -> None:
    q = make()
    q.put_many(["first", "second"])
    leases = [q.lease(), q.lease()]
    with python(LOCKED, name) as owner:
        wait_for_line(owner, "locked")
        Call(leases.clear).result()
    assert [q.get(timeout=0), q.get(timeout=0)] == ["first", "second"]


@pytest.mark.usefixtures("only_portable")
def test_a_getter_that_cannot_look_for_dead_holders_finds_the_queue_empty(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    lease = q.lease()
    with python(LOCKED, name) as owner:
        wait_for_line(owner, "locked")
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0.5)
    assert lease.ack()


@pytest.mark.usefixtures("only_native")
def test_a_lease_that_is_collected_while_the_lock_is_held_comes_back(make: Make, name: str) -> None:
    q, other = make(), make()
    q.put("job")
    lease: Any = q.lease()
    with get_lock_held(name) as release:
        lease = None
        gc.collect()
        release()
    assert lease is None
    assert other.get(timeout=PATIENCE) == "job"


@pytest.mark.usefixtures("only_native")
def test_a_close_beside_a_held_lock_leaves_its_leases_to_others(make: Make, name: str) -> None:
    q, other = make(), make()
    q.put("job")
    lease = q.lease()
    with get_lock_held(name) as release:
        q.close()
        release()
    assert other.get(timeout=PATIENCE) == "job"
    assert not lease.is_held


@pytest.mark.usefixtures("only_native")
def test_a_view_whose_last_look_ends_while_the_lock_is_held_frees_its_bytes(make: Make, name: str) -> None:
    q, other = make(buffer_size=100_000), make()
    q.put(b"x" * 60_000)
    with q.get_view() as memory:
        seen = memoryview(memory)[:1]
        del memory
    assert q.buffer_occupancy() > 60_000, "its bytes are still looked at"
    with get_lock_held(name) as release:
        del seen
        release()
    other.put(b"y" * 60_000, timeout=PATIENCE)
    assert len(other.get(timeout=PATIENCE)) == 60_000
    wait_until(lambda: _occupied_after_a_look(other) == 0, "its bytes are free")


def _occupied_after_a_look(q: ShmQueue) -> int:
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(timeout=0.2)
    return q.buffer_occupancy()


@pytest.mark.usefixtures("only_native")
@pytest.mark.parametrize("end", ["put", "get", "close"])
def test_a_reservation_that_is_dropped_while_the_lock_is_held_is_abandoned_later(
    make: Make, name: str, end: str
) -> None:
    q, other = make(), make()
    other.put("before")
    block: Any = q.put_view(1000)
    memory = block.__enter__()
    memory[:3] = b"abc"
    with get_lock_held(name) as release:
        del memory
        block = None
        gc.collect()
        release()
    assert block is None
    if end == "put":
        q.put("next")
        assert [other.get(timeout=PATIENCE) for _ in range(2)] == ["before", "next"]
    elif end == "get":
        assert q.get() == "before"
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(block=False)
    else:
        q.close()
        assert other.get() == "before"
        with pytest.raises(shmqueue.ShmQueueEmpty):
            other.get(block=False)
    assert other.buffer_occupancy() == 0
    assert other.unfinished_tasks == (2 if end == "put" else 1)
