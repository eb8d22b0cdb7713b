"""The thread that keeps descriptors true does so whatever goes wrong beside it, and leaves no lock taken."""

from __future__ import annotations

import errno
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from children import is_readable
from fileno_support import KINDS, OpenQueue, maker, source_of
from support import PATIENCE, Call, exit_status, in_child, wait_until

from shmqueue import ShmQueueSerializationError, watching
from shmqueue.segment.locks import changing

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=KINDS)
def q(request: pytest.FixtureRequest, open_kind: OpenQueue) -> Any:
    return open_kind(request.param)


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


@pytest.mark.parametrize("started", [0, 1])
def test_a_descriptor_whose_threads_could_not_be_started_is_made_anew(
    open_kind: OpenQueue, monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    q = open_kind("mp.Queue")
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


def test_a_descriptor_that_the_program_has_closed_counts_as_set(open_kind: OpenQueue) -> None:
    """Else the thread would look without a pause."""
    signal = watching._Signal()
    os.close(signal.number)
    for readable in (True, False):
        signal.set(readable)
        assert signal.is_set is readable
    q = open_kind("queue.Queue")
    os.close(q.fileno())
    q.put(1)
    assert is_readable(q, PATIENCE)


def test_a_put_while_a_queue_is_being_closed_waits_for_no_look(open_kind: OpenQueue) -> None:
    """A look may collect another queue, which waits until this one is closed."""
    q = open_kind("queue.Queue")
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
    open_kind: OpenQueue, kind: str
) -> None:
    q = open_kind(kind)
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


def test_the_end_of_a_queue_is_seen_after_memory_was_short(open_kind: OpenQueue) -> None:
    errors: list[type[BaseException]] = [MemoryError, OSError]

    def is_over() -> bool:
        if errors:
            raise errors.pop()
        return True

    watcher = watching.Watcher(open_kind("ShmQueue")._engine)
    try:
        watcher.start()
        watcher.watch_for_end(is_over)
        wait_until(lambda: is_readable(watcher), "the end is seen")
    finally:
        watcher.close()
