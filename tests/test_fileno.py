"""A queue's descriptor is readable while the queue is not empty, and nothing stays behind when it is closed."""

from __future__ import annotations

import errno
import importlib
import itertools
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import selectors
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import children
import pytest
from children import is_readable
from portable_support import exit_status, in_child
from support import PATIENCE, Call, asleep, cpu_seconds, run_python, running, succeed, wait_until

from shmqueue import ShmQueue, ShmQueueSerializationError, watching
from shmqueue.segment.files import changing

pytestmark = pytest.mark.usefixtures("engine")

METHODS = ["fork", "spawn", "forkserver"]
KINDS = ["queue.Queue", "mp.Queue", "mp.JoinableQueue", "mp.SimpleQueue", "ShmQueue"]


@pytest.fixture
def open_queue(engine: str) -> Iterator[Callable[[str], Any]]:
    """Makes a queue of the kind; closes it at the end."""
    opened: list[Any] = []

    def make(kind: str) -> Any:
        opened.append(maker(kind)())
        return opened[-1]

    yield make
    for q in opened:
        q.close()


_numbers = itertools.count()


def maker(kind: str) -> Any:
    if kind == "ShmQueue":
        return lambda: ShmQueue(f"with-descriptor-{next(_numbers)}")
    module, name = kind.split(".")
    return getattr(importlib.import_module(f"shmqueue.compat.{'multiprocessing' if module == 'mp' else module}"), name)


@pytest.fixture(params=KINDS)
def q(request: pytest.FixtureRequest, open_queue: Callable[[str], Any]) -> Any:
    return open_queue(request.param)


def source_of(q: Any) -> Any:
    """What programs give to ``wait()`` or to a selector."""
    return getattr(q, "_reader", q)


def descriptors() -> set[str]:
    return {f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if is_open(fd)}


def is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_it_is_readable_while_there_are_items(q: Any) -> None:
    source = source_of(q)
    for _ in range(20):
        assert not is_readable(source)
        q.put(1)
        q.put(2)
        assert is_readable(source, PATIENCE)
        assert q.get() == 1
        assert is_readable(source, PATIENCE)
        assert q.get() == 2


def test_items_that_were_there_before_make_it_readable(q: Any) -> None:
    q.put(1)
    source = source_of(q)
    assert is_readable(source, PATIENCE)
    q.get()
    assert not is_readable(source)


def test_it_is_the_same_one_each_time(q: Any) -> None:
    source = source_of(q)
    number = source.fileno()
    assert source.fileno() == number
    os.fstat(number)
    assert not os.get_inheritable(number)


def test_a_selector_sees_items_and_other_things(q: Any) -> None:
    source = source_of(q)
    one, other = os.pipe()
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(source, selectors.EVENT_READ, "queue")
            selector.register(one, selectors.EVENT_READ, "pipe")
            assert selector.select(0) == []
            q.put(1)
            assert [key.data for key, _ in selector.select(PATIENCE)] == ["queue"]
            os.write(other, b"x")
            wait_until(lambda: len(selector.select(PATIENCE)) == 2, "both are readable")
            q.get()
            assert [key.data for key, _ in selector.select(PATIENCE)] == ["pipe"]
    finally:
        os.close(one)
        os.close(other)


def test_an_item_of_another_thread_wakes_who_waits(q: Any) -> None:
    source = source_of(q)
    for number in range(20):
        waiting = asleep(Call(is_readable, source, PATIENCE))
        q.put(number)
        assert waiting.result()
        assert q.get() == number


def test_every_way_of_taking_the_last_item_makes_it_unreadable(open_queue: Callable[[str], Any]) -> None:
    q = open_queue("queue.Queue")
    q.fileno()
    for take in (q.get, q.get_nowait, lambda: q.get(timeout=1), lambda: q.get_many(5), lambda: q.get_many(5, 1)):
        q.put(1)
        assert is_readable(q, PATIENCE)
        take()
        assert not is_readable(q)
    q.put_many([1, 2, 3])
    assert is_readable(q, PATIENCE)
    q.get_many(2)
    assert is_readable(q, PATIENCE)
    q.get_many(2)
    assert not is_readable(q)


