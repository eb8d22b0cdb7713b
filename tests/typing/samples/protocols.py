"""``SyncQueue`` and ``AsyncQueue``, which standard queues and ours are."""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.queues
import queue

from typing_extensions import assert_type

from shmqueue import AsyncQueue, ShmQueue, SyncQueue
from shmqueue.compat import asyncio as shared_asyncio
from shmqueue.compat import multiprocessing as shared_multiprocessing
from shmqueue.compat import queue as shared_queue


def work(q: SyncQueue[int]) -> int:
    q.put(1)
    q.put(2, True, 1.0)
    q.put(3, block=True, timeout=None)
    q.put_nowait(4)
    assert_type(q.get(timeout=1), int)
    return q.get_nowait() + q.qsize() + q.empty()


async def work_with_others(q: AsyncQueue[int]) -> int:
    await q.put(1)
    assert_type(await q.get(), int)
    q.task_done()
    await q.join()
    return q.get_nowait() + q.qsize() + q.full()


class Mine(ShmQueue[int]):
    pass


def works(
    standard: queue.Queue[int],
    simple: queue.SimpleQueue[int],
    standard_multiprocessing: multiprocessing.queues.Queue[int],
    ours: ShmQueue[int],
    ours_as_standard: shared_queue.Queue[int],
    ours_as_simple: shared_queue.SimpleQueue[int],
    ours_as_multiprocessing: shared_multiprocessing.Queue[int],
    joinable: shared_multiprocessing.JoinableQueue[int],
) -> None:
    work(standard)
    work(simple)
    work(queue.PriorityQueue())
    work(standard_multiprocessing)
    work(multiprocessing.Queue())
    work(ours)
    work(Mine("mine"))
    work(ours_as_standard)
    work(ours_as_simple)
    work(ours_as_multiprocessing)
    work(joinable)


async def work_as_well(
    standard: asyncio.Queue[int], ours: shared_asyncio.Queue[int], both: shared_asyncio.Queue[int]
) -> None:
    await work_with_others(standard)
    await work_with_others(ours)
    work(both.sync_queue)
    async with ours as again:
        assert_type(again, shared_asyncio.Queue[int])
    async for item in ours:
        assert_type(item, int)


async def do_not_work(
    texts: ShmQueue[str],
    asynchronous: asyncio.Queue[int],
    synchronous: ShmQueue[int],
    simple: shared_multiprocessing.SimpleQueue[int],
) -> None:
    work(texts)  # E:
    work(asynchronous)  # E:
    work(simple)  # E:
    await work_with_others(synchronous)  # E:
