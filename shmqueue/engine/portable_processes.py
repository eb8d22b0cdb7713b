"""The identity of a process, and whether it still lives.

It is the process's id, its start time, because ids are reused, and its program, because ``exec`` replaces it.
"""

from __future__ import annotations

import os
from array import array
from typing import NamedTuple

from shmqueue.interruptions import not_of_handler

__all__ = ["Process", "is_alive", "this_image", "this_process"]

Process = tuple[int, int]
"""A process id, and a number, as ``os.h`` has it.

Its lower 48 bits are the start time, in clock ticks since boot, 0 where there is no /proc, and in a time namespace that
shifts it; the upper 16 a hash of where the program's stack begins, 0 where that is not told.
"""

_STARTED_BITS = 48
_AT_RANDOM = 25  # getauxval(3)

_STATE, _THREADS, _STARTED, _STACK = (
    3,
    20,
    22,
    28,
)  # fields of /proc/<pid>/stat; the second one, in parentheses, may hold anything


def this_process() -> Process:
    """The calling process."""
    pid = os.getpid()
    known = _known.get(pid)
    if known is None:
        found = _stat(pid)
        started = found.started if found and not _has_shifted_times() else 0
        known = _known[pid] = started | _image_of(found.stack) << _STARTED_BITS if found else 0
    return pid, known


_LARGEST_ID = 2**31 - 1  # of pid_t
_known: dict[int, int] = {}  # by id, because a forked child inherits its parent's


def is_alive(process: Process) -> bool:
    """False when it has ended, is a zombie, has become another program, or its id belongs to another process.

    Where there is no /proc a process with the same id counts as the same one; on Windows every process counts as alive.
    """
    pid, number = process
    if not 0 < pid <= _LARGEST_ID:  # no process has it: the bytes are corrupted
        return False
    if os.name == "nt":
        return True
    found = _stat(pid)
    if found is not None:
        started, image = number & (1 << _STARTED_BITS) - 1, number >> _STARTED_BITS
        is_same_start = started in {0, found.started} or _has_shifted_times()
        return not found.has_ended and is_same_start and image in {0, _image_of(found.stack) or image}
    try:
        os.kill(pid, 0)
    except not_of_handler(ProcessLookupError):
        return False
    except not_of_handler(OSError):
        pass
    return True


def this_image() -> int:
    """A number below 2**31 that all interpreters of this process share, and that exec() changes.

    The kernel gives each program random bytes (AT_RANDOM). Where they cannot be read it is where the program's stack
    begins, which stays the same where addresses are not random, or not told.
    """
    try:
        with open("/proc/self/auxv", "rb") as file:
            pairs = iter(array("L", file.read()))
        place = dict(zip(pairs, pairs, strict=False)).get(_AT_RANDOM)
        if place is not None:
            with open("/proc/self/mem", "rb", buffering=0) as memory:
                memory.seek(place)
                return int.from_bytes(memory.read(4), "little") & 0x7FFFFFFF
    except not_of_handler(OSError, ValueError, OverflowError):
        pass  # no Linux, or no /proc, or it is not to be looked into
    found = _stat(os.getpid())
    return found.stack >> 4 & 0x7FFFFFFF if found else 0


def _image_of(stack: int) -> int:
    return (stack >> 4) * 0x9E3779B97F4A7C15 % (1 << 64) >> _STARTED_BITS or 1 if stack else 0


def _has_shifted_times() -> bool:
    """Whether this process, or what it starts, is in a time namespace that shifts the start times in /proc."""
    try:
        with open("/proc/self/timens_offsets", "rb") as file:
            offsets = [line.split() for line in file]
    except not_of_handler(OSError):
        return False
    return any(name == b"boottime" and offset != [b"0", b"0"] for name, *offset in offsets)


class _Stat(NamedTuple):
    has_ended: bool
    started: int
    stack: int
    """Where it begins; 0: not told, or the first thread has ended."""


def _stat(pid: int) -> _Stat | None:
    """A process as /proc has it; None where it does not tell.

    A zombie that has several threads is a process whose first thread has ended, and no other.
    """
    fields = _fields(pid)
    try:
        has_ended = fields[0] in {b"Z", b"X"} and int(fields[_THREADS - _STATE]) <= 1
        stack = int(fields[_STACK - _STATE]) if len(fields) > _STACK - _STATE else 0
        return _Stat(has_ended, int(fields[_STARTED - _STATE]), stack)
    except not_of_handler(IndexError, ValueError):
        return None


def _fields(pid: int) -> list[bytes]:
    """The fields from number 3 on; none where there is no /proc.

    Those used here are the same in ``/proc/<pid>/stat``. But under qemu-user a process that reads that one of its own
    is shown another start time than the one that other processes see.
    """
    try:
        if os.readlink("/proc/self") != str(os.getpid()):
            return []  # it is of another pid namespace, so that a number in it is another process
        with open(f"/proc/{pid}/task/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
    except not_of_handler(OSError):
        return []
    return (text or b"").rpartition(b")")[2].split()


def _after_fork_in_child() -> None:
    _known.clear()  # the child may get an id that was known before


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
