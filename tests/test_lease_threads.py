"""Leases of several threads, and of a handle that is closed while other threads use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from support import PATIENCE, Call, asleep, wait_until

import shmqueue
from shmqueue import SYSTEM_PAGESIZE, ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=[{"buffer_size": 1 << 16}, {"max_bytes": 1 << 24}], ids=["fixed", "elastic"])
def q(make: Make, request: pytest.FixtureRequest) -> ShmQueue:
    return make(**request.param)


def test_any_thread_ends_a_lease(q: ShmQueue) -> None:
    q.put("job")
    lease = q.lease()
    assert Call(lease.ack).result() is True
    assert q.unfinished_tasks == 0


def test_a_lease_taken_in_a_thread_outlives_the_thread(q: ShmQueue) -> None:
    q.put("job")
    lease = Call(q.lease).result()
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(timeout=0.3)
    assert lease.ack()


def test_threads_that_lease_requeue_and_get_lose_and_double_nothing(q: ShmQueue) -> None:
    total, done = 2000, []
    for number in range(total):
        q.put(number)

    def work(kind: int) -> None:
        while True:
            try:
                if kind == 0:
                    done.append(q.get(block=False))
                    continue
                lease = q.lease(block=False)
            except shmqueue.ShmQueueEmpty:
                return
            if (lease.item + lease.attempt + kind) % 3 == 0:
                lease.requeue()
            else:
                done.append(lease.item)
                assert lease.ack()

    threads = [threading.Thread(target=work, args=(kind,)) for kind in (0, 1, 2, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    done += [q.get() for _ in range(q.qsize())]
    assert sorted(done) == list(range(total))
    wait_until(lambda: q.statistics().leased == 0, "all leases ended")


@pytest.mark.parametrize("use", ["put", "get", "lease", "get_view"])
def test_a_handle_with_leases_is_closed_while_another_thread_uses_it(make: Make, use: str) -> None:
    """What that thread is waiting for ends with an error, and the leases come back."""
    other, q = make(buffer_size=SYSTEM_PAGESIZE), make()
    other.put("leased")
    leases = [q.lease()]
    calls: dict[str, Callable[[], object]] = {
        "put": lambda: q.put(b"x" * (SYSTEM_PAGESIZE // 2)),
        "get": q.get,
        "lease": q.lease,
        "get_view": q.get_view,
    }
    if use == "put":
        other.put(b"x" * (SYSTEM_PAGESIZE // 2))
    call = asleep(Call(calls[use]))
    q.close()
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        call.result()
    assert not leases[0].is_held
    assert other.get(timeout=0) == "leased"


@pytest.mark.usefixtures("only_portable")
def test_a_handle_with_leases_is_closed_while_another_thread_waits_to_write_an_item(make: Make) -> None:
    other, q = make(buffer_size=SYSTEM_PAGESIZE), make()
    other.put("leased")
    leases = [q.lease()]
    other.put(b"x" * (SYSTEM_PAGESIZE // 2))
    call = asleep(Call(q.put_view, SYSTEM_PAGESIZE // 2))
    q.close()
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        call.result()
    assert not leases[0].is_held
    assert other.get(timeout=0) == "leased"


def test_a_close_gives_leases_back_while_other_threads_use_the_queue(make: Make) -> None:
    for number in range(20):
        q, base = make(), make()
        for _ in range(300):
            base.put(b"x" * 50)
        held = [q.lease() for _ in range(5)]
        is_over = threading.Event()
        using = [Call(_until_closed, use, q, is_over) for use in (_write, _lease)]
        time.sleep(number / 1000)  # another moment each time
        q.close()
        is_over.set()
        for call in using:
            call.result()
        assert base.statistics().leased == 0, number
        assert not any(lease.is_held for lease in held)
        base.clear()


def _write(q: ShmQueue) -> None:
    with q.put_view(1000) as memory:
        memory[:5] = b"abcde"


def _lease(q: ShmQueue) -> None:
    q.lease(timeout=0.01).ack()


def _until_closed(use: Callable[[ShmQueue], None], q: ShmQueue, is_over: threading.Event) -> None:
    while not is_over.is_set():
        try:
            use(q)
        except (shmqueue.ShmQueueEmpty, shmqueue.ShmQueueNotInitializedError):
            pass
