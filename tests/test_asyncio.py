"""Coroutines that wait for queues of other processes: what they get, in which order, and what cancelling them costs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import pickle
import queue
import random
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import pytest
from children import answer_in_a_loop
from support import PATIENCE, is_asleep, python, run_python, wait_until

from shmqueue import ShmQueue, ShmQueueNotInitializedError
from shmqueue.compat import queue as synchronous
from shmqueue.compat.asyncio import Queue, QueueEmpty, QueueFull, QueueShutDown
from shmqueue.segment import path_of

pytestmark = pytest.mark.usefixtures("engine")

Main = Callable[[], Coroutine[Any, Any, Any]]


def run_asyncio(main: Main, patience: float = PATIENCE) -> Any:
    return asyncio.run(asyncio.wait_for(main(), patience))


def run_uvloop(main: Main, patience: float = PATIENCE) -> Any:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main(), patience))
    finally:
        loop.close()


@pytest.fixture(params=[run_asyncio, run_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    runner: Callable[..., Any] = request.param
    return runner


@pytest.fixture
def q(name: str) -> Iterator[Queue[Any]]:
    with Queue(name=name) as opened:
        yield opened


@contextmanager
def in_another_process(code: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """An interpreter that runs ``code`` with ``q`` as the queue of that name, to its end unless it is killed."""
    with python(
        f"import sys\nfrom shmqueue.compat.queue import Queue\nq = Queue(name=sys.argv[1])\n{code}", name
    ) as process:
        yield process
        assert process.wait(PATIENCE) in {0, -signal.SIGKILL}


# ---- items ----


def test_items_come_from_another_process(run: Callable[..., Any], q: Queue[Any], name: str) -> None:
    async def main() -> None:
        getting = asyncio.create_task(q.get())
        await asyncio.sleep(0)
        with in_another_process("q.put({'a': [1, 2]})", name):
            assert await getting == {"a": [1, 2]}

    run(main)


def test_room_comes_from_another_process(run: Callable[..., Any], name: str) -> None:
    async def main() -> None:
        with Queue[int](2, name=name) as q:
            await q.put(1)
            await q.put(2)
            putting = asyncio.create_task(q.put(3))
            await asyncio.sleep(0)
            assert not putting.done()
            with in_another_process("assert q.get() == 1", name):
                await putting
            assert [q.get_nowait(), q.get_nowait()] == [2, 3]

    run(main)


def test_join_waits_for_another_process(run: Callable[..., Any], q: Queue[int], name: str) -> None:
    async def main() -> None:
        await q.put(1)
        joining = asyncio.create_task(q.join())
        await asyncio.sleep(0.01)
        assert not joining.done()
        with in_another_process("q.get(); q.task_done()", name):
            await joining

    run(main)


def test_getters_are_served_in_turn(q: Queue[int]) -> None:
    async def main() -> None:
        order: list[int] = []

        async def get(number: int) -> None:
            await q.get()
            order.append(number)

        getters = []
        for number in range(10):
            getters.append(asyncio.create_task(get(number)))
            await asyncio.sleep(0)
        for number in range(10):
            q.put_nowait(number)
        await asyncio.gather(*getters)
        assert order == list(range(10))

    run_asyncio(main)


def test_put_many_and_get_many(name: str) -> None:
    async def main() -> None:
        with Queue[int](5, name=name) as q:
            await q.put_many([])
            await q.put_many(range(3))
            assert await q.get_many(10) == [0, 1, 2]
            putting = asyncio.create_task(q.put_many(range(12)))
            got: list[int] = []
            while len(got) < 12:
                got += await q.get_many(4)
            await putting
            assert got == list(range(12))
            with pytest.raises(ValueError, match="max_items"):
                await q.get_many(0)

    run_asyncio(main)


def test_a_put_many_that_the_shut_down_ends_says_how_many_were_put(name: str) -> None:
    async def main() -> None:
        with Queue[int](3, name=name) as q:
            q.put_nowait(0)
            putting = asyncio.create_task(q.put_many(range(1, 9)))
            await asyncio.sleep(0.01)
            for _ in range(3):
                await q.get()
                await asyncio.sleep(0.01)
            before = q.qsize() + 3 - 1
            q.shutdown()
            with pytest.raises(QueueShutDown) as ended:
                await putting
            assert ended.value.items_put == before

    run_asyncio(main)


def test_more_room_by_maxsize_lets_a_put_go_on(run: Callable[..., Any], name: str) -> None:
    async def main() -> None:
        with Queue[int](1, name=name) as q:
            q.put_nowait(0)
            putting = asyncio.create_task(q.put(1))
            await asyncio.sleep(0.01)
            q.sync_queue.maxsize = 5
            await putting

    run(main)


def test_an_asynchronous_queue_is_refused_as_a_dead_letter_queue(q: Queue[str], name: str) -> None:
    with Queue[str](name=f"{name}-dead") as dead:
        q.put_nowait("bad")
        q.lease_nowait().requeue()
        with pytest.raises(TypeError, match="awaitable"):
            q.lease_nowait(max_attempts=1, dead_letter=dead)
        assert q.get_nowait() == "bad"


def test_what_is_put_is_the_item_as_it_was_when_put_was_called(name: str) -> None:
    async def main() -> None:
        with Queue[Any](1, name=name) as q:
            q.put_nowait(None)
            item = [1]
            putting = asyncio.create_task(q.put(item))
            await asyncio.sleep(0)
            item.append(2)
            await q.get()
            await putting
            assert await q.get() == [1]

    run_asyncio(main)


def test_errors_are_those_of_asyncio_and_of_queue(name: str) -> None:
    with Queue[int](1, name=name) as q:
        for error in (QueueEmpty, asyncio.QueueEmpty, queue.Empty):
            with pytest.raises(error):
                q.get_nowait()
        q.put_nowait(1)
        for error in (QueueFull, asyncio.QueueFull, queue.Full):
            with pytest.raises(error):
                q.put_nowait(2)
        with pytest.raises(TypeError, match="pickle"):
            q.put_nowait(threading.Lock())  # type: ignore[arg-type]
    with pytest.raises(ImportError, match="oldest item"):
        from shmqueue.compat.asyncio import PriorityQueue  # type: ignore[attr-defined]  # noqa: F401


# ---- the end ----


def test_async_for_ends_at_the_shut_down(run: Callable[..., Any], q: Queue[int], name: str) -> None:
    async def main() -> None:
        with in_another_process("q.put(1); q.put(2); q.shutdown()", name):
            assert [item async for item in q] == [1, 2]
        with pytest.raises(QueueShutDown):
            await q.put(3)
        with pytest.raises(QueueShutDown):
            q.get_nowait()

    run(main)


def test_a_shut_down_elsewhere_ends_all_that_wait(run: Callable[..., Any], name: str) -> None:
    async def main() -> None:
        with Queue[int](1, name=name) as q:
            q.put_nowait(0)
            putters = [asyncio.create_task(q.put(number)) for number in range(3)]
            await asyncio.sleep(0.01)
            with in_another_process("q.shutdown()", name):
                ends = await asyncio.gather(*putters, return_exceptions=True)
            assert [type(end) for end in ends] == [QueueShutDown] * 3
            assert await q.get() == 0
            ends = await asyncio.gather(*(q.get() for _ in range(3)), return_exceptions=True)
            assert [type(end) for end in ends] == [QueueShutDown] * 3

    run(main)


def test_closing_ends_all_that_wait(run: Callable[..., Any], name: str) -> None:
    async def main() -> None:
        q = Queue[int](name=name)
        getters = [asyncio.create_task(q.get()) for _ in range(3)]
        await asyncio.sleep(0.01)
        q.close()
        q.close()
        ends = await asyncio.gather(*getters, return_exceptions=True)
        assert [type(end) for end in ends] == [ShmQueueNotInitializedError] * 3
        assert q.closed

    run(main)


# ---- leases ----


def test_a_lease_is_acknowledged_or_comes_again(run: Callable[..., Any], q: Queue[str], name: str) -> None:
    async def fail() -> None:
        async with q.lease() as lease:
            assert (lease.item, lease.attempt) == ("job", 1)
            raise ZeroDivisionError

    async def main() -> None:
        await q.put("job")
        with pytest.raises(ZeroDivisionError):
            await fail()
        lease = await q.lease()
        assert (lease.item, lease.attempt) == ("job", 2)
        lease.requeue()
        async with q.lease() as lease:
            assert (lease.item, lease.attempt) == ("job", 3)
        assert q.empty()
        await q.join()

    run(main)


def test_what_failed_too_often_goes_to_another_queue(q: Queue[str], name: str) -> None:
    async def main() -> None:
        with Queue[str](name=f"{name}-dead") as dead:
            await q.put_many(["bad", "good"])
            (await q.lease(max_attempts=1, dead_letter=dead.sync_queue)).requeue()
            async with q.lease(max_attempts=1, dead_letter=dead.sync_queue) as lease:
                assert lease.item == "good"
            assert await dead.get() == "bad"

    run_asyncio(main)


def test_the_job_of_a_killed_worker_goes_to_a_coroutine_that_waits(q: Queue[str], name: str) -> None:
    async def main() -> None:
        with in_another_process(
            "lease = q.lease(); print(lease.item, flush=True); import time; time.sleep(99)", name
        ) as p:
            await q.put("job")
            assert p.stdout.readline() == "job\n"
            leasing = asyncio.ensure_future(q.lease())
            await asyncio.sleep(0.01)
            p.send_signal(signal.SIGKILL)
            lease = await leasing
            assert (lease.item, lease.attempt) == ("job", 2)
            lease.ack()

    run_asyncio(main)


# ---- cancelling ----


async def cancelled_at_random(call: Callable[[], Awaitable[Any]], rng: random.Random) -> tuple[bool, Any]:
    """Whether the call came to its end, and what it returned, though somebody may have cancelled it."""
    task = asyncio.ensure_future(call())
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        await asyncio.sleep(0)
    if rng.random() < 0.3:
        await asyncio.sleep(rng.random() * 0.0005)
    task.cancel()
    try:
        return True, await task
    except asyncio.CancelledError:
        return False, None


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.thorough)])
def test_a_cancelled_get_has_taken_nothing(run: Callable[..., Any], q: Queue[int], name: str, count: int) -> None:
    rng = random.Random(count)

    async def main() -> None:
        got: list[int] = []

        async def consume() -> None:
            while len(got) < count:
                done, item = await cancelled_at_random(q.get, rng)
                if done:
                    got.append(item)

        with in_another_process(f"for number in range({count}): q.put(number)", name):
            consumers = [asyncio.create_task(consume()) for _ in range(4)]
            await asyncio.gather(*consumers)
        assert sorted(got) == list(range(count))

    run(main, PATIENCE + count / 50)


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.thorough)])
def test_a_cancelled_put_has_put_nothing(run: Callable[..., Any], name: str, count: int) -> None:
    rng = random.Random(count)

    async def main() -> None:
        put: list[int] = []
        with Queue[int](3, name=name) as q:
            numbers = iter(range(count))

            async def produce() -> None:
                for number in numbers:
                    done, _ = await cancelled_at_random(lambda number=number: q.put(number), rng)  # type: ignore[misc]
                    if done:
                        put.append(number)

            code = "import time\nfor item in iter(q.get, None): print(item)"
            with in_another_process(code, name) as process:
                await asyncio.gather(*(produce() for _ in range(4)))
                await q.put(None)  # type: ignore[arg-type]
                loop = asyncio.get_running_loop()
                output = await loop.run_in_executor(None, process.communicate)
        assert sorted(map(int, output[0].split())) == sorted(put)

    run(main, PATIENCE + count / 50)


@pytest.mark.parametrize("is_called_first", [True, False])
def test_one_that_is_cancelled_when_it_is_called_passes_the_call_on(q: Queue[int], is_called_first: bool) -> None:
    async def main() -> None:
        first, second = asyncio.create_task(q.get()), asyncio.create_task(q.get())
        await asyncio.sleep(0)
        if is_called_first:
            q.put_nowait(1)
            first.cancel()
        else:
            first.cancel()
            q.put_nowait(1)
        assert await second == 1
        assert first.cancelled()

    run_asyncio(main)


def test_a_get_that_times_out_takes_nothing(q: Queue[int], name: str) -> None:
    async def main() -> None:
        for number in range(20):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(q.get(), 0.005)
            q.sync_queue.put(number)
            assert await asyncio.wait_for(q.get(), PATIENCE) == number

    run_asyncio(main)


def test_control_c_ends_the_program(name: str, engine: str) -> None:
    code = """