def test_items_that_another_handle_takes_make_it_unreadable_soon(open_queue: Callable[[str], Any]) -> None:
    from shmqueue.compat.queue import Queue

    q = open_queue("queue.Queue")
    q.put(1)
    assert is_readable(q, PATIENCE)
    other: Queue[int] = pickle.loads(pickle.dumps(q))
    try:
        assert other.get() == 1
        wait_until(lambda: not is_readable(q), "it is not readable any more")
        other.put(2)
        assert is_readable(q, PATIENCE)
    finally:
        other.close()


def test_shutting_down_with_drop_makes_it_no_trap(open_queue: Callable[[str], Any]) -> None:
    from shmqueue.compat.queue import ShutDown

    q = open_queue("queue.Queue")
    q.put(1)
    assert is_readable(q, PATIENCE)
    q.shutdown(immediate=True)
    with pytest.raises(ShutDown):
        q.get_nowait()


@pytest.mark.parametrize("method", METHODS)
def test_a_child_has_a_descriptor_of_its_own(q: Any, open_queue: Callable[[str], Any], method: str) -> None:
    report = open_queue("mp.Queue")
    source = source_of(q)
    source.fileno()
    before = threading.active_count()
    context: Any = multiprocessing.get_context(method)
    child = context.Process(target=children.watch, args=(q, report))
    with running(child):
        assert report.get(timeout=PATIENCE) == ("empty", False, False)
        assert not is_readable(source)
        q.put("for the child")
        assert report.get(timeout=PATIENCE) == ("item", True, "for the child", False)
        succeed(child)
    assert threading.active_count() <= before  # one of an earlier test may just have been ending
    wait_until(lambda: not is_readable(source), "the parent sees that it is empty")
    q.put("for the parent")
    assert is_readable(source, PATIENCE)
    assert q.get() == "for the parent"
    assert not is_readable(source)


def test_nothing_is_made_before_it_is_asked_for(q: Any) -> None:
    q.put(1)
    before, threads = descriptors(), threading.active_count()
    source = source_of(q)
    if source is not q:
        assert source.poll()
    assert q.get() == 1
    assert descriptors() == before
    assert threading.active_count() <= threads


def test_closing_leaves_neither_thread_nor_descriptor(open_queue: Callable[[str], Any]) -> None:
    threads = threading.active_count()
    before = descriptors()
    for kind in KINDS:
        for item in ([], [1]):
            q = open_queue(kind)
            for value in item:
                q.put(value)
            assert is_readable(source_of(q), PATIENCE if item else 0) == bool(item)
            q.close()
    wait_until(lambda: threading.active_count() <= threads, "the threads have ended")
    assert descriptors() == before


def test_a_queue_that_is_collected_leaves_neither_thread_nor_descriptor() -> None:
    threads = threading.active_count()
    before = descriptors()
    for kind in KINDS:
        q: Any = maker(kind)()
        source_of(q).fileno()
        del q
    wait_until(lambda: threading.active_count() <= threads, "the threads have ended")
    wait_until(lambda: descriptors() == before, "the descriptors are closed")


def test_a_closed_queue_has_no_descriptor(open_queue: Callable[[str], Any]) -> None:
    for kind in KINDS:
        for asked_before in (False, True):
            q = open_queue(kind)
            source = source_of(q)
            if asked_before:
                source.fileno()
            q.close()
            with pytest.raises((OSError, ValueError, RuntimeError), match="is closed"):
                source.fileno()


def test_closing_while_many_things_go_on(open_queue: Callable[[str], Any]) -> None:
    for number in range(20):
        q = open_queue(KINDS[number % len(KINDS)])
        source_of(q).fileno()
        calls = [Call(until_closed, q.put, 1), Call(until_closed, q.get)]
        wait_until(lambda q=q: not q.empty() or q.empty(), "it goes on")  # type: ignore[misc]
        q.close()
        for call in calls:
            call.result()


def until_closed(call: Callable[..., object], *arguments: object) -> None:
    def repeat() -> None:
        while True:
            call(*arguments)

    with pytest.raises((OSError, ValueError, RuntimeError), match="is closed"):
        repeat()


def test_many_items_through_a_watched_queue(q: Any) -> None:
    """Each time that it is readable there is something, and each item is seen."""
    source = source_of(q)
    count = 2000

    def produce() -> None:
        for number in range(count):
            q.put(number)
            if number % 100 == 0:
                time.sleep(0)

    producer = Call(produce)
    got: list[int] = []
    while len(got) < count:
        assert is_readable(source, PATIENCE)
        while not q.empty():
            got.append(q.get())
    producer.result()
    assert got == list(range(count))
    assert not is_readable(source)


