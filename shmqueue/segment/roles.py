"""What a handle's process no longer does: to write, or to read.

A handle that drops a role marks its open file description with a record lock on a byte of its own, far behind the
file's end, beside the flock that makes it a holder. Both are in the kernel's table and end with the description, so
that a killed process leaves no mark. As many marks as handles: no process is left that has the role.
"""

from __future__ import annotations

import os
import struct
import sys

from shmqueue.interruptions import not_of_handler
from shmqueue.segment.holders import locks_of
from shmqueue.segment.locks import fcntl

__all__ = ["READER", "WRITER", "count_without", "mark"]

WRITER, READER = 0, 1

_START = 1 << 40  # of the bytes that stand for the roles
_LOCK = struct.Struct("@hhqqi4x")  # struct flock of Linux: type, whence, start, length, pid


def mark(fd: int, role: int) -> bool:
    """Mark the description of ``fd``, which is a holder's. False: this platform has no such locks."""
    if fcntl is None or not hasattr(fcntl, "F_OFD_SETLK") or not sys.platform.startswith("linux"):
        return False
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _START + role, 1, 0))
    except not_of_handler(OSError):
        return False
    return True


def count_without(fd: int, path: str, role: int) -> int | None:
    """Handles on the segment behind ``fd`` without the mark of a role; None where the kernel does not tell."""
    handles = marks = 0
    for kind, start in locks_of(fd, path):
        handles += kind == "FLOCK"
        marks += kind == "OFDLCK" and start == str(_START + role)
    return handles - marks if handles else None
