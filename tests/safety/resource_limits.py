"""Whatever is used up, a queue says what it lacks, loses nothing, leaves nothing half-made, and goes on afterwards.

Fails if: a call that lacks a resource hangs, crashes, or raises an error that does not name what is lacking; an item is
lost, or a file left; the queue does not go on when there is enough again.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shmqueue import ShmQueue, segment
from shmqueue.compat import multiprocessing as compat_multiprocessing
from shmqueue.compat import queue as compat_queue
from shmqueue.exceptions import ShmQueueDeserializationError

from .limited_resources import (
    SHM,
    AddressSpace,
    Descriptors,
    FileSize,
    FullMemory,
    NoDirectory,
    NoInodes,
    ReadOnly,
    Shortage,
)
from .out_of_memory import kill_one, why_no_cgroup
from .outcome import Mutant, Options, Outcome
from .rooms import why_no_mounts
from .spawning import start_children
from .trials import Notes, run_trial, run_until_hung

TITLE = "Full memory, and other limits"

KIB, MIB = 1 << 10, 1 << 20
LARGE = 100 * KIB
DENSE = 300  # degrees, pages for the most part, up to which a long run tries each
AT_ONCE = 50  # degrees in one process
PUTS = 30  # of large items: more than there is room for

NATIVE = "shmqueue/engine/native/"
MUTANTS = (
    Mutant(
        "growth without its memory",
        NATIVE + "growing.c",
        "if (fallocate(ring->file, 0, start, (off_t)(to - from)) == 0) {",
        "if (start >= 0 && to >= from) {",
    ),
    Mutant(
        "creation without its memory",
        "shmqueue/segment/reserving.py",
        "call(os.posix_fallocate, (fd, start, end - start))",
        "call(os.ftruncate, (fd, end))",
    ),
    Mutant(
        "why it cannot grow is not told",
        NATIVE + "growing.c",
        "    atomic_store(&ring->grow_error, error);\n",
        "    atomic_store(&ring->grow_error, 0);\n",
    ),
    Mutant(
        "a handle that failed keeps its segment",
        "shmqueue/handle.py",
        "            segment.drops_items = False\n            segment.close()\n            raise\n        self.name",
        "            raise\n        self.name",
    ),
)


@dataclass(frozen=True)
class Kind:
    """A kind of queue; ``least``: bytes of memory that it begins with."""

    name: str
    open: Callable[[str], Any]
    least: int
    grows: bool = True


KINDS = (
    Kind("fixed", lambda name: ShmQueue(name, buffer_size=256 * KIB), 256 * KIB, grows=False),
    Kind("elastic", lambda name: ShmQueue(name, buffer_size=16 * KIB, max_bytes=1 << 30), 16 * KIB),
    Kind("queue.Queue", lambda name: compat_queue.Queue(name=name), 64 * KIB),
    Kind("multiprocessing.Queue", lambda name: compat_multiprocessing.Queue(name=name), 64 * KIB),
)
SHORTAGES: tuple[Shortage, ...] = (
    FullMemory(),
    NoInodes(),
    ReadOnly(),
    NoDirectory(),
    FileSize(),
    AddressSpace(),
    Descriptors(),
)


def run(options: Options) -> Outcome:
    logging.getLogger("shmqueue").addHandler(logging.NullHandler())  # it warns each time that a queue cannot grow
    return run_until_hung(_try_all, options)


def _try_all(options: Options, outcome: Outcome) -> None:
    why = why_no_mounts()
    for shortage in SHORTAGES:
        if shortage.needs_mounts and why is not None:
            outcome.figures[f"not run: {shortage.name}"] = why
            continue
        degrees = list(shortage.degrees)
        if options.is_long:
            degrees = [*range(min(max(degrees), DENSE)), *(degree for degree in degrees if degree >= DENSE)]
        for kind in KINDS:
            for start in range(0, len(degrees), AT_ONCE):
                trial = Trial(kind, shortage, degrees[start : start + AT_ONCE])
                run_trial(outcome, f"{shortage.name}, {kind.name}", trial.run)
    counts = range(16) if options.is_long else range(0, 8, 4)
    run_trial(outcome, "starting children", lambda notes: start_children(notes, counts, options.start_method))
    if (why := why_no_cgroup()) is not None:
        outcome.figures["not run: memory cgroup"] = why
    else:
        for _ in range(20 if options.is_long else 1):
            run_trial(outcome, "memory cgroup", kill_one)


class Trial:
    """One kind of queue in several degrees of one shortage."""

    _notes: Notes

    def __init__(self, kind: Kind, shortage: Shortage, degrees: Sequence[int]) -> None:
        self._kind, self._shortage, self._degrees = kind, shortage, degrees
        self._expected: deque[Any] = deque()
        self._number = 0
        self._refused: set[str] = set()
        self._relieved = True
        self._succeeded = 0

    def run(self, notes: Notes) -> None:
        """To be run in a process of its own, which it changes for good."""
        self._notes = notes
        self._shortage.prepare()
        before = _left()
        self._queue = self._kind.open("scarce")
        self._put("before")
        self._get()
        for degree in self._degrees:
            self._degree = degree
            self._shortage.begin(degree)
            self._relieved = False
            try:
                self._use()
            finally:
                self._shortage.end()
                self._relieved = True
            self._use_again()
        starved = self._degrees[0] == self._shortage.degrees[0]
        self._notes.require(self._refused or not starved, "the shortage was never felt")
        if starved and self._kind.grows and self._shortage.ends_growth:
            self._notes.require("put" in self._refused, "the queue grew in spite of the shortage")
        _close(self._queue)
        del self._queue
        segment.sweep_orphans()
        after = _left()
        self._notes.require(after == before, f"left behind: {after}, and before it was {before}")

    def _use(self) -> None:
        entries = _entries()
        other = self._try("create", lambda: self._kind.open("another"))
        if other is not None:
            if self._try("put into a new queue", lambda: other.put("whole", False) or True):
                found = self._try("get from a new queue", lambda: other.get(False))
                self._notes.require(found == "whole", f"a new queue gave {found}")
            self._try("close", lambda: _close(other))
        else:
            self._notes.require(_entries() == entries, f"half-made: {set(_entries()) ^ set(entries)}")
        second = self._try("attach", lambda: self._kind.open("scarce"))
        self._put("small")
        self._put_many()
        for _ in range(PUTS):
            if not self._put(b"x" * LARGE):
                break
        for _ in range(len(self._expected) // 2):
            if not self._get():
                break
        if second is not None:
            self._try("close", lambda: _close(second))

    def _use_again(self) -> None:
        """Now that the shortage is over."""
        self._drain()
        self._put(b"y" * LARGE)
        self._put_many()
        self._drain()
        another = self._kind.open("another")
        memory = os.stat(segment.path_of("another")).st_blocks * 512
        self._notes.require(memory >= self._kind.least, f"a new queue has only {memory} bytes of memory")
        _close(another)
        self._notes.count("times that there was relief")
        self._notes.count("calls that succeeded", self._succeeded)
        self._succeeded = 0

    def _drain(self) -> None:
        while self._expected and self._get():
            pass
        self._notes.require(self._queue.empty(), "there is an item too many")

    def _put(self, content: Any) -> bool:
        item = [self._number, content]
        self._number += 1
        done: bool = self._try("put", lambda: self._queue.put(item, False) or True)
        if done:
            self._expected.append(item)
        return done

    def _put_many(self) -> None:
        items = [[self._number + number, "x" * 100] for number in range(50)]
        self._number += len(items)
        if self._try("put_many", lambda: self._queue.put_many(items, False) or True):
            self._expected.extend(items)

    def _get(self) -> bool:
        found = self._try("get", lambda: [self._queue.get(False)])
        if found:
            expected = self._expected.popleft()
            self._notes.require(found[0] == expected, f"lost or doubled: {_short(found[0])}, not {_short(expected)}")
        return bool(found)

    def _try(self, what: str, call: Callable[[], Any]) -> Any:
        """What the call returns; None, it was refused, and clearly."""
        caught: BaseException | None = None
        result = None
        if self._relieved:
            try:
                result = call()
            except Exception as error:
                caught = error
        else:
            with self._shortage.felt():
                try:
                    result = call()
                except Exception as error:
                    caught = error
        if caught is None:
            self._succeeded += 1
            return result
        self._judge(what, caught)
        return None

    def _judge(self, what: str, error: BaseException) -> None:
        words = f"{type(error).__name__}: {error}"
        if self._relieved:
            self._notes.fault(f"{what} after relief: {words}")
            return
        if not self._kind.grows and re.match(
            r"ShmQueueFull: .* has no room for (another item|\d+ items together)(; \d+ of \d+ items were put)?$", words
        ):
            return  # it is full, as it may be
        self._refused.add(what)
        self._notes.count("calls that were refused")
        if isinstance(error, ShmQueueDeserializationError):
            self._expected.popleft()  # as promised, it is consumed
        if not any(re.search(pattern, words) for pattern in self._shortage.words):
            self._notes.fault(f"{what}, degree {self._degree}: unclear: {words}")


def _short(item: Any) -> str:
    text = repr(item)
    return text if len(text) < 60 else f"{text[:50]}... ({len(text)} characters)"


def _close(queue: Any) -> None:
    if isinstance(queue, ShmQueue):
        queue.shutdown()
    else:
        queue.close()


def _entries() -> list[str]:
    directory = segment.directory()
    return sorted(os.listdir(directory)) if os.path.isdir(directory) else []


def _left() -> tuple[list[str], int, list[str]]:
    """What is in the directory, how many descriptors are open, and which mappings of segments there are."""
    gc.collect()  # an error that was caught may keep what it passed through
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        mapped = sorted(line.split()[-1] for line in maps if "shmqueue-" in line.split()[-1] and SHM in line)
    return _entries(), len(os.listdir("/proc/self/fd")), mapped