def test_waiting_costs_nothing(open_queue: Callable[[str], Any]) -> None:
    q = open_queue("queue.Queue")
    q.fileno()
    before = cpu_seconds(os.getpid())
    assert not is_readable(q, 1.0)
    assert cpu_seconds(os.getpid()) - before < 0.5
    with pytest.raises(queue.Empty):
        q.get_nowait()


def test_an_exception_at_any_call_or_return_leaves_no_lock_taken(name: str, engine: str) -> None:
    """As one of a signal handler, which Python calls there, and while what was raised is still looked at."""

    def take(lock: Any) -> None:
        assert lock.acquire(timeout=PATIENCE / 10)
        lock.release()

    q = maker("queue.Queue")(name=name)
    try:
        q.fileno()
        watcher = q._channel._descriptor._watcher
        point, interrupted = 0, True
        while interrupted:
            point += 1
            left = point

            def trace(frame: FrameType, event: str, argument: object) -> Any:
                nonlocal left
                is_entered = event == "return" and frame.f_code.co_name == "__enter__"  # Python calls no handler there
                left -= event in ("call", "return") and not is_entered
                if left == 0 and not is_entered:
                    raise KeyboardInterrupt
                return trace

            error = None
            try:
                sys.settrace(trace)
                watcher.look()
                sys.settrace(None)
            except KeyboardInterrupt as raised:
                sys.settrace(None)
                error = raised
            interrupted = error is not None
            Call(take, watcher._lock()).result()
    finally:
        q.close()
    assert point > 10


def test_an_interpreter_ends_with_its_watchers_running(engine: str) -> None:
    code = """
from shmqueue import ShmQueue
from shmqueue.compat import multiprocessing as mp, queue
queues = [queue.Queue(), mp.Queue(), mp.JoinableQueue(), mp.SimpleQueue(), ShmQueue("at-the-end")]
for number, q in enumerate(queues):
    if number % 2:
        q.put(number)
    getattr(q, "_reader", q).fileno()
print("over")
"""
    for _ in range(3):
        assert run_python(code) == "over\n"


@pytest.mark.parametrize("kind", ["mp.Queue", "mp.JoinableQueue", "mp.SimpleQueue"])
def test_a_queue_has_a_descriptor_as_its_reader_has(open_queue: Callable[[str], Any], kind: str) -> None:
    q = open_queue(kind)
    assert q.fileno() == q._reader.fileno()
    q.put(1)
    assert multiprocessing.connection.wait([q], PATIENCE) == [q]


def test_every_call_of_a_shm_queue_leaves_it_true(open_queue: Callable[[str], Any]) -> None:
    q = open_queue("ShmQueue")
    assert not is_readable(q)
    takes = [
        q.get,
        lambda: q.get(timeout=1),
        lambda: q.get(False),
        lambda: q.get_many(5),
        lambda: q.lease().ack(),
        lambda: q.lease(timeout=1).ack(),
        lambda: q.lease(max_attempts=2, dead_letter=queue.Queue()).ack(),
        q.clear,
    ]
    puts: list[Callable[[], object]] = [
        lambda: q.put(b"1"),
        lambda: q.put(b"1", timeout=1),
        lambda: q.put(b"1", serialization_method=1),
        lambda: q.put(b"1" * 40_000),
        lambda: q.put_many([b"1"]),
    ]
    for number, put in enumerate(puts):
        for take in takes[number:] + takes[:number]:
            put()
            assert is_readable(q)
            take()
            assert not is_readable(q)
    q.put(1)
    for options in ({}, {"timeout": 1}):
        lease = q.lease(**options)
        assert not is_readable(q)
        lease.requeue()
        assert is_readable(q)
    q.get()
    with q.put_view(1) as view:
        view[0] = 1
    assert is_readable(q, PATIENCE)
    view = q.get_view()
    with view:
        assert not is_readable(q)
    q.put(b"1")
    view = q.get_view()
    view.__enter__()
    view.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    assert is_readable(q, PATIENCE)
    q.get()
    q.shutdown_all()
    assert is_readable(q)


