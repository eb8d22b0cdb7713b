"""The pairs of processes that the demo measures: a producer and a consumer, how to talk to them, how to end them.

Both kinds of pair are handled alike: a child says ``"ready"`` when its interpreter has started, the producer then waits
for ``go``, and the consumer's last message is its ``Outcome``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from shmqueue import ShmQueue
from shmqueue.cli import demo_multiprocessing

__all__ = ["BUFFER_SIZE", "Child", "Pair", "multiprocessing_pair", "queue_name", "shmqueue_pair"]

BUFFER_SIZE = 1 << 20

_RUN_MODULE = """\
import sys
sys.path[:] = sys.argv.pop(1).split("\\n")
import runpy
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""``python -m`` with this process's module path, as multiprocessing gives it to its children: started in a source tree,
plain ``-m`` would find the package there and not the installed one."""


class Child(Protocol):
    """A process that this one started. ``role`` says in messages which one it is."""

    role: str

    def receive(self, timeout: float) -> Any:
        """The next message, None if there is none within ``timeout`` seconds."""

    def go(self) -> None:
        """Tell it to begin."""

    def wait(self, timeout: float) -> int | None:
        """Its exit status, None if it still runs after ``timeout`` seconds; negative, the signal that ended it."""

    def end(self) -> None:
        """Kill it, if it still runs, and wait for that."""


@dataclass(frozen=True)
class Pair:
    """A consumer and a producer. ``taken`` tells how many items have arrived so far."""

    consumer: Child
    producer: Child
    taken: Callable[[], int]


def queue_name() -> str:
    """The name that the demo's two programs share."""
    return f"demo-{os.getpid()}"


@contextmanager
def shmqueue_pair(items: int) -> Iterator[Pair]:
    """Two separate programs, which get a name and nothing else."""
    with ShmQueue(queue_name(), create=True, buffer_size=BUFFER_SIZE) as shared, ExitStack() as ends:
        ends.callback(shared.unlink)  # what is left in it then is nobody's loss
        with _ctrl_c_is_for_the_parent():
            consumer = _Program("consumer", items)
            ends.callback(consumer.end)
            producer = _Program("producer", items)
            ends.callback(producer.end)
        yield Pair(consumer, producer, taken=lambda: shared.statistics().gets)


@contextmanager
def multiprocessing_pair(items: int) -> Iterator[Pair]:
    """Two children of this process, which inherit a multiprocessing.Queue as it is by default."""
    context = multiprocessing.get_context("spawn")
    shared: multiprocessing.Queue[int] = context.Queue()
    taken = context.Value("Q", lock=False)
    with ExitStack() as ends:
        ends.callback(shared.close)
        with _ctrl_c_is_for_the_parent():
            consumer = _Worker(context, "consumer", demo_multiprocessing.run_consumer, shared, items, taken)
            ends.callback(consumer.end)
            producer = _Worker(context, "producer", demo_multiprocessing.run_producer, shared, items)
            ends.callback(producer.end)
        yield Pair(consumer, producer, taken=lambda: int(taken.value))


@contextmanager
def _ctrl_c_is_for_the_parent() -> Iterator[None]:
    """Start children with SIGINT blocked: the terminal sends it to all, and this process ends them itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Program:
    """A child that runs a module of its own; messages are lines of JSON on its standard output."""

    def __init__(self, role: str, items: int) -> None:
        self.role = role
        arguments = [f"shmqueue.cli.demo_{role}", queue_name(), str(items)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RUN_MODULE, "\n".join(sys.path), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._messages.put(json.loads(line))

    def receive(self, timeout: float) -> Any:
        try:
            return self._messages.get(timeout=timeout)
        except queue.Empty:
            return None

    def go(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has died, which wait() will tell

    def wait(self, timeout: float) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass  # what was still to be written has no reader any more


class _Worker:
    """A child of multiprocessing; messages go through a pipe of its own."""

    def __init__(
        self, context: multiprocessing.context.SpawnContext, role: str, work: Callable[..., None], *arguments: Any
    ) -> None:
        self.role = role
        self._control: Connection
        self._control, childs_end = context.Pipe()
        self._process = context.Process(target=work, args=(childs_end, *arguments), daemon=True)
        self._process.start()
        childs_end.close()

    def receive(self, timeout: float) -> Any:
        try:
            return self._control.recv() if self._control.poll(timeout) else None
        except (EOFError, ConnectionError):
            self._process.join(timeout)  # it is ending
            return None

    def go(self) -> None:
        try:
            self._control.send("go")
        except ConnectionError:
            pass  # it has died, which wait() will tell

    def wait(self, timeout: float) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._control.close()
