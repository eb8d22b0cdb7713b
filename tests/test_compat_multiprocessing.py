"""Where stand-ins for ``multiprocessing``'s queues fail: arguments, closing, exits, counts.

A test that gets ``mp`` or ``context`` runs on the standard library too, which shows that the test is right. What ours
promises beyond that, or does differently on purpose, is tested on ours alone, with ``our_mp`` or ``our_context``.

Fails if: a program written for ``multiprocessing``'s queues would behave differently on ours.
"""

from __future__ import annotations

import inspect
import multiprocessing
import multiprocessing.queues
import queue
import time
from collections.abc import Callable
from typing import Any

import children
import pytest
from support import PATIENCE, Call, Opener, asleep, run_python, running, succeed, wait_until


def arrived(q: Any) -> Any:
    """The queue, as soon as what was put is there to be taken: the original's feeder thread takes its time."""
    wait_until(lambda: not q.empty(), "the item arrives")
    return q


# ---- arguments ----


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_arguments_have_the_names_of_the_original(mp: Opener, kind: str) -> None:
    q = getattr(mp, kind)(maxsize=3)
    q.put(obj=1, block=True, timeout=None)
    q.put(2, True, 5)
    q.put_nowait(obj=3)
    with pytest.raises(queue.Full):
        q.put_nowait(4)
    assert [q.get(block=True, timeout=PATIENCE), q.get(True, PATIENCE), q.get()] == [1, 2, 3]
    with pytest.raises(TypeError):
        q.put(item=1)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    for method in ("put", "get", "put_nowait", "get_nowait"):
        original = inspect.signature(getattr(multiprocessing.queues.Queue, method))
        assert list(inspect.signature(getattr(type(q), method)).parameters) == list(original.parameters)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_a_negative_timeout_does_not_wait(mp: Opener, kind: str) -> None:
    q = getattr(mp, kind)(1)
    with pytest.raises(queue.Empty):
        q.get(timeout=-1)
    with pytest.raises(queue.Empty):
        q.get(True, -0.5)
    q.put(1, timeout=-1)
    with pytest.raises(queue.Full):
        q.put(2, timeout=-1)
    assert arrived(q).get(timeout=-1) == 1


def test_without_block_the_timeout_is_ignored(mp: Opener) -> None:
    q = mp.Queue(1)
    before = time.monotonic()
    for timeout in (None, PATIENCE, -1):
        with pytest.raises(queue.Empty):
            q.get(False, timeout)
    q.put(1, False, PATIENCE)
    for timeout in (None, PATIENCE, -1):
        with pytest.raises(queue.Full):
            q.put(2, False, timeout)
    assert time.monotonic() - before < PATIENCE
    assert arrived(q).get(False, PATIENCE) == 1


def test_full_counts_items_and_not_bytes(mp: Opener) -> None:
    q = mp.Queue(2)
    assert not q.full()
    q.put(b"x" * 2_000_000, timeout=PATIENCE)
    assert not q.full()
    q.put(b"y" * 300_000, timeout=PATIENCE)
    assert q.full()
    with pytest.raises(queue.Full):
        q.put(b"", timeout=0.05)
    assert [len(q.get()), len(q.get())] == [2_000_000, 300_000]
    assert q.empty()
    assert not q.full()


# ---- unbounded ----


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_everything_can_be_put_before_the_consumers_start(context: Opener, kind: str) -> None:
    q, report = getattr(context, kind)(), context.Queue()
    for number in range(1000):
        q.put((number, b"x" * 10_000))
    q.put(None)
    q.put(None)
    consumers = [context.Process(target=children.count_to_none, args=(q, report)) for _ in range(2)]
    with running(*consumers):
        counts = [report.get(timeout=PATIENCE) for _ in consumers]
        assert sum(count for count, _ in counts) == 1000
        assert sum(total for _, total in counts) == sum(range(1000))
        succeed(*consumers)


def test_an_unbounded_queue_is_never_full(mp: Opener) -> None:
    q = mp.Queue()
    for number in range(3000):
        q.put(number, False)
    assert not q.full()
    assert [q.get() for _ in range(3000)] == list(range(3000))


# ---- close ----


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_a_closed_queue_refuses_put_and_get(mp: Opener, kind: str) -> None:
    q = getattr(mp, kind)()
    q.put(1)
    assert arrived(q).get() == 1
    q.close()
    q.close()
    q.join_thread()
    q.cancel_join_thread()
    for call in (lambda: q.put(1), q.get, lambda: q.put_nowait(1), q.get_nowait, lambda: q.get(timeout=1)):
        with pytest.raises(ValueError, match=r"(?i)^queue .* is closed$"):
            call()
    with pytest.raises(OSError, match="is closed"):
        q.empty()


def test_counting_a_closed_queue_is_an_error_of_ours(our_mp: Opener) -> None:
    original: Any = multiprocessing.Queue()
    original.close()
    assert (original.qsize(), original.full()) == (0, False)
    q = our_mp.Queue()
    q.close()
    for call in (q.qsize, q.full):
        with pytest.raises(ValueError, match="is closed"):
            call()


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_join_thread_is_for_closed_queues(mp: Opener, kind: str) -> None:
    q = getattr(mp, kind)()
    with pytest.raises(AssertionError, match="not closed"):
        q.join_thread()
    q.cancel_join_thread()
    q.put(1)
    assert q.get() == 1
    q.close()
    q.join_thread()


