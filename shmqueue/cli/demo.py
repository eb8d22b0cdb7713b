"""The demonstration: programs that share only a name, and the same work on ``multiprocessing.Queue``.

Both are measured alike, in the consumer, from the first item to the last one, in turns, and the medians are compared.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import shmqueue
from shmqueue import ShmQueue, engine

__all__ = ["DemoError", "run_demo"]

BUFFER_SIZE = 1 << 20  # bytes
DEADLINE = 120.0  # seconds for one round

Progress = Callable[[str, int, int], None]
"""Called with what runs, the items that arrived, and how many there will be."""


class DemoError(Exception):
    """A program of the demonstration failed; the message says which and how."""


def run_demo(items: int, rounds: int, progress: Progress) -> dict[str, Any]:
    """Run both in turns.

    Args:
        items: integers in a round of ShmQueue; ``multiprocessing.Queue`` gets a tenth, for it is a rate that counts.
        rounds: how often each of the two runs.
        progress: told how far it is.

    Raises:
        DemoError: a program ended early, or was too slow.
    """
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(rounds):
        ours.append(_shmqueue_round(items, progress))
        theirs.append(_multiprocessing_round(max(2, items // 10), progress))
    rate, other_rate = _median_rate(ours), _median_rate(theirs)
    return {
        "engine": engine.chosen(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "rounds": rounds,
        "ShmQueue": {"items": items, "items per second": round(rate)},
        "multiprocessing.Queue": {"items": theirs[0]["items"], "items per second": round(other_rate)},
        "ratio": round(rate / other_rate, 1),
        "in order": all(result["in order"] for result in ours + theirs),
    }


def _median_rate(results: list[dict[str, Any]]) -> float:
    return float(statistics.median((result["items"] - 1) / result["seconds"] for result in results))


def _shmqueue_round(items: int, progress: Progress) -> dict[str, Any]:
    name = f"demo-{uuid.uuid4().hex}"
    with ShmQueue(name, buffer_size=BUFFER_SIZE, create=True), ExitStack() as programs:
        consumer = programs.enter_context(_program("consume", name, items))
        producer = programs.enter_context(_program("produce", name, items))
        _expect_ready(consumer, "the consumer")
        _expect_ready(producer, "the producer")
        _go(producer)
        return _follow(consumer, "ShmQueue", items, progress)


def _multiprocessing_round(items: int, progress: Progress) -> dict[str, Any]:
    with _program("multiprocessing", items) as program:
        _expect_ready(program, "the program on multiprocessing.Queue")
        _go(program)
        return _follow(program, "multiprocessing.Queue", items, progress)


@contextmanager
def _program(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A program of its own, which does not outlive the block nor the deadline."""
    found_in = os.path.dirname(os.path.dirname(os.path.abspath(shmqueue.__file__)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([found_in, os.environ.get("PYTHONPATH", "")]).strip(":")}
    process = subprocess.Popen(
        [sys.executable, os.path.join(os.path.dirname(__file__), "demo_worker.py"), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    too_slow = threading.Timer(DEADLINE, process.kill)
    too_slow.start()
    try:
        yield process
        process.wait(DEADLINE)
    finally:
        too_slow.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()


def _expect_ready(process: subprocess.Popen[str], who: str) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        raise DemoError(f"{who} ended with exit status {process.wait()} before it was ready")


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _follow(consumer: subprocess.Popen[str], what: str, items: int, progress: Progress) -> dict[str, Any]:
    assert consumer.stdout is not None
    for line in consumer.stdout:
        if line.startswith("{"):
            result: dict[str, Any] = json.loads(line)
            return result
        progress(what, int(line), items)
    raise DemoError(f"the consumer of {what} ended with exit status {consumer.wait()} and without a result")
