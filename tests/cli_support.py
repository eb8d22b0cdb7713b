"""What the tests of the command line need: the command, run as users run it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from support import PATIENCE, python, wait_for_line

from shmqueue import segment

HERE = os.path.dirname(__file__)
COMMAND = [sys.executable, "-m", "shmqueue.cli"]

HOLD = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1], buffer_size=8192, maxsize=50)
for number in range(int(sys.argv[2])):
    q.put(number)
print("up", flush=True)
sys.stdin.read()
"""


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=HERE,
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        timeout=PATIENCE * 2,
        env={**os.environ, **environment},
    )


def output_of(*arguments: str, stdin: str = "", **environment: str) -> str:
    """The output of a command that succeeds and complains of nothing."""
    done = run(*arguments, stdin=stdin, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def json_of(*arguments: str, status: int = 0) -> Any:
    """What a command with ``--json`` prints."""
    done = run(*arguments, "--json")
    assert (done.returncode, done.stderr) == (status, "")
    return json.loads(done.stdout)


def error_of(*arguments: str, status: int, stdin: str = "") -> str:
    """Run a command that fails with one line on its standard error."""
    done = run(*arguments, stdin=stdin)
    assert done.returncode == status, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def usage_error_of(*arguments: str) -> str:
    """What is wrong with arguments."""
    done = run(*arguments)
    assert done.returncode == 64, done.stdout + done.stderr
    assert done.stderr.startswith("Usage: ")
    return done.stderr.splitlines()[-1]


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, still running; killed at the end if it still runs then."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()
        process.wait()


@contextmanager
def holder(name: str, items: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Another program that has the queue open, with ``items`` integers in it."""
    with python(HOLD, name, items) as process:
        wait_for_line(process, "up")
        yield process
        process.communicate(timeout=PATIENCE)  # at the end of its input it closes the queue


def leave_orphan(name: str, items: int = 3) -> None:
    """Make a queue whose only holder is killed with items in it."""
    with holder(name, items) as process:
        process.kill()
        process.wait()
    assert os.path.exists(segment.path_of(name))


def remove_queue(name: str) -> None:
    """Remove a queue that no process has open."""
    output_of("rm", name)


def path_is_held_by(name: str, count: int) -> bool:
    """Whether ``count`` handles are open on the queue."""
    return len(segment.holders_of(segment.path_of(name))) == count