def test_close_is_for_this_process_only(context: Opener) -> None:
    questions, answers = context.Queue(), context.Queue()
    child = context.Process(target=children.answer, args=(questions, answers))
    with running(child):
        questions.put(1)
        assert answers.get(timeout=PATIENCE) == 1
        for item in (2, 3, None):
            questions.put(item)
        questions.close()
        assert [answers.get(timeout=PATIENCE), answers.get(timeout=PATIENCE)] == [2, 3]
        succeed(child)


def test_a_closed_simple_queue_raises_oserror(mp: Opener) -> None:
    q = mp.SimpleQueue()
    q.put(1)
    q.close()
    q.close()
    for call in (lambda: q.put(1), q.get, q.empty):
        with pytest.raises(OSError, match="is closed"):
            call()


def test_a_call_that_waits_ends_when_its_handle_is_closed(our_mp: Opener) -> None:
    q, simple = our_mp.Queue(), our_mp.SimpleQueue()
    waiting, waiting_simple = asleep(Call(q.get)), asleep(Call(simple.get))
    q.close()
    simple.close()
    with pytest.raises(ValueError, match="is closed"):
        waiting.result()
    with pytest.raises(OSError, match="is closed"):
        waiting_simple.result()


# ---- SimpleQueue ----


def test_a_simple_queue_has_the_methods_of_the_original(mp: Opener) -> None:
    q = mp.SimpleQueue()
    assert q.empty()
    q.put(obj=1)
    assert not q.empty()
    wrong: Callable[[], object]
    for wrong in (lambda: q.get(True), lambda: q.get(timeout=1), lambda: q.put(1, True), lambda: q.put(1, timeout=1)):
        with pytest.raises(TypeError):
            wrong()
    for attribute in ("put_nowait", "get_nowait", "qsize", "full", "task_done", "join"):
        assert not hasattr(q, attribute)
    assert q.get() == 1
    assert q.empty()
    get = asleep(Call(q.get))
    q.put("late")
    assert get.result() == "late"


def test_put_into_a_simple_queue_waits_as_for_a_full_pipe(mp: Opener) -> None:
    q = mp.SimpleQueue()
    put = asleep(Call(lambda: [q.put((number, b"x" * 10_000)) for number in range(50)]))
    assert [q.get()[0] for _ in range(50)] == list(range(50))
    put.result()
    big = Call(q.put, b"y" * 1_000_000)
    assert q.get() == b"y" * 1_000_000
    big.result()


# ---- a producer that leaves ----


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_producer_that_ends_at_once_loses_nothing(context: Opener, kind: str) -> None:
    q = getattr(context, kind)()
    child = context.Process(target=children.put_and_leave, args=(q, 300, 5000))
    with running(child):
        assert [q.get()[0] for _ in range(300)] == list(range(300))
        succeed(child)


@pytest.mark.parametrize("leave", [children.put_and_leave, children.put_and_exit_hard])
def test_a_producer_ends_without_waiting_for_a_consumer(our_context: Opener, leave: Callable[..., None]) -> None:
    q = our_context.Queue()
    child = our_context.Process(target=leave, args=(q, 300, 5000))
    with running(child):
        succeed(child)
        assert q.qsize() == 300
        assert [q.get()[0] for _ in range(300)] == list(range(300))


def test_an_interpreter_ends_with_items_in_its_queue(engine: str) -> None:
    code = """
from shmqueue.compat import multiprocessing as mp
q, simple = mp.JoinableQueue(), mp.SimpleQueue()
q.put(b"x" * 1_000_000)
simple.put(1)
q._reader.fileno()
print("over")
"""
    assert run_python(code) == "over\n"


# ---- counters ----


def test_tasks_are_counted_in_all_processes_together(context: Opener) -> None:
    q, report = context.JoinableQueue(), context.Queue()
    for number in range(3):
        q.put(number)
    child = context.Process(target=children.finish_and_overdo, args=(q, report))
    with running(child):
        q.join()
        assert report.get(timeout=PATIENCE) == "task_done() called too many times"
        succeed(child)
    with pytest.raises(ValueError, match=r"^task_done\(\) called too many times$"):
        q.task_done()


def test_join_waits_for_the_last_task(mp: Opener) -> None:
    q = mp.JoinableQueue()
    q.join()
    q.put(1)
    q.put(2)
    join = asleep(Call(q.join))
    q.get(), q.get()
    q.task_done()
    asleep(join)
    q.task_done()
    join.result()


def test_qsize_counts_at_once(mp: Opener) -> None:
    q = mp.Queue()
    for count in range(1, 4):
        q.put(None)
        assert q.qsize() == count
    q.get()
    assert q.qsize() == 2


def test_only_a_joinable_queue_counts_tasks(mp: Opener) -> None:
    q = mp.Queue()
    assert not hasattr(q, "task_done")
    assert not hasattr(q, "join")
    assert isinstance(mp.JoinableQueue(), type(q))


# ---- the cost of an import ----


def test_importing_the_module_loads_no_queue() -> None:
    code = """
import sys
from shmqueue.compat import multiprocessing
heavy = ["shmqueue.queue", "shmqueue.handle", "shmqueue.engine", "msgpack", "multiprocessing.queues", "queue"]
print([name for name in heavy if name in sys.modules])
"""
    assert run_python(code) == "[]\n"
    assert run_python("import shmqueue.compat; print(shmqueue.compat.install.__module__)") == "shmqueue.compat\n"
