"""Workers: processes (or threads, for a queue that knows only those) that carry out operations on queues.

A worker is started with a whole batch of queues and lives for many examples, so that an example costs messages and not
processes. It carries out a call at once and answers, or starts it in a thread of its own and answers when it returns.
"""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import pickle
import queue as standard_queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

__all__ = ["PATIENCE", "Hung", "Reply", "Team", "Worker"]

PATIENCE = 5.0
"""Seconds after which a call that should return counts as hung."""

_ERRORS: dict[str, type[BaseException]] = {
    "Empty": standard_queue.Empty,
    "Full": standard_queue.Full,
    "ValueError": ValueError,
    "OSError": OSError,
    "AssertionError": AssertionError,
    "RuntimeError": RuntimeError,
    "TypeError": TypeError,
    "PicklingError": pickle.PicklingError,
    "AttributeError": AttributeError,
}

_numbers = itertools.count(1)

Method = str | Callable[..., Any]
"""What is called: a method by its name, or a function that is given the queue first."""


class Hung(Exception):
    """A worker did not answer in time; it is of no more use."""


@dataclass(frozen=True)
class Reply:
    """What a call came to.

    ``errors`` are the names of the standard exceptions that it raised an instance of (several, for one that inherits
    from several), empty if it returned ``value``; ``text`` what the exception says; ``seconds`` how long it took.
    """

    value: Any
    errors: tuple[str, ...]
    text: str
    seconds: float

    def __str__(self) -> str:
        return f"{'/'.join(self.errors)}({self.text!r})" if self.errors else f"{_short(self.value)}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _call(queue: Any, method: Method, arguments: tuple[Any, ...], options: dict[str, Any]) -> Reply:
    started = time.monotonic()
    try:
        value = getattr(queue, method) if isinstance(method, str) else functools.partial(method, queue)
        if callable(value):
            value = value(*arguments, **options)
    except BaseException as error:
        names = tuple(name for name, kind in _ERRORS.items() if isinstance(error, kind))
        if any(kind.__name__ == "ShutDown" for kind in type(error).__mro__):
            names = ("ShutDown", *names)  # Python's own since 3.13, the queue's own before
        return Reply(None, names or (type(error).__name__,), str(error), time.monotonic() - started)
    return Reply(value, (), "", time.monotonic() - started)


