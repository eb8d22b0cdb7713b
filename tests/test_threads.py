"""What ``shmqueue.threads`` has for handles that several threads use, and that are forked meanwhile."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import PATIENCE, Call, held_by_another_thread, run_python

from shmqueue import threads
from shmqueue.threads import Guard, WeakRegistry


class TestGuard:
    """``shmqueue.threads.Guard``."""

    def test_one_thread_at_a_time_has_it_and_may_have_it_twice(self) -> None:
        guard, inside = Guard(), []

        def enter() -> None:
            for _ in range(200):
                with guard(), guard():
                    inside.append(1)
                    assert len(inside) == 1
                    time.sleep(0)
                    inside.pop()

        threads = [threading.Thread(target=enter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def test_it_is_free_in_a_child(self) -> None:
        guard = Guard()
        with held_by_another_thread(guard()):
            child = os.fork()
            if child == 0:
                signal.alarm(int(PATIENCE))
                with guard():
                    os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    def test_the_exception_of_a_signal_handler_on_the_way_in_or_out_leaves_it_free(self) -> None:
        code = """
from support import interruptions
from shmqueue.threads import Guard

guard = Guard()

def enter_and_leave():
    with guard():
        pass

for number in interruptions(enter_and_leave, 200):
    assert not guard()._is_owned(), number
"""
        run_python(code)

    @pytest.mark.parametrize("moment", ["before", "after_in_parent"])
    def test_a_fork_that_a_signal_interrupts_leaves_it(self, moment: str) -> None:
        """The handler is called by the first Python code that runs then, and raises in it."""
        code = """
import ctypes, os, signal, sys, threading
from functools import partial
from shmqueue.threads import Guard, forks_wait

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGUSR1, interrupt)
sys.unraisablehook = lambda raised: None  # that of a hook which is interrupted before it has begun
send = partial(ctypes.PyDLL(None).kill, os.getpid(), signal.SIGUSR1)  # os.kill() calls the handler itself
guard = Guard()
if sys.argv[1] == "before":
    forks_wait(guard)
    os.register_at_fork(before=send)  # the last to be registered is the first to be called
else:
    os.register_at_fork(after_in_parent=send)
    forks_wait(guard)
try:
    child = os.fork()
    if child == 0:
        os._exit(0)
except KeyboardInterrupt:
    child = -1
os.waitpid(child, 0)
free = []
thread = threading.Thread(target=lambda: free.append(guard().acquire(timeout=1)))
thread.start()
thread.join()
print(free)
"""
        assert run_python(code, moment) == "[True]\n"

    def test_a_guard_that_is_not_left_in_time_is_not_left_by_the_fork(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(threads, "_FORK_PATIENCE", 0.01)
        guard = Guard()
        threads.forks_wait(guard)
        with held_by_another_thread(guard()):
            child = os.fork()
            if child == 0:
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert not guard().acquire(False)
        with guard():
            child = os.fork()
            if child == 0:
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            assert guard()._is_owned()  # type: ignore[attr-defined]
        assert not guard()._is_owned()  # type: ignore[attr-defined]

    def test_the_end_of_the_interpreter_does_not_wait_for_a_daemon_thread(self) -> None:
        code = """
import os, sys, threading, types
from shmqueue.threads import Guard
guard, entered = Guard(), threading.Event()

def hold():
    with guard():
        entered.set()
        while True:
            pass

class AtTheEnd:
    def __del__(self, guard=guard, write=os.write, is_finalizing=sys.is_finalizing):
        assert is_finalizing()
        with guard():
            write(1, b"got it")

threading.Thread(target=hold, daemon=True).start()
entered.wait()
sys.modules["last"] = types.ModuleType("last")
sys.modules["last"].last = AtTheEnd()
"""
        assert run_python(code) == "got it"


def test_a_guard_of_an_earlier_process_with_the_same_id_is_not_the_childs() -> None:
    guard = Guard()
    with guard():
        child = os.fork()
        if child == 0:
            os._exit(len(guard._locks))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(guard._locks) == 1


def test_a_daemon_thread_runs_when_it_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Python 3.10 one that has not begun at the end of the interpreter crashes it."""
    started: list[Callable[[], None]] = []
    monkeypatch.setattr(threads._real_thread, "start_new_thread", lambda run, arguments: started.append(run))  # type: ignore[attr-defined]
    call = Call(threads.start_daemon_thread, bool)
    call.join(1.0)
    assert call.is_alive(), "it did not wait for the thread"
    started[0]()
    call.result()


def test_a_registry_may_change_while_one_looks_at_it() -> None:
    """Unlike a WeakSet, which raises RuntimeError then."""

    class Member:
        pass

    registry: WeakRegistry[Any] = WeakRegistry()
    kept = [Member() for _ in range(100)]
    for member in kept:
        registry.add(member)
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            registry.add(member := Member())
            del member

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(2000):
            assert {id(member) for member in kept} <= {id(member) for member in registry}
    finally:
        over.set()
        thread.join()
    assert sorted(map(id, registry)) == sorted(map(id, kept))
    registry.discard(kept[0])
    registry.discard(kept[0])
    assert sorted(map(id, registry)) == sorted(map(id, kept[1:]))
