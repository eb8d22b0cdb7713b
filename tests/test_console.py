"""Handles closed on signals, and the process still ends as the signal says."""

from __future__ import annotations

import os
import signal

import pytest
from support import PATIENCE, is_asleep, python, wait_until

import shmqueue

pytestmark = pytest.mark.usefixtures("engine")

RUN = """
import signal, sys, shmqueue
{before}
q = shmqueue.ShmQueue(sys.argv[1])
q.set_console_handlers(register_atexit=True)
q.set_console_handlers()
{after}
print("up", flush=True)
{blocked}
"""


def end_with(number: int, name: str, before: str = "", after: str = "", blocked: str = "q.get()") -> tuple[int, str]:
    with python(RUN.format(before=before, after=after, blocked=blocked), name) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        wait_until(lambda: is_asleep(process.pid), "it is blocked")  # on its way there it could miss a signal
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, first + output + errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("blocked", ["q.get()", "sys.stdin.read()"])
def test_a_signal_ends_the_process_as_it_says_and_frees_the_memory(
    name: str, segment_directory: str, number: int, blocked: str
) -> None:
    assert end_with(number, name, blocked=blocked)[0] == -number
    assert os.listdir(segment_directory) == []


def test_ctrl_c_still_raises_keyboard_interrupt(name: str, segment_directory: str) -> None:
    status, output = end_with(signal.SIGINT, name)
    assert status == -signal.SIGINT
    assert "KeyboardInterrupt" in output
    assert os.listdir(segment_directory) == []


def test_the_handler_that_was_there_runs_afterwards(name: str, segment_directory: str) -> None:
    before = "signal.signal(signal.SIGTERM, lambda *_: (print(q), sys.exit(7)))"
    status, output = end_with(signal.SIGTERM, name, before=before, blocked="sys.stdin.read()")
    assert status == 7
    assert "closed" in output
    assert os.listdir(segment_directory) == []


def test_who_ignores_a_signal_goes_on_with_its_queue(name: str, segment_directory: str) -> None:
    before = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    after = "signal.raise_signal(signal.SIGHUP); q.put('alive'); print(q.get(), flush=True)"
    status, output = end_with(signal.SIGTERM, name, before=before, after=after)
    assert status == -signal.SIGTERM
    assert output.startswith("alive\n")
    assert os.listdir(segment_directory) == []


def test_set_console_handlers_needs_an_open_queue(name: str) -> None:
    q = shmqueue.ShmQueue(name)
    q.shutdown()
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        q.set_console_handlers()
