"""A queue under event loops: they go on, they may be several, of any kind, in any thread and process."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pickle
import random
import signal
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pytest
from asyncio_support import in_another_process, run_asyncio
from children import answer_in_a_loop
from support import PATIENCE, milliseconds_not_running, python, run_python, wait_for_line

from shmqueue import ShmQueue, readiness
from shmqueue.compat import queue as synchronous
from shmqueue.compat.asyncio import Queue, QueueEmpty, QueueFull
from shmqueue.readiness import ITEMS
from shmqueue.segment import path_of

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def q(name: str) -> Iterator[Queue[Any]]:
    with Queue(name=name) as opened:
        yield opened


# ---- the loop goes on ----


PUT_LOCK, GET_LOCK = 256, 512  # where layout.h has them


@contextmanager
def stopped_holder(*names: str) -> Iterator[int]:
    """The id of a process that has these queues open and is stopped."""
    code = """
import sys, time
from shmqueue.compat.queue import Queue
queues = [Queue(name=name) for name in sys.argv[1:]]
print("open", flush=True)
time.sleep(99)
"""
    with python(code, *names) as process:
        wait_for_line(process, "open")
        process.send_signal(signal.SIGSTOP)
        yield process.pid


@pytest.mark.parametrize("lock", [PUT_LOCK, GET_LOCK], ids=["put", "get"])
def test_the_loop_goes_on_while_a_stopped_process_has_a_lock(name: str, engine: str, lock: int) -> None:
    if engine == "portable":
        pytest.skip("its lock is one of the file system, for both sides")

    async def main() -> None:
        with Queue[int](name=name) as q, stopped_holder(name) as owner:
            q.put_nowait(0)
            with open(path_of(name), "r+b") as file:
                os.pwrite(file.fileno(), struct.pack("=I", owner), lock)
                call = asyncio.ensure_future(q.put(1) if lock == PUT_LOCK else q.get())
                for _ in range(20):
                    await asyncio.sleep(0.001)
                assert not call.done()
                with pytest.raises(QueueFull if lock == PUT_LOCK else QueueEmpty, match="lock was not released"):
                    q.put_nowait(2) if lock == PUT_LOCK else q.get_nowait()
                os.pwrite(file.fileno(), struct.pack("=I", 0), lock)
            assert await call == (None if lock == PUT_LOCK else 0)

    run_asyncio(main)


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/schedstat"), reason="this kernel does not tell run delays")
@pytest.mark.parametrize("lock", [PUT_LOCK, GET_LOCK], ids=["put", "get"])
def test_no_step_of_the_loop_waits_for_a_stopped_process_longer_than_5_ms(name: str, engine: str, lock: int) -> None:
    if engine == "portable":
        pytest.skip("its lock is one of the file system, for both sides")
    longest = 0.0

    async def main() -> None:
        nonlocal longest
        with Queue[int](name=name) as q, stopped_holder(name) as owner:
            q.put_nowait(0)
            with open(path_of(name), "r+b") as file:
                os.pwrite(file.fileno(), struct.pack("=I", owner), lock)
                calls = [asyncio.ensure_future(q.put(1) if lock == PUT_LOCK else q.get()) for _ in range(5)]
                for _ in range(20):
                    begin, without = time.monotonic(), milliseconds_not_running()
                    await asyncio.sleep(0)
                    blocked = (time.monotonic() - begin) * 1e3 - (milliseconds_not_running() - without)
                    longest = max(longest, blocked)
                    await asyncio.sleep(0.001)
                for call in calls:
                    call.cancel()
                os.pwrite(file.fileno(), struct.pack("=I", 0), lock)

    run_asyncio(main)
    assert longest < 5


def test_what_is_tidied_in_many_queues_waits_for_no_lock(name: str, engine: str) -> None:
    if engine == "portable":
        pytest.skip("its queues are polled, and nothing is tidied")
    from shmqueue.engine.native import Bell

    names = [f"{name}-{number}" for number in range(40)]
    queues = [Queue[bytes](name=each) for each in names]
    try:
        for q in queues:  # each gets another arena, whose memory could be given back
            q.put_nowait(bytes(1 << 20))
            q.get_nowait()
        with stopped_holder(*names) as owner:
            files = [open(path_of(each), "r+b") for each in names]  # noqa: SIM115
            try:
                for file in files:
                    os.pwrite(file.fileno(), struct.pack("=I", owner), PUT_LOCK)
                wishes: Any = tuple((q._channel.engine, ITEMS, q._channel.engine.moment(ITEMS)) for q in queues)
                bell = Bell()
                waits = []
                for _ in range(3):  # whatever else takes time does not each time
                    begin = time.monotonic()
                    assert bell.wait(wishes, bell.rung, 0.0) == []
                    waits.append(time.monotonic() - begin)
                    time.sleep(0.1)  # it is tidied once in that time
                assert min(waits) < 0.01 * len(queues)
            finally:
                for file in files:
                    os.pwrite(file.fileno(), struct.pack("=I", 0), PUT_LOCK)
                    file.close()
    finally:
        for q in queues:
            q.close()


def test_other_tasks_run_beside_a_loop_of_gets_that_need_not_wait(q: Queue[int]) -> None:
    async def main() -> None:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        deadline = time.monotonic() + PATIENCE
        while ticks < 10:
            await q.put(1)
            await q.get()
            assert time.monotonic() < deadline
        ticking.cancel()

    run_asyncio(main)


def test_a_pause_lets_nobody_overtake(q: Queue[int]) -> None:
    async def main() -> None:
        for _ in range(100):
            time.sleep(0.0002)  # now and then one pauses
            putting = [asyncio.create_task(q.put(number)) for number in range(3)]
            getting = [asyncio.create_task(q.get()) for _ in range(3)]
            assert await asyncio.gather(*getting) == [0, 1, 2]
            await asyncio.gather(*putting)

    run_asyncio(main)


def test_two_hundred_queues_wait_in_one_thread(name: str, engine: str) -> None:
    async def main() -> None:
        queues = [Queue[int](name=f"{name}-{number}", max_bytes=1 << 20) for number in range(200)]
        try:
            threads = len(os.listdir("/proc/self/task"))
            getters = [asyncio.create_task(q.get()) for q in queues]
            await asyncio.sleep(0.05)
            assert len(os.listdir("/proc/self/task")) <= threads + 1
            order = list(range(200))
            random.Random(9).shuffle(order)
            code = f"""