def test_many_handles_on_a_queue_each_have_one(open_queue: Callable[[str], Any], name: str) -> None:
    with ShmQueue(name) as one, ShmQueue(name) as other:
        assert one.fileno() != other.fileno()
        one.put(1)
        assert is_readable(one)
        assert is_readable(other, PATIENCE)
        other.get()
        assert not is_readable(other)
        wait_until(lambda: not is_readable(one), "it is not readable any more")


@pytest.mark.parametrize("kind", KINDS)
def test_a_forked_child_without_a_descriptor_puts_and_gets(open_queue: Callable[[str], Any], kind: str) -> None:
    q = open_queue(kind)
    q.fileno()

    def use() -> None:
        q.put(1)
        q.put(2)
        assert q.get() == 1
        assert is_readable(q, PATIENCE)
        assert q.get() == 2
        assert not is_readable(q)
        q.put(3)

    assert exit_status(in_child(use)) == 0
    assert is_readable(q, PATIENCE)
    assert q.get() == 3
    assert not is_readable(q)


@pytest.mark.parametrize("kind", ["mp.Queue", "mp.JoinableQueue", "mp.SimpleQueue"])
def test_a_queue_without_its_writer_that_is_collected_leaves_neither_thread_nor_descriptor(kind: str) -> None:
    before, threads = descriptors(), len(os.listdir("/proc/self/task"))
    q: Any = maker(kind)()
    q._writer.close()
    q._reader.fileno()
    del q
    wait_until(lambda: descriptors() <= before, "the descriptors are closed")
    wait_until(lambda: len(os.listdir("/proc/self/task")) <= threads, "the threads have ended")


