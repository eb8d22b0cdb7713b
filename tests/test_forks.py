"""A fork at any moment leaves a child that can use every queue, and that ends."""

from __future__ import annotations

import importlib
import os
import signal
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, Call, asleep, held_by_another_thread, python, repeats, wait_until

from shmqueue import ShmQueue
from shmqueue.segment import holders_of, path_of
from shmqueue.segment.locks import changing

Make = Callable[..., ShmQueue]

FORK_WHILE = """
import os, sys, threading, time, signal, warnings
from shmqueue import ShmQueue
from shmqueue.segment import holders_of, path_of
from shmqueue.compat import multiprocessing as mp, queue

warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
forks, directory = int(sys.argv[1]), os.environ["SHMQUEUE_DIR"]
ctx = mp.get_context("fork")
over = threading.Event()

def loop(turn):
    while not over.is_set():
        turn()

def in_child():
    pass

def fork_and_wait(number):
    child = os.fork()
    if child == 0:
        try:
            in_child()
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        sys.exit()
    deadline = time.monotonic() + 30
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, f"child {number}: status {status}"
            return
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise SystemExit(f"child {number} did not end")
        time.sleep(0.0005)

def fork_while(turn):
    thread = threading.Thread(target=loop, args=[turn])
    thread.start()
    try:
        for number in range(forks):
            fork_and_wait(number)
    finally:
        over.set()
        thread.join()
"""

FORKS = repeats(60)

WHILES = {
    "opens and closes": "fork_while(lambda: ctx.Queue().close())",
    "opens and collects": "fork_while(ctx.SimpleQueue)\nassert os.listdir(directory) == []",
    "opens, puts and closes": """
def turn():
    q = ctx.Queue()
    q.put(1)
    q.get()
    q.close()

fork_while(turn)
""",
    "opens the same queue": """
first = ShmQueue("one")

def turn():
    q = ShmQueue("one")
    q.put(1)
    q.shutdown()

def in_child():
    first.put(2)
    first.get()
    ShmQueue("one").shutdown()

thread = threading.Thread(target=loop, args=[turn])
thread.start()
for number in range(forks):
    fork_and_wait(number)
over.set()
thread.join()
first.clear()
first.shutdown()
assert os.listdir(directory) == []
""",
    "watches": """
def turn():
    q = ctx.SimpleQueue()
    q._reader.fileno()
    q.put(1)
    q.get()
    q.close()

fork_while(turn)
""",
    "watches, and the child uses the queue": """
shared = [ctx.SimpleQueue()]

def turn():
    q = ctx.SimpleQueue()
    shared[0] = q
    q._reader.fileno()
    q.put(1)
    q.get()

def in_child():
    q = shared[0]
    q.put(2)
    assert q.get() in (1, 2)
    assert q._channel._descriptor._watcher is None
    q._reader.fileno()

thread = threading.Thread(target=loop, args=[turn])
thread.start()
for number in range(forks):
    fork_and_wait(number)
over.set()
thread.join()
""",
    "travels": """
import pickle
q = ShmQueue("one")

def turn():
    pickle.loads(pickle.dumps(q)).put(1)
    q.clear()

thread = threading.Thread(target=loop, args=[turn])
thread.start()
for number in range(forks):
    fork_and_wait(number)
over.set()
thread.join()
q.clear()
q.shutdown()
""",
}


@pytest.mark.parametrize("what", WHILES)
def test_a_child_ends_that_was_forked_while_a_thread(engine: str, what: str) -> None:
    with python(FORK_WHILE + WHILES[what], FORKS) as process:
        output, errors = process.communicate(timeout=3 * PATIENCE)
    assert (process.returncode, output, errors) == (0, "", "")


def test_processes_of_multiprocessing_end_that_were_started_while_a_thread_makes_queues(engine: str) -> None:
    code = """
def nothing(): pass

def start(turn):
    thread = threading.Thread(target=loop, args=[turn])
    thread.start()
    for number in range(forks):
        process = ctx.Process(target=nothing)
        process.start()
        process.join(30)
        if process.exitcode != 0:
            process.kill()
            raise SystemExit(f"process {number}: exit code {process.exitcode}")
    over.set()
    thread.join()

start(lambda: ctx.Queue().close())
"""
    with python(FORK_WHILE + code, FORKS) as process:
        output, errors = process.communicate(timeout=3 * PATIENCE)
    assert (process.returncode, output, errors) == (0, "", "")


def test_a_child_does_not_hold_what_its_parent_was_just_closing(engine: str) -> None:
    """A child that lives on keeps no lock of queues that its parent opens and closes, and nothing when it is gone."""
    code = """
children = []

def turn():
    ShmQueue("short").shutdown()

thread = threading.Thread(target=loop, args=[turn])
thread.start()
for _ in range(forks):
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    children.append(child)
    for _ in range(1000):
        if thread.is_alive():
            break
over.set()
thread.join(30)
hangs = thread.is_alive()
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
assert not hangs, "opening waits for a lock that a child has"
ShmQueue("short").shutdown()  # a child that was forked while it was open has had it, too, and has not closed it
assert os.listdir(directory) == []
"""
    with python(FORK_WHILE + code, 20) as process:
        output, errors = process.communicate(timeout=3 * PATIENCE)
    assert (process.returncode, output, errors) == (0, "", "")


