"""What a holder had comes back when it ends: a handle that is closed, a process that ends, execs or is killed."""

from __future__ import annotations

import gc
import os
import signal
import struct
import time
from collections.abc import Callable

import pytest
from support import PATIENCE, Call, asleep, milliseconds_not_running, python, wait_for_line, wait_until

import shmqueue
from shmqueue import ShmQueue
from shmqueue.segment import path_of

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=[{"buffer_size": 1 << 16}, {"max_bytes": 1 << 24}], ids=["fixed", "elastic"])
def q(make: Make, request: pytest.FixtureRequest) -> ShmQueue:
    return make(**request.param)


def test_a_handle_that_is_closed_gives_its_items_back(make: Make) -> None:
    q, other = make(), make()
    for number in range(3):
        q.put(number)
    leases = [q.lease() for _ in range(2)]
    q.close()
    assert not any(lease.is_held for lease in leases)
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        leases[0].ack()
    assert [other.get(block=False) for _ in range(3)] == [0, 1, 2]


def test_all_that_a_closed_handle_had_comes_back_in_its_order(make: Make) -> None:
    other, q = make(max_bytes=1 << 24), make()
    other.put_many(range(200))
    leases = [q.lease() for _ in range(200)]
    leases[7].ack()
    q.close()
    assert [other.get(timeout=0) for _ in range(199)] == [*range(7), *range(8, 200)]
    assert other.empty()


def test_what_a_handle_had_that_is_closed_after_an_immediate_shutdown_is_dropped(make: Make) -> None:
    other, q = make(), make()
    other.put_many(range(5))
    leases = [q.lease() for _ in range(5)]
    leases[1].ack()
    other.shutdown_all(immediate=True)
    assert other.unfinished_tasks == 4
    q.close()
    assert other.unfinished_tasks == 0
    assert other.statistics().used_bytes == 0


HOLD = """if True:
    import sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    leases = [q.lease() for _ in range(int(sys.argv[2]))]
    print("holds", flush=True)
    sys.stdin.read()
"""


def let_a_holder_die(name: str, count: int) -> None:
    """A process leases this number of items and is killed."""
    with python(HOLD, name, count) as holder:
        wait_for_line(holder, "holds")
        holder.kill()
        holder.wait(PATIENCE)


def test_what_a_killed_process_had_goes_to_others_in_order(make: Make, name: str) -> None:
    q = make()
    for number in range(4):
        q.put(number)
    with python(HOLD, name, 3) as holder:
        wait_for_line(holder, "holds")
        assert q.get() == 3
        waiting = [asleep(Call(q.get)) for _ in range(2)]
        holder.send_signal(signal.SIGKILL)
        assert {call.result() for call in waiting} == {0, 1}
        assert q.get(timeout=PATIENCE) == 2


def test_a_getter_with_a_backlog_takes_what_a_killed_process_had_first(make: Make, name: str) -> None:
    q = make()
    for number in range(2000):
        q.put(number)
    let_a_holder_die(name, 2)
    taken: list[int] = []
    wait_until(lambda: taken.append(q.get(timeout=PATIENCE)) or taken[-1] == 0, "the oldest item comes")  # type: ignore[func-returns-value]
    assert not q.empty()
    assert taken == [*range(2, len(taken) + 1), 0]
    assert [q.get(timeout=PATIENCE) for _ in range(2)] == [1, len(taken) + 1]


@pytest.mark.parametrize("look", ["qsize", "empty", "statistics", "counters"])
def test_what_a_killed_process_had_counts_without_a_getter(make: Make, name: str, look: str) -> None:
    q = make()
    for number in range(3):
        q.put(number)
    with python(HOLD, name, 2) as holder:
        wait_for_line(holder, "holds")
        assert (q.qsize(), q.statistics().leased) == (1, 2)
        holder.kill()
        holder.wait(PATIENCE)
    looks = {
        "qsize": lambda: q.qsize() == 3,
        "empty": lambda: q.get_nowait() in range(3) or not q.empty(),
        "statistics": lambda: q.statistics().leased == 0,
        "counters": lambda: q.unfinished_tasks == 3 and q.qsize() == 3,
    }
    wait_until(looks[look], "they count")


def test_clear_drops_what_a_killed_process_had(make: Make, name: str) -> None:
    q = make()
    for number in range(3):
        q.put(number)
    let_a_holder_die(name, 2)
    q.clear()
    assert (q.qsize(), q.unfinished_tasks, q.statistics().leased) == (0, 0, 0)
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(timeout=0.3)


