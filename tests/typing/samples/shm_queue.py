"""``ShmQueue[T]``: what goes in comes out."""

from __future__ import annotations

from typing import Any

from typing_extensions import assert_type

from shmqueue import Lease, ShmQueue, Statistics


class Job:
    def run(self) -> None: ...


class Jobs(ShmQueue[Job]):
    def next_one(self) -> Job:
        return self.get(timeout=1)


def works(q: ShmQueue[int]) -> None:
    q.put(1)
    q.put(2, timeout=1.5)
    q.put_nowait(3)
    q.put_many([1, 2])
    assert_type(q.get(), int)
    assert_type(q.get_nowait(), int)
    assert_type(q.get_many(5), list[int])
    assert_type(q.get_many(5, block=False), list[int])
    for item in q:
        assert_type(item, int)
    assert_type(q.capacity_bytes, int)
    assert_type(q.used_bytes, int)
    assert_type(q.statistics(), Statistics)
    assert_type(q.lease(), Lease[int])
    with q.lease(timeout=1) as lease:
        assert_type(lease.item, int)
    with q as again:
        assert_type(again, ShmQueue[int])
    with Jobs("jobs") as jobs:
        assert_type(jobs, Jobs)
        assert_type(jobs.get(), Job)
        jobs.next_one().run()
    assert_type(ShmQueue[str]("text"), ShmQueue[str])


def need_no_parameter() -> None:
    q = ShmQueue("anything")
    assert_type(q, ShmQueue[Any])
    q.put(1)
    q.put("text")


def does_not_work(q: ShmQueue[int]) -> None:
    q.put("text")  # E:
    q.put_many(["text"])  # E:
    text: str = q.get()  # E:
    leased: Lease[str] = q.lease()  # E:
    other: ShmQueue[str] = q  # E:
    q.get(timeout="soon")  # E:
    print(text, leased, other)
