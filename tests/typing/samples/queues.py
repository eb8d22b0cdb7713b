"""``compat.queue`` where the standard module is annotated."""

from __future__ import annotations

import queue

from typing_extensions import assert_type

from shmqueue.compat import queue as shared


def take(q: queue.Queue[int]) -> int:
    return q.get()


def take_simply(q: queue.SimpleQueue[int]) -> int:
    return q.get()


def works(simple: shared.SimpleQueue[int]) -> None:
    q: shared.Queue[int] = shared.Queue(10)
    named = shared.Queue[str](name="named", max_bytes=1000)
    assert_type(named.get(), str)
    take(q)
    take(shared.Queue())
    take_simply(simple)
    assert_type(simple.get(), int)
    q.put(1, timeout=1)
    q.put_many([1, 2])
    assert_type(q.get(), int)
    assert_type(q.get_nowait(), int)
    assert_type(q.get_many(3), list[int])
    assert_type(q.maxsize, int)
    for item in q:
        assert_type(item, int)
    for item in simple:
        assert_type(item, int)
    with q as again:
        assert_type(again, shared.Queue[int])
    with q.lease() as lease:
        assert_type(lease.item, int)
    unparametrized = shared.Queue()
    unparametrized.put(object())


def does_not_work(q: shared.Queue[str], standard: queue.Queue[str]) -> None:
    take(q)  # E:
    q.put(1)  # E:
    number: int = q.get()  # E:
    with q.mutex:  # E:
        pass
    q.not_empty.wait()  # E:
    ours: shared.Queue[str] = standard  # E:
    print(number, ours)
