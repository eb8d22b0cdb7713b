"""Handles on portable queues, records and what is in them, and ways to interrupt a call of their engine at any line."""

from __future__ import annotations

import dis
import functools
import inspect
import linecache
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, NamedTuple

from support import python

from shmqueue import segment
from shmqueue.engine import (
    Counters,
    data_size,
    portable,
    portable_calls,
    portable_commit,
    portable_get,
    portable_loan,
    portable_lock,
    portable_memory,
    portable_put,
    portable_records,
    portable_returns,
    portable_state,
    portable_waiting,
)
from shmqueue.engine.portable import PortableEngine
from shmqueue.engine.portable_state import State
from shmqueue.segment import Segment

PAGE = segment.SYSTEM_PAGESIZE
HEADER = segment.HEADER_SIZE
WHOLE = 64 * PAGE
"""What an elastic ring of the tests may hold at most."""

Record = tuple[int, bytes]


class Opened(NamedTuple):
    segment: Segment
    engine: PortableEngine
    reports: list[int]
    """What it reported: the errno of each time that it could not grow."""

    def close(self) -> None:
        self.engine.close()
        self.segment.close()

    def figures(self) -> Counters:
        return Counters(*self.engine.counters())

    def memory(self) -> int:
        """Bytes of memory that the segment has."""
        return os.fstat(self.segment.fileno()).st_blocks * 512


Open = Callable[..., Opened]


@contextmanager
def portable_handles(name: str) -> Iterator[Open]:
    """Opens handles on one portable queue; closes them in the end, after which nothing may be left of its lock."""
    handles: list[Opened] = []

    def open_handle(capacity: int = 4096, maxsize: int = 0, initial: int = 0, threshold: int = 0) -> Opened:
        shape = segment.Shape(
            "portable", capacity, maxsize, initial, threshold, data_size("portable", capacity, initial)
        )
        reports: list[int] = []
        held = segment.open_segment(name, shape, create=None)
        held.is_in_use = True  # else a forked child would close it
        handles.append(Opened(held, PortableEngine(held, reports.append), reports))
        return handles[-1]

    try:
        yield open_handle
    finally:
        uuids = {handle.segment.header.uuid.hex() for handle in handles}
        for handle in handles:
            handle.close()
    assert left_of(uuids) == []


def state_of(queue: Opened) -> State:
    state = queue.engine._peek()
    assert state is not None
    return state


def has_its_memory(queue: Opened) -> bool:
    """Whether there is memory for every page of the ring, so that nothing that is written to it can fail."""
    return queue.memory() >= HEADER + state_of(queue).size


def drained(queue: Opened) -> list[Record]:
    records = []
    while (record := queue.engine.get(False, None)) is not None:
        records.append(record)
    return records


def numbered(number: int, size: int) -> Record:
    return number, random.Random(number).randbytes(size)


def left_of(uuids: set[str]) -> list[str]:
    """What is left of the locks of these segments."""
    places = {segment.directory(), "/dev/shm"}
    entries = [entry for place in places if os.path.isdir(place) for entry in os.listdir(place)]
    return [entry for entry in entries if any(uuid_hex in entry for uuid_hex in uuids)]


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def kill_myself() -> None:
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
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


_FILES = {
    module.__file__
    for module in (
        portable,
        portable_calls,
        portable_commit,
        portable_get,
        portable_loan,
        portable_lock,
        portable_memory,
        portable_put,
        portable_records,
        portable_returns,
        portable_state,
        portable_waiting,
        segment.handle,
        segment.sidecar,
        segment.files,
    )
}

_BREATHS: list[tuple[Callable[..., object], str, str]] = [
    (PortableEngine._counted, "finally:", "= before"),
    (PortableEngine._do_last_acts, "finally:", "= before"),
    (PortableEngine._commit, "= moves[", "copy(*"),
    (PortableEngine._commit, "= plans[", "hold.last ="),
    (portable_lock.Owner.acquire, "dead = ", "hold.marked ="),
    (portable_lock.Owner._finish, "is_ours =", "act(*"),
]
"""Runs of lines in which CPython calls no signal handlers: a look at the hold and what depends on it, for instance."""


def _lines_within_a_breath() -> dict[CodeType, set[int]]:
    """The lines of each function before which no signal handler can be called."""
    lines: dict[CodeType, set[int]] = {}
    for function, start, end in _BREATHS:
        source, first = inspect.getsourcelines(function)
        at_start = next(index for index, line in enumerate(source) if start in line)
        at_end = next(index for index, line in enumerate(source) if end in line and index > at_start)
        lines.setdefault(function.__code__, set()).update(range(first + at_start + 1, first + at_end + 1))
    return lines


_SPARED = _lines_within_a_breath()


@functools.cache
def _exits(code: CodeType) -> frozenset[int]:
    """Where the line of a ``with`` begins again, to call ``__exit__``: offsets of instructions.

    No signal handler is called before that, so a real exception cannot leave a lock taken there.
    """
    starts: dict[int, list[int]] = {}
    for offset, line in dis.findlinestarts(code):
        if line is not None:
            starts.setdefault(line, []).append(offset)
    lines = (line for line in starts if linecache.getline(code.co_filename, line).lstrip().startswith("with "))
    return frozenset(offset for line in lines for offset in starts[line][1:])


def at_line(
    number: int, action: Callable[[], object], interrupt: Callable[[], object], everywhere: bool = False
) -> bool:
    """Run the action, and ``interrupt`` before its line of that number in the engine. False: it has fewer lines.

    The lines before which CPython calls no signal handlers are left out, unless ``everywhere``: also the end of each
    ``with``.
    """
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in _FILES:
            return None
        code = frame.f_code
        if event == "line" and (
            everywhere or not (frame.f_lineno in _SPARED.get(code, ()) or frame.f_lasti in _exits(code))
        ):
            lines += 1
            if lines == number:
                interrupt()  # which is not traced itself
        return trace

    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(None)
    return lines >= number


OPEN = """
import os, sys, signal, struct, time
from support import python

from shmqueue import segment
from shmqueue.engine import data_size
from shmqueue.engine.portable import PortableEngine
shape = segment.Shape("portable", 4096, 0, 0, 0, data_size("portable", 4096, 0))
s = segment.open_segment(sys.argv[1], shape, create=False)
e = PortableEngine(s, print)
"""

HOLD_THE_LOCK = (
    OPEN
    + """
def hold(state, hold):
    print("held", flush=True)
    sys.stdin.read()
    return None, None, b""
e._locked(hold, None)
"""
)


@contextmanager
def lock_held_elsewhere(name: str) -> Iterator[subprocess.Popen[str]]:
    with python(HOLD_THE_LOCK, name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