for number in {order}:
    with Queue(name=sys.argv[1] + '-' + str(number)) as one:
        one.put(number)
"""
            with in_another_process(code, name):
                assert await asyncio.gather(*getters) == list(range(200))
        finally:
            for q in queues:
                q.close()

    run_asyncio(main)


# ---- loops, threads, processes ----


def test_several_loops_in_several_threads_share_a_queue(q: Queue[int]) -> None:
    got: list[int] = []

    async def main() -> None:
        got.extend([item async for item in q])

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1000):
        q.sync_queue.put(number)
    q.sync_queue.shutdown()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(got) == list(range(1000))


def test_a_loop_after_another_one(q: Queue[int]) -> None:
    for number in range(3):
        q.put_nowait(number)
        assert run_asyncio(q.get) == number


def test_a_loop_that_ends_while_somebody_waits_leaves_the_queue_usable(q: Queue[int]) -> None:
    async def main() -> None:
        getting = asyncio.create_task(q.get())
        await asyncio.sleep(0)
        assert not getting.done()

    asyncio.run(main())
    q.put_nowait(1)
    assert run_asyncio(q.get) == 1


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_it_travels_to_another_process(method: str) -> None:
    context: Any = get_context(method)
    with Queue[int]() as questions, Queue[int]() as answers:
        process = context.Process(target=answer_in_a_loop, args=(questions, answers))
        process.start()

        async def main() -> None:
            for number in range(20):
                await questions.put(number)
                assert await answers.get() == number + 1
            questions.shutdown()

        try:
            run_asyncio(main)
        finally:
            process.join(PATIENCE)
            assert process.exitcode == 0


def test_a_forked_child_begins_anew_though_its_parent_waits(q: Queue[int]) -> None:
    async def main() -> None:
        getting = asyncio.create_task(q.get())
        await asyncio.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                q.put_nowait(1)
                status = 0
            finally:
                os._exit(status)
        assert await getting == 1
        assert os.waitpid(pid, 0)[1] == 0

    run_asyncio(main)


def test_it_is_the_synchronous_queue_of_that_name(q: Queue[Any], name: str) -> None:
    with synchronous.Queue[Any](name=name) as other, ShmQueue(name) as shm_queue:
        q.put_nowait(1)
        assert other.get(timeout=PATIENCE) == 1
        shm_queue.put(2)
        assert run_asyncio(q.get) == 2
        assert q.sync_queue is q.sync_queue
        q.sync_queue.put(3)
        copy = pickle.loads(pickle.dumps(q))
        assert copy.get_nowait() == 3
        copy.close()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_anyio(name: str, engine: str, backend: str) -> None:
    for package in ("anyio", backend):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    code = """
