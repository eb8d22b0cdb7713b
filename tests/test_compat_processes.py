"""What goes through ``multiprocessing``'s queues, and in which processes: reducers, logging, signals.

Fixtures as in ``test_compat_multiprocessing.py``.

Fails if: something that goes through the original, or a process that uses it, does not work with ours.
"""

from __future__ import annotations

import functools
import logging.handlers
import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import os
import pickle
import queue
import signal
import socket
import threading
from multiprocessing.reduction import ForkingPickler
from typing import Any

import children
import pytest
from support import PATIENCE, START_METHODS, Opener, is_asleep, run_python, running, succeed, wait_until

# ---- reducers ----


def test_a_connection_goes_through_a_queue(context: Opener) -> None:
    q = context.Queue()
    mine, theirs = context.Pipe()
    child = context.Process(target=children.say_hello_through, args=(q,))
    with running(child), mine, theirs:
        q.put(theirs)
        assert mine.poll(PATIENCE)
        assert mine.recv() == "hello"
        succeed(child)


def test_what_multiprocessing_can_pickle_goes_through(mp: Opener) -> None:
    q = mp.Queue()
    item: Any
    for item in (functools.partial(int, base=7), "text".upper, str.lower, {}.get):
        q.put(item)
        received = q.get(timeout=PATIENCE)
        assert type(received) is type(item)
    one, other = socket.socketpair()
    with one, other:
        q.put(one)
        with q.get(timeout=PATIENCE) as received:
            received.sendall(b"x")
            assert other.recv(1) == b"x"


class Opaque:
    """Plain pickle refuses it; a reducer of multiprocessing's makes it go."""

    def __reduce__(self) -> Any:
        raise TypeError("no")


