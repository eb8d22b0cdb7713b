"""Where stand-ins for ``queue.Queue`` fail: timeouts, names, limits, tasks, exceptions.

A test that gets the ``queues`` fixture runs on the standard library's module too, which shows that the test is right.

Fails if: a program written for ``queue.Queue`` would behave differently on ours.
"""

from __future__ import annotations

import queue as standard
import time
from multiprocessing import get_context
from typing import Any

import children
import pytest
from support import PATIENCE, START_METHODS, Call, Opener, asleep, running, succeed

# ---- timeouts ----


def test_without_a_timeout_a_call_waits_until_it_can_be_done(queues: Opener) -> None:
    q = queues.Queue(1)
    get = asleep(Call(q.get, timeout=None))
    q.put("late")
    assert get.result() == "late"
    q.put("in the way")
    put = asleep(Call(q.put, "later", timeout=None))
    assert q.get() == "in the way"
    put.result()
    assert q.get() == "later"


def test_a_timeout_that_is_over_raises(queues: Opener) -> None:
    q = queues.Queue(1)
    before = time.monotonic()
    with pytest.raises(standard.Empty):
        q.get(timeout=0.1)
    q.put(1)
    with pytest.raises(standard.Full):
        q.put(2, timeout=0.1)
    assert time.monotonic() - before >= 0.2
    with pytest.raises(standard.Full):
        q.put(2, timeout=0)
    assert q.get(timeout=0) == 1
    with pytest.raises(standard.Empty):
        q.get(timeout=0)


def test_a_negative_timeout_is_an_error(queues: Opener) -> None:
    q = queues.Queue(1)
    for _ in ("empty", "full"):
        with pytest.raises(ValueError, match=r"^'timeout' must be a non-negative number$"):
            q.get(timeout=-1)
        with pytest.raises(ValueError, match=r"^'timeout' must be a non-negative number$"):
            q.put(2, timeout=-0.001)
        if q.empty():
            q.put(1)
    assert q.qsize() == 1


def test_a_put_that_never_waits_does_not_look_at_the_timeout(queues: Opener) -> None:
    q = queues.Queue()
    q.put(1, timeout=-1)
    q.put(2, True, -1.5)
    assert [q.get(), q.get()] == [1, 2]


def test_without_block_the_timeout_is_ignored(queues: Opener) -> None:
    q = queues.Queue(1)
    before = time.monotonic()
    for timeout in (None, PATIENCE, -1, 0):
        with pytest.raises(standard.Empty):
            q.get(False, timeout)
        with pytest.raises(standard.Empty):
            q.get(block=0, timeout=timeout)
    q.put(1, False, -1)
    for timeout in (None, PATIENCE, -1, 0):
        with pytest.raises(standard.Full):
            q.put(2, False, timeout)
    assert time.monotonic() - before < PATIENCE
    assert q.get(False, -1) == 1


def test_a_simple_queue_has_the_originals_timeouts(queues: Opener) -> None:
    q = queues.SimpleQueue()
    get = asleep(Call(q.get, timeout=None))
    q.put(1, timeout=-1)
    assert get.result() == 1
    with pytest.raises(ValueError, match=r"^'timeout' must be a non-negative number$"):
        q.get(timeout=-1)
    with pytest.raises(standard.Empty):
        q.get(False, -1)
    with pytest.raises(standard.Empty):
        q.get(timeout=0.05)


# ---- names of arguments ----


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_arguments_have_the_names_of_the_original(queues: Opener, kind: str) -> None:
    q = getattr(queues, kind)()
    q.put(item=1, block=True, timeout=None)
    q.put(2, True, 5)
    q.put_nowait(item=3)
    assert q.get(block=True, timeout=1) == 1
    assert q.get(False) == 2
    assert q.get_nowait() == 3
    with pytest.raises(TypeError):
        q.put()
    with pytest.raises(TypeError):
        q.put(obj=1)
    assert q.empty()


def test_maxsize_is_given_by_name_or_by_position(queues: Opener) -> None:
    assert queues.Queue(maxsize=3).maxsize == 3
    assert queues.Queue(3).maxsize == 3
    assert queues.Queue().maxsize == 0


# ---- items, not bytes ----


@pytest.mark.parametrize("maxsize", [0, -1])
def test_a_maxsize_of_zero_or_less_is_no_limit(queues: Opener, maxsize: int) -> None:
    q = queues.Queue(maxsize)
    block = bytes(20_000)
    for number in range(400):
        q.put((number, block), block=False)
        assert not q.full()
    assert q.qsize() == 400
    assert [q.get_nowait()[0] for _ in range(400)] == list(range(400))
    assert q.maxsize <= 0