import sys, anyio
from shmqueue.compat.asyncio import Queue

async def main():
    with Queue(1, name=sys.argv[1]) as q, anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(q.put, "one")
            tasks.start_soon(q.put, "two")
            assert {await q.get(), await q.get()} == {"one", "two"}
        with anyio.move_on_after(0.01) as scope:
            await q.get()
        assert scope.cancelled_caught

anyio.run(main, backend=sys.argv[2])
"""
    run_python(code, name, backend)


def test_trio(name: str, engine: str) -> None:
    if importlib.util.find_spec("trio") is None:
        pytest.skip("trio is not installed")
    code = """
import sys, subprocess, trio
PUT = "import sys; from shmqueue.compat.queue import Queue; Queue(name=sys.argv[1]).put_many(range(3))"
from shmqueue.compat.asyncio import Queue

async def main():
    with Queue(2, name=sys.argv[1]) as q, trio.fail_after(30):
        got = []

        async def get():
            got.append(await q.get())

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(get)
            await trio.sleep(0.01)
            process = subprocess.Popen([sys.executable, "-c", PUT, sys.argv[1]])
        assert sorted(got) == [0, 1, 2], got
        assert process.wait() == 0
        with trio.move_on_after(0.01) as scope:
            await q.get()
        assert scope.cancelled_caught
        await q.put("one"), await q.put("two")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(q.put, "three")
            await trio.sleep(0.01)
            assert await q.get() == "one"
        async with q.lease() as lease:
            assert lease.item == "two"
        q.shutdown()
        assert [item async for item in q] == ["three"]

trio.run(main)
"""
    run_python(code, name)


def test_one_that_waits_behind_an_open_reservation_is_called_when_there_is_an_entry_for_it(
    q: Queue[Any], name: str, engine: str
) -> None:
    if engine == "portable":
        pytest.skip("its queues are polled")

    async def main() -> None:
        with ShmQueue(name) as other:
            other.put_many(range(1024))  # as many as can be leased at once
            leases = [other.lease() for _ in range(1024)]
            with other.put_view(1):
                other.put("behind it")
                call = asyncio.ensure_future(q.get())
                await asyncio.sleep(0.01)
                with pytest.raises(QueueEmpty):
                    q.get_nowait()
                leases.pop().ack()
                assert await call == "behind it"
            for lease in leases:
                lease.ack()

    run_asyncio(main)


def test_one_that_waits_is_first_also_when_there_is_a_descriptor(q: Queue[Any]) -> None:
    async def main() -> None:
        waiting = [asyncio.ensure_future(q.get()) for _ in range(2)]
        await asyncio.sleep(0.01)
        q.fileno()
        q.put_nowait(1)
        last = asyncio.ensure_future(q.get())
        q.put_nowait(2)
        q.put_nowait(3)
        assert [await call for call in (*waiting, last)] == [1, 2, 3]

    run_asyncio(main)


def test_a_coroutine_is_called_though_that_failed_once(q: Queue[Any]) -> None:
    async def main() -> None:
        loop, errors = asyncio.get_running_loop(), [MemoryError(), OSError()]
        call_soon_threadsafe = loop.call_soon_threadsafe

        def fail_first(*arguments: Any, **options: Any) -> Any:
            if errors:
                raise errors.pop()
            return call_soon_threadsafe(*arguments, **options)

        loop.call_soon_threadsafe = fail_first  # type: ignore[method-assign, assignment]
        try:
            call = asyncio.ensure_future(q.get())
            await asyncio.sleep(0)
            with in_another_process("q.put(1)", q._channel.name):
                assert await call == 1
        finally:
            loop.call_soon_threadsafe = call_soon_threadsafe  # type: ignore[method-assign]
        assert not errors

    run_asyncio(main)


def test_coroutines_are_called_after_memory_was_short(q: Queue[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    failures = iter(range(3))
    answer = readiness._Thread._answer_requests

    def fail_first(thread: Any) -> None:
        for _ in failures:
            raise MemoryError
        answer(thread)

    async def main() -> None:
        call = asyncio.ensure_future(q.get())
        await asyncio.sleep(0)
        q.sync_queue.put(1)
        assert await call == 1
        assert not list(failures)

    monkeypatch.setattr(readiness, "_thread", readiness._Thread())
    monkeypatch.setattr(readiness._Thread, "_answer_requests", fail_first)
    run_asyncio(main)
