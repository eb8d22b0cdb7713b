"""Handles on queues of the portable engine, their records, and programs of other processes that use them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from support import python, wait_for_line

from shmqueue import segment
from shmqueue.engine import Counters, data_size
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
        wait_for_line(process, "held")
        yield process
