"""Code that runs in the middle of a call: finalizers, signal handlers, arguments with a mind of their own."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from safety.garbage import Garbage
from support import python, run_python

import shmqueue
from shmqueue import SYSTEM_PAGESIZE, ShmQueue

pytestmark = pytest.mark.usefixtures("engine")

Make = Callable[..., ShmQueue]


@pytest.fixture
def eager_collector() -> Iterator[None]:
    """Runs at almost every allocation."""
    before = gc.get_threshold()
    gc.set_threshold(1)
    yield
    gc.set_threshold(*before)


def test_a_finalizer_that_puts_while_an_item_is_packed_spoils_neither(make: Make, eager_collector: None) -> None:
    q = make(buffer_size=1 << 20)
    for number in range(300):
        Garbage(lambda: q.put("from a finalizer"))
        q.put([1, number, (3,)])  # refused by plain msgpack half-way
    gc.collect()
    items = q.get_many(1000)
    assert [item for item in items if item != "from a finalizer"] == [[1, number, (3,)] for number in range(300)]
    assert items.count("from a finalizer") == 300


@pytest.mark.parametrize("call", ["get", "get_many"])
def test_a_finalizer_may_use_the_queue_that_is_being_read(make: Make, call: str, eager_collector: None) -> None:
    q = make(buffer_size=1 << 20)
    q.put_many(range(2000))
    got: list[int] = []
    take: Callable[[], list[int]]
    take = {"get": lambda: [q.get(timeout=5)], "get_many": lambda: q.get_many(7, timeout=5)}[call]
    for _ in range(100):
        Garbage(lambda: got.append(q.get(timeout=5)))
        got.extend(take())
    gc.collect()
    assert sorted(got) == list(range(len(got)))


@pytest.mark.parametrize("call", ["q.get()", "q.get_many(40)", "q.put([1, (2,)])", "q.put_many([1, (2,)] * 50)"])
def test_a_finalizer_may_shut_the_queue_down_at_any_moment(name: str, call: str) -> None:
    code = f"""
import gc, sys, shmqueue
gc.set_threshold(1)
class Garbage:
    def __init__(self):
        self.itself = self
    def __del__(self):
        q.shutdown()
for _ in range(50):
    q = shmqueue.ShmQueue(sys.argv[1], buffer_size=1 << 20)
    q.put_many(list(range(1000)))
    Garbage()
    try:
        for _ in range(20):
            {call}
    except (shmqueue.ShmQueueNotInitializedError, shmqueue.ShmQueueDeserializationError):
        pass
    q.shutdown()
print("sound")
"""
    assert run_python(code, name) == "sound\n"


class Closes:
    """An argument whose conversion shuts the queue down."""

    def __init__(self, q: ShmQueue) -> None:
        self.q = q

    def __bool__(self) -> bool:
        self.q.shutdown()
        return True

    def __float__(self) -> float:
        self.q.shutdown()
        return 1.0

    def __index__(self) -> int:
        self.q.shutdown()
        return 1

    def __buffer__(self, flags: int) -> memoryview:
        self.q.shutdown()
        return memoryview(b"x")


@pytest.mark.parametrize("what", ["block of put", "block of get", "timeout of get", "number", "buffer", "buffers"])
def test_an_argument_that_shuts_the_queue_down_is_an_error_and_no_crash(make: Make, what: str) -> None:
    if "buffer" in what and sys.version_info < (3, 12):
        pytest.skip("before Python 3.12 only C code can export a buffer")
    q = make()
    closes, engine = Closes(q), q._engine
    calls: dict[str, Callable[[], object]] = {
        "block of put": lambda: engine.put(0, b"x", closes, None),  # type: ignore[arg-type]
        "block of get": lambda: engine.get(closes, None),  # type: ignore[arg-type]
        "timeout of get": lambda: engine.get(True, closes),  # type: ignore[arg-type]
        "number": lambda: engine.get_many(closes, True, None),  # type: ignore[arg-type]
        "buffer": lambda: engine.put(0, closes, True, None),  # type: ignore[arg-type]
        "buffers": lambda: engine.put_many([(0, closes)], True, None),  # type: ignore[list-item]
    }
    with pytest.raises((shmqueue.ShmQueueNotInitializedError, TypeError)):
        calls[what]()


class Interrupted(Exception):
    """Raised by a signal handler."""


def interrupt(*_: object) -> None:
    raise Interrupted


def test_a_put_that_waits_for_room_in_a_busy_queue_sees_signals(make: Make) -> None:
    q = make(buffer_size=SYSTEM_PAGESIZE)
    q.put_many([b"x" * 100] * 20)
    code = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
print("up", flush=True)
while True:
    q.put(b"x" * 100)
    q.get()
"""
    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    try:
        with python(code, q.identifier) as one, python(code, q.identifier) as two:
            for process in (one, two):
                assert process.stdout is not None
                process.stdout.readline()
            timer.start()
            with pytest.raises(Interrupted):
                q.put(b"x" * (SYSTEM_PAGESIZE - 11))  # needs the whole buffer, which is never free
    finally:
        timer.cancel()
        signal.signal(signal.SIGUSR1, before)


def test_an_early_task_done_and_clear_keep_the_count(make: Make) -> None:
    q = make()
    q.put(1)
    q.task_done()
    q.clear()
    assert q.unfinished_tasks == 0
    q.put(2)
    assert q.unfinished_tasks == 1
    assert not q.join(timeout=0)
    q.task_done()
    assert q.join(timeout=0)
