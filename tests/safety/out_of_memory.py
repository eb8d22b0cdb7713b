"""One process of a queue is killed by the kernel because its cgroup's memory is used up; the others go on.

Fails if: the others do not go on after one was killed, or an item is missing that it had not taken.
"""

from __future__ import annotations

import mmap
import os
import signal

from shmqueue import ShmQueue
from shmqueue.exceptions import ShmQueueFull

from .cgroup import enter, memory_cgroup
from .trials import Notes, ask

__all__ = ["kill_one", "why_no_cgroup"]

KIB, MIB = 1 << 10, 1 << 20
LIMIT = 24 * MIB
ITEM = 256 * KIB


def why_no_cgroup() -> str | None:
    """Why there can be no memory cgroup here; None, there can."""

    def try_it() -> str:
        try:
            with memory_cgroup(LIMIT):
                return ""
        except OSError as error:
            return str(error)

    return ask(try_it) or None


def kill_one(notes: Notes) -> None:
    """The memory of an elastic queue counts for the process that put into it, which reaches its limit and is killed."""
    acknowledged = mmap.mmap(-1, mmap.PAGESIZE)  # items that the victim knows it has put
    with memory_cgroup(LIMIT) as cgroup, ShmQueue("memory", buffer_size=64 * KIB, max_bytes=1 << 30) as queue:
        victim = os.fork()
        if victim == 0:
            _fill(queue, cgroup, acknowledged)
        status = os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1])
        if status != -signal.SIGKILL:
            notes.fault(f"the victim ended with {status} instead of being killed")
            return
        notes.count("killed for memory")
        put = int.from_bytes(acknowledged[:8], "little")
        found = [queue.get(False)[0] for _ in range(queue.qsize())]
        notes.count("items that outlived their producer", len(found))
        notes.require(put > 0, "the victim put nothing")
        notes.require(found in (list(range(put)), list(range(put + 1))), f"{put} items were put, and found are {found}")
        for _ in range(2 * LIMIT // ITEM):  # this process has no such limit
            queue.put([0, bytes(ITEM)], False)
        while not queue.empty():
            queue.get(False)


def _fill(queue: ShmQueue, cgroup: str, acknowledged: mmap.mmap) -> None:
    """Put until there is no memory for it, and take memory until there is none at all."""
    try:
        enter(cgroup)
        number = 0
        try:
            while True:
                queue.put([number, bytes(ITEM)], False)
                number += 1
                acknowledged[:8] = number.to_bytes(8, "little")
        except ShmQueueFull:
            hoard: list[bytes] = []
            while len(hoard) < 2 * LIMIT // ITEM:
                hoard.append(b"x" * ITEM)
    finally:
        os._exit(1)