def test_a_storm_of_forks_leaves_neither_queues_nor_lock_files(engine: str) -> None:
    """Many children at once, each with copies of what some threads were just making, using and closing."""
    code = """
def turn():
    q = ctx.Queue()
    q.put(1)
    q.get()
    q.close()

turn()
threads = [threading.Thread(target=loop, args=[turn]) for _ in range(4)]
for thread in threads:
    thread.start()
children = []
for number in range(forks):
    child = os.fork()
    if child == 0:
        time.sleep(0.002 * (number % 7))
        sys.exit()
    children.append(child)
over.set()
for thread in threads:
    thread.join()
assert {os.waitpid(child, 0)[1] for child in children} == {0}
assert os.listdir(directory) == []
"""
    with python(FORK_WHILE + code, 100) as process:
        output, errors = process.communicate(timeout=3 * PATIENCE)
    assert (process.returncode, output, errors) == (0, "", "")


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
def test_the_lock_of_the_readers_is_free_in_a_child(engine: str, kind: str) -> None:
    """It is one of this process only: a thread that has it does not exist in the child."""
    mp = importlib.import_module("shmqueue.compat.multiprocessing")
    q = getattr(mp.get_context("fork"), kind)()
    with held_by_another_thread(q._rlock):
        child = os.fork()
        if child == 0:
            signal.alarm(int(PATIENCE))
            with q._rlock:
                os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    q.close()


def test_a_child_does_not_hold_what_is_just_being_collected(engine: str, name: str) -> None:
    """Its copy of the handle is unreachable, so that nothing would close it at its end."""
    ends: list[int] = []

    def fork(_: object) -> None:  # called before the finalizer that closes the queue, which is the older one
        child = os.fork()
        if child == 0:
            os._exit(os.getpid() in holders_of(path))
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    q = ShmQueue(name)
    path = path_of(name)
    dying = weakref.ref(q._handle, fork)
    del q
    assert dying() is None
    assert ends == [0]


class TestDescriptorsForAWhile:
    """Those that a queue opens for a moment, beside the one that it keeps."""

    def test_a_fork_waits_while_a_queue_is_mapped(self, make: Make, engine: str) -> None:
        q, inside = make(), [True]
        with changing(), q._segment.descriptor_to_map():
            forking = asleep(Call(fork_and_tell, lambda: inside[0]))
            inside[0] = False
        assert forking.result() == 0

    def test_a_child_has_none_of_memory_that_a_thread_was_reserving(self, make: Make, engine: str) -> None:
        q = make()
        found: list[int] = []

        def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
            number = marked(arguments)
            assert is_marked(number)
            found.append(Call(fork_and_tell, lambda: is_marked(number)).result())
            return function(*arguments)

        q._segment.reserve(8192, 0, call)
        assert found == [0]

    def test_a_child_that_goes_on_with_it_has_it(self, make: Make, engine: str) -> None:
        """A signal handler forks, and the child returns from it."""
        q = make()
        found: list[int] = []

        def call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
            number = marked(arguments)
            found.append(fork_and_tell(lambda: is_marked(number)))
            return function(*arguments)

        q._segment.reserve(8192, 0, call)
        assert found == [1]


MARK = 5


def marked(arguments: tuple[Any, ...]) -> int:
    """The descriptor among the arguments of a call, whose description can be told from others from now on."""
    number = next(argument for argument in arguments if isinstance(argument, int))
    os.lseek(number, MARK, os.SEEK_SET)
    return number


def is_marked(number: int) -> bool:
    try:
        return os.lseek(number, 0, os.SEEK_CUR) == MARK
    except OSError:
        return False


def fork_and_tell(what: Callable[[], bool]) -> int:
    """What a child forked now finds."""
    child = os.fork()
    if child == 0:
        os._exit(what())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_descriptors_may_be_asked_for_while_others_are_waited_for(engine: str) -> None:
    """What watches is kept in a set that one thread changes while another one goes through it."""
    mp = importlib.import_module("shmqueue.compat.multiprocessing")
    waited = mp.SimpleQueue()
    waited._reader.fileno()
    over = threading.Event()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            while not over.is_set():
                mp.connection.wait([waited._reader], 0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=wait) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(60):
        q = mp.SimpleQueue()
        q._reader.fileno()
        q.close()
    over.set()
    for thread in threads:
        thread.join()
    waited.close()
    assert failed == []


def test_a_fork_does_not_wait_for_a_blocked_call(make: Make, engine: str) -> None:
    q = make()
    thread = threading.Thread(target=q.get)
    thread.start()
    wait_until(lambda: q.stats.waiting if hasattr(q, "stats") else True, "it waits")
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    q.put(1)
    thread.join(PATIENCE)
    assert not thread.is_alive()