def test_an_item_can_be_leased_when_a_dead_process_has_all_that_can_be(make: Make, name: str) -> None:
    q = make(buffer_size=1 << 20)
    for number in range(1025):
        q.put(number)
    with python(HOLD, name, 1024) as holder:
        wait_for_line(holder, "holds")
        with pytest.raises(shmqueue.ShmQueueError, match="1024 items are leased"):
            q.lease(timeout=0.2)
        holder.kill()
        holder.wait(PATIENCE)
    lease = q.lease(timeout=PATIENCE)
    assert (lease.item, lease.attempt) == (0, 2)


SCATTER = """if True:
    import sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    done = [q.lease() for _ in range(5)]
    held = []
    for lease in reversed(done):
        lease.ack()
        held.append(q.lease())
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_had_comes_back_oldest_first(make: Make, name: str) -> None:
    q = make()
    for number in range(10):
        q.put(number)
    with python(SCATTER, name) as holder:
        wait_for_line(holder, "holds")
        waiting = [asleep(Call(q.get, timeout=PATIENCE)) for _ in range(3)]
        holder.send_signal(signal.SIGKILL)
        assert {call.result() for call in waiting} == {5, 6, 7}
    assert [q.get(timeout=PATIENCE) for _ in range(2)] == [8, 9]


def test_a_process_that_ends_gives_its_items_back(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    with python(HOLD, name, 1) as holder:
        wait_for_line(holder, "holds")
        holder.communicate(timeout=PATIENCE)
    lease = q.lease(timeout=PATIENCE)
    assert (lease.item, lease.attempt) == ("job", 2)


def test_a_stopped_process_keeps_its_items(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    with python(HOLD, name, 1) as holder:
        wait_for_line(holder, "holds")
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0.5)
        assert q.statistics().leased == 1
        holder.send_signal(signal.SIGKILL)
        assert q.get(timeout=PATIENCE) == "job"


def test_a_forked_child_has_no_part_in_its_parents_lease(q: ShmQueue) -> None:
    q.put("job")
    lease = q.lease()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert not lease.is_held
            for end in (lease.ack, lease.requeue):
                try:
                    end()
                except shmqueue.ShmQueueError:
                    continue
                os._exit(2)
            del lease, end
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lease.is_held
    assert q.qsize() == 0
    assert lease.ack()


@pytest.mark.parametrize("how", ["get", "get_many", "lease"])
def test_what_a_killed_process_had_comes_in_a_queue_that_is_never_empty(make: Make, name: str, how: str) -> None:
    q = make()
    q.put("job")
    with python(HOLD, name, 1) as holder:
        wait_for_line(holder, "holds")
        holder.kill()
        holder.wait(PATIENCE)
        q.put("other")
        deadline = time.monotonic() + PATIENCE
        found = "other"
        while found == "other":
            assert time.monotonic() < deadline, "it never came"
            q.put("other")
            if how == "lease":
                lease = q.lease()
                found = lease.item
                lease.ack()
            else:
                found = q.get() if how == "get" else q.get_many(1)[0]
        assert found == "job"


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/schedstat"), reason="this kernel does not tell run delays")
@pytest.mark.usefixtures("only_native")
def test_what_a_dead_process_had_comes_back_at_once_beside_a_stopped_producer(make: Make, name: str) -> None:
    leases = 100
    code = """
import sys, time
from shmqueue import ShmQueue
q = ShmQueue(sys.argv[1])
leases = [q.lease() for _ in range(int(sys.argv[2]))]
print("ready", flush=True)
time.sleep(99)
"""
    q = make()
    q.put_many(range(leases))
    with python(code, name, leases) as holder, python(code, name, 0) as stopped, open(path_of(name), "r+b") as file:
        for process in (holder, stopped):
            wait_for_line(process, "ready")
        stopped.send_signal(signal.SIGSTOP)
        os.pwrite(file.fileno(), struct.pack("=I", stopped.pid), 256)  # the put lock
        holder.kill()
        holder.wait()
        begin, without = time.monotonic(), milliseconds_not_running()
        assert q.get(timeout=PATIENCE) == 0
        took = (time.monotonic() - begin) * 1e3 - (milliseconds_not_running() - without)
        assert q.qsize() == leases - 1
        os.pwrite(file.fileno(), struct.pack("=I", 0), 256)
    assert took < leases * 5  # to wait for the lock after each one takes ten milliseconds each time