import asyncio, sys
from shmqueue.compat.asyncio import Queue

async def main():
    q = Queue(name=sys.argv[1])
    print("waits", flush=True)
    await q.get()

import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    with python(code, name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        wait_until(
            lambda: is_asleep(process.pid), "the loop waits"
        )  # before 3.11 asyncio may miss one that comes earlier
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
        assert (output, errors, process.returncode) == ("interrupted\n", "", 0)


# ---- the loop goes on ----


PUT_LOCK, GET_LOCK = 256, 512  # where layout.h has them


@pytest.mark.parametrize("lock", [PUT_LOCK, GET_LOCK], ids=["put", "get"])
def test_the_loop_goes_on_while_a_stopped_process_has_a_lock(name: str, engine: str, lock: int) -> None:
    if engine == "portable":
        pytest.skip("its lock is one of the file system, for both sides")

    async def main() -> None:
        with Queue[int](name=name) as q, python("import time; time.sleep(99)") as owner:
            q.put_nowait(0)
            owner.send_signal(signal.SIGSTOP)
            with open(path_of(name), "r+b") as file:
                os.pwrite(file.fileno(), struct.pack("=I", owner.pid), lock)
                call = asyncio.ensure_future(q.put(1) if lock == PUT_LOCK else q.get())
                for _ in range(100):
                    await asyncio.sleep(0.001)
                assert not call.done()
                with pytest.raises(QueueFull if lock == PUT_LOCK else QueueEmpty, match="lock was not released"):
                    q.put_nowait(2) if lock == PUT_LOCK else q.get_nowait()
                os.pwrite(file.fileno(), struct.pack("=I", 0), lock)
            assert await call == (None if lock == PUT_LOCK else 0)

    run_asyncio(main)


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


def test_two_hundred_queues_wait_in_one_thread(name: str, engine: str) -> None:
    async def main() -> None:
        queues = [Queue[int](name=f"{name}-{number}") for number in range(200)]
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
