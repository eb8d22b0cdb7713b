"""The last handle that is closed removes the file, whatever has the file open or locked for a moment meanwhile."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from types import FrameType

import pytest
from support import PATIENCE, python

from shmqueue import ShmQueue
from shmqueue.segment import handle as handle_module

Make = Callable[..., ShmQueue]

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.filterwarnings("ignore::ResourceWarning")]


class Interruption(BaseException):
    """What a signal handler raises."""


def test_a_copy_of_the_descriptor_in_a_program_that_is_being_started(name: str, segment_directory: str) -> None:
    """It is there from fork to exec, and is of the same open file description, as any copy is."""
    queue = ShmQueue(name)
    queue.put(1)
    copy = os.dup(queue._segment.fileno())
    try:
        queue.close()
        assert os.listdir(segment_directory) == []
    finally:
        os.close(copy)


def test_such_a_copy_when_this_process_has_forked_before(
    name: str, segment_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = ShmQueue(name)
    queue.put(1)
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    copy = os.dup(queue._segment.fileno())
    monkeypatch.setattr(handle_module, "_PATIENCE", PATIENCE)
    monkeypatch.setattr(handle_module.time, "sleep", lambda _: os.close(copy))  # type: ignore[attr-defined]
    queue.close()
    assert os.listdir(segment_directory) == []


def test_a_process_that_looks_at_the_file(name: str, segment_directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = ShmQueue(name)
    queue.put(1)
    looker = os.open(queue._segment.path, os.O_RDWR)
    real, calls = handle_module.lock_alone, []  # type: ignore[attr-defined]

    def lock_alone(fd: int) -> bool:
        calls.append(fd)
        fcntl.flock(looker, fcntl.LOCK_EX if len(calls) == 1 else fcntl.LOCK_UN)
        return real(fd)

    monkeypatch.setattr(handle_module, "_PATIENCE", PATIENCE)
    monkeypatch.setattr(handle_module, "lock_alone", lock_alone)
    try:
        queue.close()
    finally:
        os.close(looker)
    assert os.listdir(segment_directory) == []


def test_the_lock_of_another_handle_is_not_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = make(), make()

    def sleep(_: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(handle_module.time, "sleep", sleep)  # type: ignore[attr-defined]
    first.put(1)
    first.close()
    assert second.get() == 1


def test_a_forked_child_that_closes_leaves_the_lock_to_its_parent(make: Make) -> None:
    queue = make()
    queue._segment.is_in_use = False  # as while it is being opened: the child closes what it inherited at once
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    queue._segment.is_in_use = True
    assert queue.refs == 1


def interrupted_at(moment: int, call: Callable[[], object]) -> bool:
    """Call something, and raise at one of the moments at which a signal handler may run. False: it has not so many.

    Not within ``logging``: before Python 3.13 that would leave its lock taken, for all tests that follow.
    """
    passed = 0
    elsewhere = os.path.dirname(logging.__file__)

    def look(frame: FrameType, event: str, argument: object) -> None:
        nonlocal passed
        # From 3.15 on __enter__ in C returns like a call, but no handler runs between it and its block.
        is_entered = event == "c_return" and getattr(argument, "__name__", "") == "__enter__"
        is_a_moment = event in ("call", "c_return") and not is_entered
        if is_a_moment and os.path.dirname(frame.f_code.co_filename) != elsewhere:
            passed += 1
            if passed == moment:
                raise Interruption

    sys.setprofile(look)
    try:
        call()
    except Interruption:
        pass
    finally:
        sys.setprofile(None)
    return passed >= moment


def test_an_exception_at_any_moment_of_close_leaves_nothing(
    name: str, segment_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # it interrupts finalizers too
    moment, is_over = 0, False
    while not is_over:
        moment += 1
        queue = ShmQueue(name, logger=logging.getLogger(__name__))
        queue.put(1)
        is_over = not interrupted_at(moment, queue.close)
        queue.close()
        assert queue.closed
        assert os.listdir(segment_directory) == [], moment
    assert moment > 50


def test_a_signal_handler_within_close_may_end_the_process(name: str, segment_directory: str) -> None:
    code = """
import os, sys
from shmqueue import ShmQueue
from shmqueue.segment import handle
queue = ShmQueue(sys.argv[1])
real = handle.Segment.close
def close(segment):
    handle.Segment.close = real
    queue.close()
    os._exit(7)
handle.Segment.close = close
queue.close()
"""
    with python(code, name) as process:
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 7
    assert os.listdir(segment_directory) == []


def test_at_the_end_of_the_process_an_error_of_one_queue_is_not_anothers(name: str, segment_directory: str) -> None:
    code = """
import logging, sys
from shmqueue import ShmQueue
class Logger(logging.Logger):
    def debug(self, message, *arguments):
        if "shutdown" in message:
            raise OSError("the log is gone")
queues = [ShmQueue(sys.argv[1] + str(number), logger=Logger("log") if number < 2 else None) for number in range(4)]
"""
    with python(code, name) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert errors.count("OSError: the log is gone") == 2
    assert os.listdir(segment_directory) == []