def test_a_registered_reducer_is_used_even_when_it_comes_late(mp: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    q = mp.Queue()
    q.put({1})
    assert q.get() == {1}
    monkeypatch.setitem(ForkingPickler._extra_reducers, Opaque, lambda opaque: (str, ("reduced",)))  # type: ignore[attr-defined]
    q.put([Opaque()])
    assert q.get(timeout=PATIENCE) == ["reduced"]


def test_shared_values_go_to_children_and_not_through_queues(
    our_context: Opener, capfd: pytest.CaptureFixture[str]
) -> None:
    value, array = our_context.Value("i", 7), our_context.RawArray("i", 3)
    original: Any = multiprocessing.Queue()
    original.put(value)
    original.close()
    original.join_thread()
    assert "should only be shared between processes through inheritance" in capfd.readouterr().err
    q = our_context.Queue()
    for item in (value, array):
        with pytest.raises(RuntimeError, match="through inheritance"):
            q.put(item)
    assert q.empty()
    child = our_context.Process(target=children.add_to, args=(q, value, array))
    with running(child):
        q.put(5)
        succeed(child)
    assert (value.value, list(array)) == (12, [5, 0, 0])


# ---- what cannot be pickled ----


def test_the_original_loses_what_it_cannot_pickle(capfd: pytest.CaptureFixture[str]) -> None:
    q: Any = multiprocessing.Queue()
    q.put(lambda: None)
    q.put("next")
    assert q.get(timeout=PATIENCE) == "next"
    q.close()
    q.join_thread()
    assert "Traceback" in capfd.readouterr().err


class Refuses:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_what_cannot_be_pickled_raises_in_put_and_nothing_is_put(our_mp: Opener, kind: str) -> None:
    q = getattr(our_mp, kind)()
    for item in (lambda: None, threading.Lock(), (n for n in "")):
        with pytest.raises((TypeError, AttributeError, pickle.PicklingError)) as plain:
            ForkingPickler.dumps(item)
        with pytest.raises(plain.type) as refused:
            q.put(item)
        assert str(refused.value) == str(plain.value)
    for error in (AttributeError("mine"), ZeroDivisionError(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            q.put([1, {"x": Refuses(error)}])
        assert raised.value is error
    assert q.empty()
    q.put((1,))
    assert q.get() == (1,)
    if kind == "JoinableQueue":
        q.task_done()
        q.join()


def blow_up(text: str) -> None:
    raise ZeroDivisionError(text)


class BlowsUp:
    def __reduce__(self) -> Any:
        return blow_up, ("on arrival",)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_what_cannot_be_loaded_raises_in_get_and_is_gone(mp: Opener, kind: str) -> None:
    q = getattr(mp, kind)()
    q.put(BlowsUp())
    q.put("next")
    with pytest.raises(ZeroDivisionError, match=r"^on arrival$"):
        q.get()
    assert q.get() == "next"


# ---- where queues go ----


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_queue_is_passed_as_an_argument_and_nested_in_objects(context: Opener, kind: str) -> None:
    forth, back = getattr(context, kind)(), getattr(context, kind)()
    order = children.Order(7, {"forth": [forth], "back": [back]})
    child = context.Process(target=children.serve, kwargs={"order": order})
    with running(child):
        forth.put({"question": (1, 2)})
        assert back.get() == (7, {"question": (1, 2)})
        succeed(child)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_global_queue_is_inherited_by_fork(mp: Opener, kind: str) -> None:
    fork = mp.of("fork")
    q = children.INHERITED["q"] = getattr(fork, kind)()
    try:
        workers = [fork.Process(target=children.put_into_inherited) for _ in range(2)]
        with running(*workers):
            assert [q.get(), q.get()] == ["inherited"] * 2
            succeed(*workers)
    finally:
        del children.INHERITED["q"]


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_a_queue_is_sent_through_another_queue(our_context: Opener, kind: str) -> None:
    carrier, q = our_context.Queue(), getattr(our_context, kind)()
    child = our_context.Process(target=children.receive_queue, args=(carrier,))
    with running(child):
        carrier.put(q)
        assert q.get() == ["through", {"another": "queue"}]
        succeed(child)


def test_a_queue_of_the_original_is_passed_to_children_only(capfd: pytest.CaptureFixture[str]) -> None:
    original: Any = multiprocessing.Queue()
    with pytest.raises(RuntimeError, match="through inheritance"):
        pickle.dumps(original)
    original.close()


def test_a_queue_can_be_pickled_anywhere(our_mp: Opener) -> None:
    for kind in ("Queue", "JoinableQueue", "SimpleQueue"):
        q = getattr(our_mp, kind)()
        copy = pickle.loads(pickle.dumps(q))
        assert type(copy) is type(q)
        copy.put(kind)
        assert q.get() == kind
        copy.close()


def test_a_queue_goes_on_after_the_process_that_made_it_has_ended(our_context: Opener, segment_directory: str) -> None:
    carrier, method = our_context.Queue(), our_context.get_start_method()
    child = our_context.Process(target=children.make_queue_and_leave, args=(carrier, segment_directory, method))
    with running(child):
        q = carrier.get(timeout=PATIENCE)
        assert q.get(timeout=PATIENCE) == "from one that left"
        succeed(child)
    assert q.get(timeout=PATIENCE) == "and more"
    q.put((1,))
    grandchild = our_context.Process(target=children.answer, args=(q, carrier))
    with running(grandchild):
        assert carrier.get(timeout=PATIENCE) == (1,)
        q.put(None)
        succeed(grandchild)
    q.close()


# ---- mutation ----


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_an_object_changed_after_put_arrives_as_it_was(our_mp: Opener, kind: str) -> None:
    q = getattr(our_mp, kind)()
    items: list[Any] = [[1, 2], {"a": [1]}, {1, 2}, bytearray(b"abc"), children.Order(1, {"x": [2]})]
    for item in items:
        q.put(item)
    items[0].append(3)
    items[1]["a"].append(2)
    items[2].clear()
    items[3][:] = b"xyz!"
    items[4].ways["x"].append(3)
    expected = [[1, 2], {"a": [1]}, {1, 2}, bytearray(b"abc"), children.Order(1, {"x": [2]})]
    received = [q.get() for _ in items]
    assert received == expected
    assert list(map(type, received)) == list(map(type, expected))


# ---- terminated processes ----


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_daemons_that_are_terminated_in_a_call_leave_the_queue_intact(
    our_context: Opener, kind: str, end: signal.Signals
) -> None:
    q, idle, report = getattr(our_context, kind)(), getattr(our_context, kind)(), our_context.Queue()
    survivor = our_context.Process(target=children.count_to_none, args=(q, report))
    with running(survivor):
        for _ in range(2):
            puts = our_context.RawValue("L")
            putter = our_context.Process(target=children.put_for_ever, args=(q, puts), daemon=True)
            getter = our_context.Process(target=children.get_for_ever, args=(idle,), daemon=True)
            with running(putter, getter):
                idle.put("one")
                wait_until(lambda: idle.empty() and is_asleep(getter.pid), "the victim waits")  # noqa: B023
                wait_until(lambda: puts.value > 100, "the victim puts")  # noqa: B023
                for victim in (putter, getter):
                    os.kill(victim.pid, end)
                    victim.join(PATIENCE)
                    assert victim.exitcode == -end
        q.put((1, b""))
        q.put(None)
        count, _ = report.get(timeout=PATIENCE)
        assert count > 200
        succeed(survivor)
    idle.put("still here")
    assert idle.get() == "still here"


# ---- logging ----


class Recorder(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()}")


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
def test_log_records_go_through_a_queue(context: Opener, kind: str) -> None:
    q, recorder = getattr(context, kind)(), Recorder()
    listener = logging.handlers.QueueListener(q, recorder)
    workers = [context.Process(target=children.log_through, args=(q, name, 50)) for name in "ab"]
    listener.start()
    try:
        with running(*workers):
            succeed(*workers)
    finally:
        listener.stop()
    for name in "ab":
        of_one = [message for message in recorder.messages if message.startswith(name)]
        assert of_one == [f"{name}: message {number}" for number in range(50)]
    if kind == "JoinableQueue":
        q.join()


@pytest.mark.parametrize("method", START_METHODS)
def test_log_records_go_through_the_adapter_of_queue(engine: str, method: str) -> None:
    from shmqueue.compat.queue import Queue

    q: Queue[Any] = Queue()
    recorder = Recorder()
    listener = logging.handlers.QueueListener(q, recorder)
    context: Any = multiprocessing.get_context(method)
    worker = context.Process(target=children.log_through, args=(q, "a", 50))
    listener.start()
    try:
        with running(worker):
            succeed(worker)
    finally:
        listener.stop()
    assert recorder.messages == [f"a: message {number}" for number in range(50)]
    assert q.unfinished_tasks == 0
    q.close()


# ---- a data loader ----


def test_a_data_loader_with_workers_and_prefetching_works(context: Opener) -> None:
    done, batches = context.Event(), context.Queue()
    indices, workers = [], []
    for _ in range(2):
        of_one = context.Queue()
        of_one.cancel_join_thread()
        indices.append(of_one)
        workers.append(context.Process(target=children.load_data, args=(of_one, batches, done), daemon=True))
    with running(*workers):
        for index in range(20):
            indices[index % 2].put(index)
        loaded = dict(batches.get(timeout=PATIENCE) for _ in range(20))
        assert loaded == {index: [index * 10 + step for step in range(10)] for index in range(20)}
        with pytest.raises(queue.Empty):
            batches.get(timeout=0.01)
        indices[0].put(20)  # one that nobody will ask for
        wait_until(lambda: not batches.empty(), "the last batch is there")
        done.set()
        batches.cancel_join_thread()
        batches.close()
        for of_one in indices:
            of_one.put(None)
        succeed(*workers)
        for of_one in indices:
            of_one.cancel_join_thread()
            of_one.close()


# ---- signal handlers ----


@pytest.mark.parametrize("kind", ["queue.Queue", "Queue", "JoinableQueue", "SimpleQueue"])
def test_a_signal_handler_puts_in_the_middle_of_a_put(engine: str, kind: str) -> None:
    code = f"""
import itertools, signal, threading
from shmqueue.compat import multiprocessing as mp, queue
q = {kind if "." in kind else "mp." + kind}()
got = []
def take():
    for item in iter(q.get, None):
        got.append(item[:2])
taker = threading.Thread(target=take)
taker.start()
handled, depth, over = itertools.count(), 0, False
def handler(*_):
    global mine, depth
    if over:
        return
    mine = this = next(handled)
    depth += 1
    if depth < 3:
        signal.setitimer(signal.ITIMER_REAL, 0.00003)  # so that it interrupts this put, too
    q.put(("handler", this, [1] * (this % 50)))
    depth -= 1
signal.signal(signal.SIGALRM, handler)
mine = number = 0
while mine < 600:
    number += 1
    signal.setitimer(signal.ITIMER_REAL, 0.00001 + number % 40 * 0.000005)
    q.put(("main", number, {{"x": [number] * (number % 300)}}))
    q.put(("main", -number, None))
over = True
q.put(None)
taker.join()
assert [n for name, n in got if name == "main"] == [n * sign for n in range(1, number + 1) for sign in (1, -1)]
assert sorted(n for name, n in got if name == "handler") == list(range(next(handled)))
print("sound")
"""
    assert run_python(code) == "sound\n"


# ---- forks ----


@pytest.mark.skipif(not hasattr(os, "register_at_fork"), reason="there is no fork here")
def test_a_queue_collected_right_after_a_fork_does_not_wait_for_the_parents_threads(engine: str, name: str) -> None:
    code = """
import gc, os, signal, sys, threading, time
os.register_at_fork(after_in_child=gc.collect)  # before the package's own hooks, as the collector may in any hook
from shmqueue import ShmQueue
gc.disable()
q = ShmQueue(sys.argv[1])
threading.Thread(target=q._engine.get, args=(True, 30), daemon=True).start()
while not q.statistics().waiting:
    time.sleep(0.001)
cycle = [q]
cycle.append(cycle)
del q, cycle
child = os.fork()
if not child:
    os._exit(0)
deadline = time.monotonic() + 10
while os.waitpid(child, os.WNOHANG) == (0, 0):
    if time.monotonic() > deadline:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print("the child hung")
        break
    time.sleep(0.001)
print("over")
"""
    assert run_python(code, name) == "over\n"
