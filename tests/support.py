"""What several test modules need: child interpreters that always end, and waiting on conditions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from shmqueue import ShmQueue

PATIENCE = 30.0  # seconds after which a condition counts as never true; far more than any step needs


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as the condition holds; fail when it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.001)


@contextmanager
def python(code: str, *arguments: object, executable: str = sys.executable) -> Iterator[subprocess.Popen[str]]:
    """An interpreter of its own that runs ``code``; killed at the end if it still runs.

    It starts in another directory, so that it finds the installed package and not a source tree.
    """
    process = subprocess.Popen(
        [executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=os.path.dirname(__file__),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def run_python(code: str, *arguments: object, executable: str = sys.executable) -> str:
    """Run ``code`` to its end and return what it printed; fail if it failed."""
    with python(code, *arguments, executable=executable) as process:
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, f"exit status {process.returncode}\n{output}\n{errors}"
        return output


def is_asleep(pid: int) -> bool:
    """Whether the kernel has the process's main thread waiting for something."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- what child processes of multiprocessing run: they import it from here ----


def answer(questions: ShmQueue, answers: ShmQueue) -> None:
    for question in iter(questions.get, None):
        answers.put((question, question * 2))


def wait_for_parent(q: ShmQueue) -> None:
    q.put("up")
    while q.refs != 1:
        time.sleep(0.001)
    assert q.get() == "go"


def to_bytes(method: int, data: str) -> bytes:
    return data.encode()


def from_bytes(method: int, chunks: list[bytes]) -> str:
    return b"".join(chunks).decode()
