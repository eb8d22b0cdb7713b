"""Leases where something else happens at the same moment: another call, a signal, a death, a stopped process."""

from __future__ import annotations

import gc
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Call, asleep, python, wait_until

import shmqueue
from shmqueue import SYSTEM_PAGESIZE, ShmQueue
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
    """A living process that has the queue open has the native get lock until the returned function is called."""
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
def test_leases_are_collected_while_another_process_has_the_lock(make: Make, name: str) -> None:
    q = make()
    q.put_many(["first", "second"])
    leases = [q.lease(), q.lease()]
    with python(LOCKED, name) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "locked\n"
        Call(leases.clear).result()
    assert [q.get(timeout=0), q.get(timeout=0)] == ["first", "second"]


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


# ---- the end of a lease, a view or a reservation at a bad moment ----


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
