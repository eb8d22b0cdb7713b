"""Trials, each in a child process: what kills one or hangs it is a fault, and not the end of the group."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
import traceback
from collections.abc import Callable

from .busy import at_least
from .outcome import Options, Outcome

__all__ = ["PATIENCE", "Hung", "Notes", "ask", "run_trial", "run_until_hung"]

PATIENCE = at_least(60.0)  # seconds after which a trial counts as hung; far more than any needs


class Hung(Exception):
    """A trial did not end, which is a fault that is noted already."""


def run_until_hung(try_all: Callable[[Options, Outcome], None], options: Options) -> Outcome:
    """What trials come to; after one that hung none is tried: its fault is noted, and nothing else has to wait."""
    outcome = Outcome()
    with contextlib.suppress(Hung):
        try_all(options, outcome)
    return outcome


class Notes:
    """What a trial has to say, written at once: its process may be killed at any moment."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def count(self, what: str, more: int = 1) -> None:
        """Add to a figure."""
        self._write({"count": what, "more": more})

    def fault(self, sentence: str) -> None:
        self._write({"fault": sentence})

    def say(self, sentence: str) -> None:
        """Hand a sentence to the process that runs the trial."""
        self._write({"say": sentence})

    def require(self, condition: object, sentence: str) -> None:
        """Note a fault unless the condition holds."""
        if not condition:
            self.fault(sentence)

    def _write(self, note: dict[str, object]) -> None:
        os.write(self._fd, json.dumps(note).encode() + b"\n")


def run_trial(outcome: Outcome, what: str, trial: Callable[[Notes], None], patience: float = PATIENCE) -> list[str]:
    """Run a trial in a forked child and add what it notes to the outcome. All that it starts ends with it.

    Returns what it said.

    Raises:
        Hung: it was not over after ``patience`` seconds.
    """
    output, status = _in_child(lambda fd: trial(Notes(fd)), patience)
    said = []
    for line in output[: output.rfind(b"\n") + 1].splitlines():  # a killed process may leave half a line
        note = json.loads(line)
        if "fault" in note:
            outcome.fault(f"{what}: {note['fault']}")
        elif "say" in note:
            said.append(note["say"])
        else:
            outcome.count(note["count"], note["more"])
    if status is None:
        outcome.fault(f"{what}: not over after {patience:.0f} s")
        raise Hung(what)
    if status < 0:
        outcome.fault(f"{what}: the process died of {signal.Signals(-status).name}")
    elif status:
        outcome.fault(f"{what}: the process ended with {status}")
    return said


def ask(question: Callable[[], str]) -> str:
    """The answer of a forked child, or how it failed."""
    answer, status = _in_child(lambda fd: os.write(fd, question().encode()), PATIENCE)
    return answer.decode() if status == 0 else f"the process ended with {status}: {answer.decode()}"


def _in_child(action: Callable[[int], object], patience: float) -> tuple[bytes, int | None]:
    """What the action wrote to the descriptor that it is called with, and how the child ended; None, it had to be."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(reading, writing, action)
    os.close(writing)
    ended = False
    try:
        output, ended = _read_to_end(reading, time.monotonic() + patience)
    finally:
        os.close(reading)
        status = _end(pid, ended)
    return output, status if ended else None


def _be_child(reading: int, writing: int, action: Callable[[int], object]) -> None:
    status = 1
    try:
        os.setpgid(0, 0)
        os.close(reading)
        action(writing)
        status = 0
    except BaseException:
        os.write(writing, json.dumps({"fault": traceback.format_exc()}).encode() + b"\n")
    finally:
        os._exit(status)


def _read_to_end(fd: int, deadline: float) -> tuple[bytes, bool]:
    chunks: list[bytes] = []
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return b"".join(chunks), False
        chunk = os.read(fd, 1 << 16)
        if not chunk:
            return b"".join(chunks), True
        chunks.append(chunk)


def _end(pid: int, by_itself: bool) -> int:
    """Let a child end, by itself or not, and with it all that it started."""
    if not by_itself:
        os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # its number stays its own until it is waited for again
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