def test_full_counts_items_and_not_bytes(queues: Opener) -> None:
    q = queues.Queue(3)
    items = [b"x" * 3_000_000, b"", b"y" * 500_000]
    for item in items:
        assert not q.full()
        q.put(item, timeout=PATIENCE)
    assert q.full()
    assert q.qsize() == 3
    with pytest.raises(standard.Full):
        q.put_nowait(b"")
    with pytest.raises(standard.Full):
        q.put(b"", timeout=0.05)
    assert q.get() == items[0]
    assert not q.full()
    q.put(items[0])
    assert [q.get(), q.get(), q.get()] == [*items[1:], items[0]]


def test_a_simple_queue_has_no_limit(queues: Opener) -> None:
    q = queues.SimpleQueue()
    for number in range(2000):
        q.put((number, b"x" * 2000), block=False)
    assert q.qsize() == 2000
    assert [q.get()[0] for _ in range(2000)] == list(range(2000))
    assert q.empty()


# ---- task_done and join ----


def test_task_done_is_called_once_for_each_item(queues: Opener) -> None:
    q = queues.Queue()
    with pytest.raises(ValueError, match=r"^task_done\(\) called too many times$"):
        q.task_done()
    q.put(1)
    q.put(2)
    assert q.unfinished_tasks == 2
    q.get()
    assert q.unfinished_tasks == 2
    q.task_done()
    q.get()
    q.task_done()
    assert q.unfinished_tasks == 0
    with pytest.raises(ValueError, match=r"^task_done\(\) called too many times$"):
        q.task_done()


def test_join_waits_for_the_last_task(queues: Opener) -> None:
    q = queues.Queue()
    q.join()
    q.put(1)
    q.put(2)
    joins = [asleep(Call(q.join)), asleep(Call(q.join))]
    q.get(), q.get()
    q.task_done()
    for join in joins:
        asleep(join)
    q.task_done()
    for join in joins:
        assert join.result() is None
    with pytest.raises(TypeError):
        q.join(1)


@pytest.mark.parametrize("method", START_METHODS)
def test_tasks_are_counted_in_all_processes_together(our_queues: Opener, method: str) -> None:
    q = our_queues.Queue()
    context: Any = get_context(method)
    workers = [context.Process(target=children.work_off, args=(q,)) for _ in range(2)]
    for number in range(100):
        q.put(number)
    with running(*workers):
        q.join()
        assert (q.unfinished_tasks, q.qsize()) == (0, 0)
        for _ in workers:
            q.put(None)
        succeed(*workers)
    assert q.unfinished_tasks == 2
    q.task_done(), q.task_done()
    with pytest.raises(ValueError, match=r"^task_done\(\) called too many times$"):
        q.task_done()


# ---- exceptions ----


def test_exceptions_are_those_that_callers_catch(queues: Opener) -> None:
    q = queues.Queue(1)
    with pytest.raises(standard.Empty) as empty:
        q.get_nowait()
    assert isinstance(empty.value, queues.Empty)
    q.put(1)
    with pytest.raises(standard.Full) as full:
        q.put_nowait(2)
    assert isinstance(full.value, queues.Full)
    assert not isinstance(full.value, standard.Empty)
    with pytest.raises(standard.Empty):
        queues.SimpleQueue().get_nowait()


def test_the_module_exports_the_standard_exceptions(our_queues: Opener) -> None:
    assert our_queues.Empty is standard.Empty
    assert our_queues.Full is standard.Full


# ---- batches, closed handles, children ----


def test_a_batch_goes_in_and_comes_out_together(our_queues: Opener) -> None:
    q = our_queues.Queue(5)
    q.put_many([1, (2,), [3], {4}], block=False)
    assert q.qsize() == 4
    assert q.get_many(3) == [1, (2,), [3]]
    assert q.get_many(3, timeout=0) == [{4}]
    with pytest.raises(standard.Empty):
        q.get_many(3, timeout=0)
    assert q.unfinished_tasks == 4


def test_a_closed_handle_says_so(our_queues: Opener) -> None:
    q = our_queues.Queue()
    q.close()
    q.close()
    for call in (lambda: q.put(1), q.get, q.get_nowait, q.qsize, q.empty, q.full, q.task_done, q.join, q.shutdown):
        with pytest.raises(Exception, match="is closed") as raised:
            call()
        assert not isinstance(raised.value, (standard.Empty, standard.Full, our_queues.ShutDown, AttributeError))


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
@pytest.mark.parametrize("method", START_METHODS)
def test_the_queue_travels_to_children(our_queues: Opener, kind: str, method: str) -> None:
    questions, answers = getattr(our_queues, kind)(), getattr(our_queues, kind)()
    context: Any = get_context(method)
    child = context.Process(target=children.answer_with_type, args=(questions, [answers]))
    with running(child):
        for question in (1, "two", (3, [4]), {5: {6}}):
            questions.put(question)
            assert answers.get(timeout=PATIENCE) == (type(question).__name__, question)
        questions.put(None)
        succeed(child)
