"""What several test modules need: children that always end, waiting on conditions, and what the kernel says of both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from shmqueue import ShmQueue

PATIENCE = 30.0  # seconds after which a condition counts as never true; far more than any step needs

START_METHODS = ["fork", "spawn", "forkserver"]
"""Ways in which ``multiprocessing`` starts processes."""


def repeats(count: int) -> int:
    """How often to try what chance decides: ``count``, or the part of it that $SHMQUEUE_TEST_REPEATS says, as 1/4."""
    part, _, parts = os.environ.get("SHMQUEUE_TEST_REPEATS", "1/1").partition("/")
    return max(1, count * int(part) // int(parts))


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


def wait_for_line(process: subprocess.Popen[str], line: str) -> None:
    """Wait until a child prints its next line, which must be this one."""
    assert process.stdout is not None
    assert process.stdout.readline() == f"{line}\n"


def run_python(code: str, *arguments: object, executable: str = sys.executable, patience: float = PATIENCE) -> str:
    """Run ``code`` to its end and return what it printed; fail if it failed, or has not ended within these seconds."""
    with python(code, *arguments, executable=executable) as process:
        output, errors = process.communicate(timeout=patience)
        assert process.returncode == 0, f"exit status {process.returncode}\n{output}\n{errors}"
        return output


def run_program(*arguments: object, within: Path, patience: float = 2 * PATIENCE) -> subprocess.CompletedProcess[str]:
    """Run an interpreter with these arguments in a directory; if it does not end, all that it started ends with it."""
    with subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=within,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=patience)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def kill_myself() -> None:
    """End this process as ``kill -9`` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(action: Callable[[], object]) -> int:
    """Fork, run the action in the child, and return the child's pid; its exit status is 0 if nothing was raised."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            action()
            status = 0
        except BaseException as error:
            print(f"in the child: {error!r}", file=sys.stderr)
        finally:
            os._exit(status)
    return pid


def exit_status(pid: int) -> int:
    """Wait for the end of a child of this process, and return its exit status; a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_asleep(pid: int) -> bool:
    """Whether the kernel has the process's main thread waiting for something."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


def is_thread_asleep(thread: threading.Thread) -> bool:
    """Whether the kernel has a thread of this process waiting for something."""
    with open(f"/proc/self/task/{thread.native_id}/stat", encoding="ascii", errors="replace") as file:
        return file.read().rpartition(")")[2].split()[0] == "S"


class Call(threading.Thread):
    """A call that runs in a thread of its own from now on."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        super().__init__(daemon=True)
        self._function, self._arguments, self._options = function, arguments, options
        self._value: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._value = self._function(*self._arguments, **self._options)
        except BaseException as error:
            self._error = error
        finally:
            del self._function, self._arguments, self._options

    def is_asleep(self) -> bool:
        """Whether the kernel has it waiting for something. Fails once the call is over."""
        assert self.is_alive(), f"it did not wait: {self._error!r}, {self._value!r}"
        try:
            return is_thread_asleep(self)
        except OSError:
            return False

    def result(self) -> Any:
        """What the call returns or raises, once it does."""
        self.join(PATIENCE)
        assert not self.is_alive(), "the call never came back"
        if self._error is not None:
            raise self._error
        return self._value


def asleep(call: Call) -> Call:
    """The call, as soon as it waits for something."""
    wait_until(call.is_asleep, "the call waits")
    return call


@contextmanager
def held_by_another_thread(lock: AbstractContextManager[object]) -> Iterator[None]:
    """Another thread has the lock, and releases it at the end."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            release.wait(PATIENCE)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert held.wait(PATIENCE)
        yield
    finally:
        release.set()
        thread.join()


class Opener:
    """A module or a context that makes queues, and closes those that were made through it."""

    def __init__(self, source: Any, is_standard: bool) -> None:
        self.source, self.is_standard = source, is_standard
        self._opened: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.source, name)
        if name not in ("Queue", "JoinableQueue", "SimpleQueue"):
            return value

        def make(*arguments: Any, **options: Any) -> Any:
            queue = value(*arguments, **options)
            self._opened.append(queue)
            return queue

        return make

    def of(self, method: str) -> Opener:
        """The context of a start method."""
        context = Opener(self.source.get_context(method), self.is_standard)
        context._opened = self._opened
        return context

    def close(self) -> None:
        while self._opened:
            queue = self._opened.pop()
            if hasattr(queue, "cancel_join_thread"):
                queue.cancel_join_thread()
            if hasattr(queue, "close"):
                queue.close()


@contextmanager
def running(*processes: BaseProcess) -> Iterator[None]:
    """Processes of ``multiprocessing``, started now and killed at the end if they still run."""
    try:
        for process in processes:
            process.start()
        yield
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
                process.close()


def succeed(*processes: BaseProcess) -> None:
    """Wait until they have ended, and without an error."""
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0, f"{process.name}: exit code {process.exitcode}"


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def milliseconds_not_running() -> float:
    """How long this thread wanted to run so far and had no processor."""
    with open("/proc/thread-self/schedstat") as file:
        return int(file.read().split()[1]) / 1e6


def undisturbed_seconds() -> float:
    """A clock that stands still while this thread wants to run and has no processor, but not while it sleeps."""
    return time.monotonic() - milliseconds_not_running() / 1e3


def overwrite(path: str, offset: int, data: bytes) -> None:
    """Write over what a file has there, as no program that uses its queue would."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(offset)
        file.write(data)


class Unloadable:
    """An item that is put in one piece, and raises when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


# ---- what programs that run in an interpreter of their own import from here ----


def interruptions(call: Callable[[], object], times: int) -> Iterator[int]:
    """Call again and again, until the exception of a signal handler ends it; then yield, for a look at what is left.

    The signal comes after half a millisecond, so at another instruction each time. For programs of ``run_python``: the
    handler stays. Yields the numbers below ``times``.
    """

    class Interruption(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interruption

    signal.signal(signal.SIGALRM, interrupt)
    for number in range(times):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
            while True:
                call()
        except Interruption:
            yield number


def others_can(call: Callable[[], object]) -> bool:
    """Whether another thread comes through a call: this one may have left a lock taken that it needs."""
    other = Call(call)
    other.join(PATIENCE / 3)
    return not other.is_alive()


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
