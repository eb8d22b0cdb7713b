"""The identity of a process, and whether it still lives: its id and its start time, because ids are reused."""

from __future__ import annotations

import os

from shmqueue.interruptions import not_of_handler

__all__ = ["Process", "image_of", "is_alive", "this_image", "this_process"]

Process = tuple[int, int]
"""A process id, and the start time of that process: clock ticks since boot, 0 where there is no /proc."""

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
        known = _known[pid] = found[1] if found else 0
    return pid, known


_LARGEST_ID = 2**31 - 1  # of pid_t
_known: dict[int, int] = {}  # by id, because a forked child inherits its parent's


def is_alive(process: Process) -> bool:
    """False when it has ended, is a zombie, or its id belongs to another process.

    Where there is no /proc a process with the same id counts as the same one; on Windows every process counts as alive.
    """
    pid, started = process
    if not 0 < pid <= _LARGEST_ID:  # no process has it: the bytes are corrupted
        return False
    if os.name == "nt":
        return True
    found = _stat(pid)
    if found is not None:
        has_ended, begun = found
        return not has_ended and started in (0, begun)
    try:
        os.kill(pid, 0)
    except not_of_handler(ProcessLookupError):
        return False
    except not_of_handler(OSError):
        pass
    return True


def this_image() -> int:
    """A number below 2**31 that all interpreters of this process share, and that exec() changes.

    It is where the program's stack begins, so it stays the same where addresses are not random, or not told.
    """
    return image_of(os.getpid())


def image_of(pid: int) -> int:
    """That number of another process. 0: there is none, or it is not told."""
    fields = _fields(pid)
    return int(fields[_STACK - _STATE]) >> 4 & 0x7FFFFFFF if len(fields) > _STACK - _STATE else 0


def _stat(pid: int) -> tuple[bool, int] | None:
    """Whether a process has ended, and its start time; None where /proc does not tell.

    A zombie that has several threads is a process whose first thread has ended, and no other.
    """
    fields = _fields(pid)
    try:
        has_ended = fields[0] in {b"Z", b"X"} and int(fields[_THREADS - _STATE]) <= 1
        return has_ended, int(fields[_STARTED - _STATE])
    except not_of_handler(IndexError, ValueError):
        return None


def _fields(pid: int) -> list[bytes]:
    """The fields from number 3 on; none where there is no /proc.

    Those used here are the same in ``/proc/<pid>/stat``. But under qemu-user a process that reads that one of its own
    is shown another start time than the one that other processes see.
    """
    try:
        with open(f"/proc/{pid}/task/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
    except not_of_handler(OSError):
        return []
    return (text or b"").rpartition(b")")[2].split()


def _after_fork_in_child() -> None:
    _known.clear()  # the child may get an id that was known before


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
