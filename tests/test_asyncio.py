"""Coroutines that wait for queues of other processes: what they get, in which order, and how they end."""

from __future__ import annotations

import asyncio
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asyncio_support import in_another_process, run_asyncio
from support import wait_for_line

from shmqueue import ShmQueueClosedError
from shmqueue.compat.asyncio import Queue, QueueEmpty, QueueFull, QueueShutDown

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def q(name: str) -> Iterator[Queue[Any]]:
    with Queue(name=name) as opened:
        yield opened


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
        error: type[Exception]
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
        from shmqueue.compat.asyncio import PriorityQueue  # noqa: F401


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
            others = await asyncio.gather(*(q.get() for _ in range(3)), return_exceptions=True)
            assert [type(end) for end in others] == [QueueShutDown] * 3

    run(main)


def test_closing_ends_all_that_wait(run: Callable[..., Any], name: str) -> None:
    async def main() -> None:
        q = Queue[int](name=name)
        getters = [asyncio.create_task(q.get()) for _ in range(3)]
        await asyncio.sleep(0.01)
        q.close()
        q.close()
        ends = await asyncio.gather(*getters, return_exceptions=True)
        assert [type(end) for end in ends] == [ShmQueueClosedError] * 3
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
            wait_for_line(p, "job")
            leasing = asyncio.ensure_future(q.lease())
            await asyncio.sleep(0.01)
            p.send_signal(signal.SIGKILL)
            lease = await leasing
            assert (lease.item, lease.attempt) == ("job", 2)
            lease.ack()

    run_asyncio(main)
