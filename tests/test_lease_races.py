"""Leases where something else happens at the same moment: another call, a signal, a death, a stopped process."""

from __future__ import annotations

import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Call, asleep, python, wait_until

import shmqueue
from shmqueue import ShmQueue
from shmqueue.segment import path_of

Make = Callable[..., ShmQueue]

LARGE = 40_000

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=[{"buffer_size": 1 << 17}, {"max_bytes": 1 << 24}], ids=["fixed", "elastic"])
def q(make: Make, request: pytest.FixtureRequest) -> ShmQueue:
    return make(**request.param)


def move_what_is_leased(q: ShmQueue) -> None:
    """So many bytes go through the queue that no leased record can stay where it was."""
    for number in range(60):
        q.put(bytes([number]) * 10_000)
        q.get()
        q.task_done()


def memory_of(name: str) -> int:
    return os.stat(path_of(name)).st_blocks * 512


def test_maxsize_counts_what_was_given_back_after_the_last_look(make: Make) -> None:
    q = make(maxsize=3)
    for number in range(2):
        q.put(number)
    leases = [q.lease() for _ in range(2)]
    for number in range(2, 4):
        q.put(number, block=False)
    for lease in leases:
        lease.requeue()
    assert q.qsize() == 4
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(4, block=False)


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


HOLDS = """
import sys, shmqueue
with shmqueue.ShmQueue(sys.argv[1]):  # or else its lock is taken over after a slice
    print("has it", flush=True)
    sys.stdin.read()
"""


@contextmanager
def get_lock_held(name: str) -> Iterator[Callable[[], None]]:
    """A living process has the native get lock until the returned function is called."""
    with python(HOLDS, name) as owner, open(path_of(name), "r+b", buffering=0) as file:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "has it\n"

        def write(word: int) -> None:
            os.pwrite(file.fileno(), struct.pack("=I", word), 512)

        write(owner.pid)
        try:
            yield lambda: write(0)
        finally:
            write(0)


@pytest.fixture
def only_native(engine: str) -> None:
    if engine != "native":
        pytest.skip("its lock is a word of memory")


@pytest.fixture
def only_portable(engine: str) -> None:
    if engine != "portable":
        pytest.skip("its lock is a lock of the file system")


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
            def is_asleep() -> bool:
                with open(f"/proc/self/task/{main.native_id}/stat", encoding="ascii", errors="replace") as file:
                    return file.read().rpartition(")")[2].split()[0] == "S"

            wait_until(is_asleep, "the main thread waits")
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


LIVES_ON = """if True:
    import ctypes, sys, threading, time, shmqueue
    def hold():
        q = shmqueue.ShmQueue(sys.argv[1])
        lease = q.lease()
        print("holds", flush=True)
        while True:
            time.sleep(60)
    threading.Thread(target=hold).start()
    ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_lives_on_when_its_first_thread_ends(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    with python(LIVES_ON, name) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"

        def state() -> str:
            return Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0]

        wait_until(lambda: state() == "Z", "the first thread has ended")
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0.5)
        holder.kill()
        assert q.get(timeout=PATIENCE) == "job"


HOLD = """if True:
    import sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    lease = q.lease()
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["get", "get_many", "lease"])
def test_what_a_killed_process_had_comes_in_a_queue_that_is_never_empty(make: Make, name: str, how: str) -> None:
    q = make()
    q.put("job")
    with python(HOLD, name) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
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
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        Call(q.close).result()
    assert not lease.is_held


@pytest.mark.usefixtures("only_portable")
def test_a_getter_that_cannot_look_for_dead_holders_finds_the_queue_empty(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    lease = q.lease()
    with python(LOCKED, name) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0.5)
    assert lease.ack()


def milliseconds_not_running() -> float:
    """How long this thread wanted to run so far and had no processor."""
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e6


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
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
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