@pytest.mark.parametrize("started", [0, 1])
def test_a_descriptor_whose_threads_could_not_be_started_is_made_anew(
    open_queue: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    q = open_queue("mp.Queue")
    other = pickle.loads(pickle.dumps(q))
    q._writer.close()
    left = [watching.start_daemon_thread] * started  # type: ignore[attr-defined]

    def start(target: Callable[[], object]) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()(target)

    with monkeypatch.context() as patched:
        patched.setattr(watching, "start_daemon_thread", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            q._reader.fileno()
    assert not is_readable(q._reader)
    other.put(1)
    assert is_readable(q._reader, PATIENCE)
    assert q.get() == 1
    wait_until(lambda: not is_readable(q._reader), "it is not readable any more")
    other.close()
    assert is_readable(q._reader, PATIENCE)
    with pytest.raises(EOFError):
        q.get()


def test_a_descriptor_that_the_program_has_closed_counts_as_set(open_queue: Callable[[str], Any]) -> None:
    """Else the thread would look without a pause."""
    signal = watching._Signal()
    os.close(signal.number)
    for readable in (True, False):
        signal.set(readable)
        assert signal.is_set is readable
    q = open_queue("queue.Queue")
    os.close(q.fileno())
    q.put(1)
    assert is_readable(q, PATIENCE)


def test_a_put_while_a_queue_is_being_closed_waits_for_no_look(open_queue: Callable[[str], Any]) -> None:
    """A look may collect another queue, which waits until this one is closed."""
    q = open_queue("queue.Queue")
    q.fileno()
    watcher = q._channel._descriptor._watcher
    is_ready, looking, collecting = watcher._is_ready, threading.Event(), threading.Event()

    def collect_and_see() -> bool:
        if threading.get_ident() in lookers:
            lookers.clear()
            looking.set()
            collecting.wait(PATIENCE)
            with changing():
                pass
        return bool(is_ready())

    lookers: set[int] = set()

    def look() -> None:
        lookers.add(threading.get_ident())
        watcher.look()

    def put_in_a_signal_handler() -> None:
        with changing():
            collecting.set()
            q.put(1)

    watcher._is_ready = collect_and_see
    look_call = Call(look)
    looking.wait(PATIENCE)
    Call(put_in_a_signal_handler).result()
    look_call.result()
    assert is_readable(q, PATIENCE)
    assert q.get() == 1


def at_every_depth(call: Callable[[], Any]) -> Iterator[Any]:
    """What a call returns, or what it raises for want of room, from each of the last depths of the stack on."""

    def deeper(frames: int) -> Any:
        return call() if frames == 0 else deeper(frames - 1)

    for frames in range(sys.getrecursionlimit() - 80, sys.getrecursionlimit()):
        try:
            yield deeper(frames)
        except (RecursionError, ShmQueueSerializationError) as error:
            yield error


def test_nothing_is_taken_or_put_by_a_call_for_which_there_was_no_room_on_the_stack(q: Any) -> None:
    q.fileno()
    raised = 0
    q.put("item")
    for result in at_every_depth(q.get):
        assert (result == "item") is q.empty(), result
        if q.empty():
            q.put("item")
        raised += isinstance(result, Exception)
    assert raised
    assert q.get() == "item"
    for result in at_every_depth(lambda: q.put("item") is None):
        assert (result is True) is (not q.empty()), result
        while not q.empty():
            q.get()
    q.put("item")
    wait_until(lambda: is_readable(source_of(q)), "the descriptor is true")


@pytest.mark.parametrize("kind", ["ShmQueue", "queue.Queue", "mp.JoinableQueue"])
def test_no_lease_ends_or_begins_by_a_call_for_which_there_was_no_room_on_the_stack(
    open_queue: Callable[[str], Any], kind: str
) -> None:
    q = open_queue(kind)
    q.fileno()
    q.put("item")
    for lease in at_every_depth(q.lease):
        assert isinstance(lease, RecursionError) is (not q.empty()), lease
        if not isinstance(lease, RecursionError):
            lease.requeue()
    held = [q.lease()]
    for done in at_every_depth(lambda: held[0].ack()):
        assert isinstance(done, RecursionError) is held[0].is_held, done
        if not held[0].is_held:
            q.put("item")
            held[0] = q.lease()
    held[0].ack()


def test_a_descriptor_is_kept_true_after_memory_was_short(q: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [MemoryError] * 3
    keep_true = watching.Watcher._keep_true

    def fail_first(watcher: watching.Watcher) -> None:
        if failures:
            raise failures.pop()
        keep_true(watcher)

    monkeypatch.setattr(watching.Watcher, "_keep_true", fail_first)
    source = source_of(q)
    assert not is_readable(source)
    child = in_child(lambda: q.put(1))
    assert is_readable(source, PATIENCE)
    assert exit_status(child) == 0
    wait_until(lambda: not failures, "the thread goes on")


class FailingOs:
    """The module ``os``, one of whose functions raises first, where signal handlers run."""

    def __init__(self, name: str, error: BaseException) -> None:
        self._name, self._errors = name, [error]

    def __getattr__(self, name: str) -> Any:
        if name == self._name and self._errors and threading.current_thread() is threading.main_thread():
            raise self._errors.pop()
        return getattr(os, name)


@pytest.mark.parametrize("error", [TimeoutError(errno.ETIMEDOUT, "a signal handler's"), MemoryError()])
def test_a_look_that_ended_half_way_is_made_again(
    q: Any, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    source = source_of(q)
    assert not is_readable(source)
    with monkeypatch.context() as patch:
        patch.setattr(watching, "os", FailingOs("write", error))
        try:
            q.put(1)
        except TimeoutError:
            pass
        wait_until(lambda: is_readable(source), "the descriptor is true")
    with monkeypatch.context() as patch:
        patch.setattr(watching, "os", FailingOs("read", error))
        try:
            assert q.get() == 1
        except TimeoutError:
            pass
        wait_until(lambda: not is_readable(source), "the descriptor is true")


def test_a_descriptor_does_not_stay_readable_for_an_item_that_came_and_went_unseen(
    q: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, is_next, has_gone = watching.Watcher.look, [True], threading.Event()

    def look_and_miss_it(watcher: watching.Watcher) -> bool:
        is_true = look(watcher)
        if threading.current_thread() is not threading.main_thread() and is_next:
            is_next.clear()
            q.put(1)  # between the thread's look and its wait
            assert exit_status(in_child(q.get)) == 0
            has_gone.set()
        return is_true

    monkeypatch.setattr(watching.Watcher, "look", look_and_miss_it)
    source = source_of(q)
    source.fileno()
    assert has_gone.wait(PATIENCE)
    wait_until(lambda: not is_readable(source), "the descriptor is true")


def test_the_end_of_a_queue_is_seen_after_memory_was_short(open_queue: Callable[[str], Any]) -> None:
    errors: list[type[BaseException]] = [MemoryError, OSError]

    def is_over() -> bool:
        if errors:
            raise errors.pop()
        return True

    watcher = watching.Watcher(open_queue("ShmQueue")._engine)
    try:
        watcher.start()
        watcher.watch_for_end(is_over)
        wait_until(lambda: is_readable(watcher), "the end is seen")
    finally:
        watcher.close()