def serve(link: Any, queues: list[Any]) -> None:
    """What a worker does: carry out commands until the link ends.

    Args:
        link: has ``recv`` and ``send``; commands are (number, where, slot, method, arguments, options).
        queues: the batch; a command's slot is an index in it.
    """
    sending = threading.Lock()

    def answer(number: int, slot: int, method: Method, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        reply = _call(queues[slot], method, arguments, options)
        with sending:
            try:
                link.send((number, reply))
            except (OSError, ValueError):
                pass  # nobody listens any more
            except Exception as error:
                link.send((number, Reply(None, (type(error).__name__,), f"cannot be sent back: {error}", 0.0)))

    while True:
        try:
            number, where, slot, method, arguments, options = link.recv()
        except (EOFError, OSError):
            return
        if where == "end":
            return
        if where == "loader":
            reply = _call(_Loader(queues, slot), method, arguments, options)
            with sending:
                link.send((number, reply))
        elif where == "thread":
            command = (number, slot, method, arguments, options)
            threading.Thread(target=answer, args=command, daemon=True).start()
        else:
            answer(number, slot, method, arguments, options)


class _Loader:
    """What a worker does to a slot rather than with the queue in it."""

    def __init__(self, queues: list[Any], slot: int) -> None:
        self._queues, self._slot = queues, slot

    def unpickle(self, data: bytes) -> None:
        self._queues[self._slot] = pickle.loads(data)

    def make(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._queues[self._slot] = function(*arguments)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(self._queues[self._slot], *arguments)


class _ThreadLink:
    """Both ends of a link to a worker that is a thread."""

    def __init__(self, inbox: Any, outbox: Any) -> None:
        self._inbox, self._outbox = inbox, outbox
        self._seen: list[Any] = []

    def recv(self) -> Any:
        message = self._seen.pop() if self._seen else self._inbox.get()
        if message is None:
            raise EOFError
        return message

    def send(self, message: Any) -> None:
        self._outbox.put(message)

    def poll(self, timeout: float) -> bool:
        if not self._seen:
            try:
                self._seen.append(self._inbox.get(timeout > 0, timeout))
            except standard_queue.Empty:
                return False
        return True

    def close(self) -> None:
        self._outbox.put(None)


class Worker:
    """One worker, as its director sees it."""

    def __init__(self, queues: Sequence[Any], context: Any | None) -> None:
        self._process: Any = None
        self._link: Any
        self.replies: dict[int, Reply] = {}
        if context is None:
            there, back = standard_queue.Queue[Any](), standard_queue.Queue[Any]()
            self._link, far = _ThreadLink(back, there), _ThreadLink(there, back)
            threading.Thread(target=serve, args=(far, list(queues)), daemon=True).start()
        else:
            self._link, child_link = multiprocessing.Pipe()
            self._process = context.Process(target=serve, args=(child_link, list(queues)), daemon=True)
            self._process.start()
            child_link.close()

    @property
    def pid(self) -> int | None:
        """Its process id; None for a thread."""
        return self._process.pid if self._process is not None else None

    def start(self, where: str, slot: int, method: Method, arguments: tuple[Any, ...], options: dict[str, Any]) -> int:
        """Have a call made; ``reply`` tells what it came to. Returns its number."""
        number = next(_numbers)
        self._link.send((number, where, slot, method, arguments, options))
        return number

    def reply(self, number: int, timeout: float) -> Reply | None:
        """What a call came to; None if it has not returned after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while number not in self.replies:
            if not self._receive(max(0.0, deadline - time.monotonic())):
                return None
        return self.replies.pop(number)

    def _receive(self, timeout: float) -> bool:
        try:
            if self._process is not None:
                connection.wait([self._link, self._process.sentinel], timeout)
                timeout = 0
            if not self._link.poll(timeout):
                return False
            number, reply = self._link.recv()
        except (EOFError, OSError):
            return False
        self.replies[number] = reply
        return True

    def call(self, slot: int, method: Method, *arguments: Any, **options: Any) -> Reply:
        """Make a call that returns soon.

        Raises:
            Hung: it did not.
        """
        return self.answer(self.start("here", slot, method, arguments, options))

    def replace(self, slot: int, how: str, *arguments: Any) -> Reply:
        """Put another handle on the queue into its slot: ``how`` is "unpickle" (data) or "make" (function, ...)."""
        return self.answer(self.start("loader", slot, how, arguments, {}))

    def run(self, slot: int, function: Callable[..., Any], *arguments: Any, timeout: float = PATIENCE) -> Reply:
        """Have it call ``function(queue, ...)``, which it can import."""
        return self.answer(self.start("loader", slot, "run", (function, *arguments), {}), timeout)

    def answer(self, number: int, timeout: float = PATIENCE) -> Reply:
        """What a call that returns soon came to; raises ``Hung`` if it does not."""
        reply = self.reply(number, timeout)
        if reply is None:
            raise Hung(f"a call did not return within {timeout} s")
        return reply

    def kill(self) -> None:
        """End its process with SIGKILL."""
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def end(self) -> bool:
        """Let it end by itself. False: it did not, and was killed."""
        try:
            self._link.send((0, "end", 0, "", (), {}))
        except (OSError, ValueError):
            pass
        if self._process is None:
            return True
        self._process.join(PATIENCE)
        politely = bool(self._process.exitcode == 0)
        self.abandon()
        return politely

    def abandon(self) -> None:
        """Give it up, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None
        self._link.close()


class Team:
    """Several workers on the same batch of queues.

    Args:
        queues: the batch.
        context: of multiprocessing, whose processes the workers are; None, they are threads.
        size: how many workers.
    """

    def __init__(self, queues: Sequence[Any], context: Any | None, size: int) -> None:
        self._queues, self._context = queues, context
        self.workers: list[Worker] = []
        try:
            while len(self.workers) < size:
                self.add()
        except BaseException:
            self.close()
            raise

    def add(self) -> Worker:
        """Start one more worker."""
        self.workers.append(Worker(self._queues, self._context))
        return self.workers[-1]

    def replace(self, index: int) -> None:
        """Start a worker in the place of one that has ended."""
        self.workers[index].abandon()
        self.workers[index] = Worker(self._queues, self._context)

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.abandon()
        self.workers, self._queues = [], ()  # a reference to this team must not keep the queues alive
