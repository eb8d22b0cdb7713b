"""``compat.multiprocessing`` where the standard module is imported."""

from __future__ import annotations

import multiprocessing.queues

from typing_extensions import assert_type

from shmqueue.compat import multiprocessing as mp


def take(q: multiprocessing.queues.Queue[int]) -> int:
    return q.get()


def works(method: str) -> None:
    jobs = mp.Queue(name="jobs")
    jobs.put_many([1, "two"])
    typed = mp.Queue[int](name="typed")
    assert_type(typed, mp.Queue[int])
    typed.put_many([1, 2])
    assert_type(typed.get(), int)
    assert_type(typed.get_many(2), list[int])
    assert_type(list(typed), list[int])
    with typed.lease() as lease:
        assert_type(lease.item, int)
    take(typed)
    annotated: mp.Queue[int] = mp.Queue(10, name="annotated", keep=True)
    take(annotated)

    joinable = mp.JoinableQueue[str](name="joinable")
    assert_type(joinable.get(), str)
    joinable.task_done()
    joinable.join()
    simple: mp.SimpleQueue[int] = mp.SimpleQueue(name="simple")
    assert_type(simple.get(), int)
    with simple as again:
        assert_type(again, mp.SimpleQueue[int])

    context = mp.get_context("spawn")
    spawned: mp.Queue[int] = context.Queue(name="jobs")
    spawned.put_many([1])
    context.JoinableQueue(name="joinable").task_done()
    context.SimpleQueue(name="simple").put(1)
    context.Process(target=print, args=(spawned,)).start()
    mp.get_context().Queue(name="jobs").put_many([1])
    mp.get_context(method).Queue(name="jobs").put_many([1])
    mp.get_context("fork").get_context("forkserver").Queue(3, name="jobs")


def has_what_the_standard_module_has() -> None:
    process = mp.Process(target=print, args=(mp.current_process().name,))
    assert_type(process.pid, "int | None")
    assert_type(mp.cpu_count(), int)
    with mp.Pool(2) as pool, mp.Lock():
        assert_type(pool.map(len, ["a"]), list[int])


def does_not_work(typed: mp.Queue[int], simple: mp.SimpleQueue[int]) -> None:
    typed.put("text")  # E:
    typed.put_many(["text"])  # E:
    text: str = typed.get()  # E:
    typed.task_done()  # E:
    simple.put(1, True)  # E:
    mp.Queue(names="jobs")  # E:
    mp.get_context("spawn").Queue(names="jobs")  # E:
    mp.Process(targets=print)  # E:
    print(text)
