"""Locks of files by open file description, and this process's own lock around opening and closing such files.

This is where the platform shows: what Linux has and others lack is said at each place.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from shmqueue import clock
from shmqueue.exceptions import ShmQueueRefusedError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment.naming import ANOTHER_DIRECTORY
from shmqueue.threads import Guard, forks_wait

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be unlinked: that counts the holders instead
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "Locked",
    "changing",
    "fcntl",
    "lock_alone",
    "lock_shared",
    "patiently",
    "same_file",
    "take_name_away",
    "unlock",
    "while_changing",
]

_PATIENCE = 10.0  # seconds; a process has a file locked exclusively for some milliseconds, or a second at most

changing = Guard()
"""Held while this process opens or closes a file that it locks: ``with changing():``.

A fork waits for it. A child that inherited such a file from the middle of that would keep its lock for life. A thread
that opens a sidecar looks in here whether its segment is still open; so the sidecar is there, or will not be made, when
the process that has closed the segment looks for it.
"""

forks_wait(changing)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def while_changing(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function hold ``changing``."""

    @functools.wraps(function)
    def hold_and_call(*arguments: _P.args, **options: _P.kwargs) -> _R:
        with changing():
            return function(*arguments, **options)

    return hold_and_call


class Locked(ShmQueueRefusedError):
    """Another process has the file locked just now."""

    def __init__(self, path: str) -> None:
        why = "another process has it locked; it may have been stopped (SIGSTOP, a debugger): let it go on, or end it"
        super().__init__(errno.EAGAIN, why, path)

    def __reduce__(self) -> tuple[Any, ...]:
        return ShmQueueRefusedError, (self.errno, self.strerror, self.filename)


def patiently(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function hold ``changing``, and call it again for some seconds while it raises ``Locked``.

    In between, other threads and forks have their turn: the process that has the file locked may have been stopped.
    """

    @functools.wraps(function)
    def hold_and_call(*arguments: _P.args, **options: _P.kwargs) -> _R:
        deadline = clock.monotonic() + _PATIENCE
        while True:
            try:
                with changing():
                    return function(*arguments, **options)
            except Locked:
                if clock.monotonic() > deadline:
                    raise
            time.sleep(0.001)

    return hold_and_call


def lock_shared(fd: int, path: str) -> None:
    """Take the shared lock that makes a holder. Never waits.

    Raises:
        Locked: another process has it locked exclusively.
        ShmQueueRefusedError: the file system has no such locks.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except not_of_handler(BlockingIOError):
        raise Locked(path) from None
    except not_of_handler(OSError) as error:
        why = f"cannot lock a segment, by which its holders are counted: {error.strerror}; {ANOTHER_DIRECTORY}"
        raise ShmQueueRefusedError(error.errno, why, path) from error


def lock_alone(fd: int) -> bool:
    """Lock the file exclusively, unless somebody else has a lock on it. ``fd`` must have none of its own yet."""
    if fcntl is None:  # the platform refuses to unlink a file that anyone has open; see Segment.close()
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except not_of_handler(OSError):  # somebody has it, or the file system has no locks: lock_shared() says so
        return False
    return True


def unlock(fd: int) -> None:
    """Release the lock. Closing is not enough: a child forked meanwhile has the description too."""
    if fcntl is not None:
        fcntl.flock(fd, fcntl.LOCK_UN)


def take_name_away(fd: int, path: str) -> bool:
    """Remove ``path`` if it still names the file behind ``fd``, and return whether it did.

    The caller has the file locked, in whichever way, so no process that has it locked exclusively removes its name.
    Processes that share the lock do this one after the other, by a lock of another kind on ``fd``, whose description
    must not be shared: otherwise the second one might remove a name that is another file's by then.

    Raises:
        Locked: another process is doing it just now.
    """
    if not _lock_record(fd, True):
        raise Locked(path)
    try:
        if not same_file(fd, path):
            return False
        os.unlink(path)
        return True
    finally:
        _lock_record(fd, False)  # closing is not enough, as for ``unlock``


_RECORD = struct.Struct("@hhqqi4x")  # struct flock of Linux: type, whence, start, length, pid


def _lock_record(fd: int, wanted: bool) -> bool:
    """Take or release a record lock that belongs to the open file description. False: another one has it."""
    if fcntl is None or not hasattr(fcntl, "F_OFD_SETLK") or not sys.platform.startswith("linux"):
        return True
    kind = fcntl.F_WRLCK if wanted else fcntl.F_UNLCK
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _RECORD.pack(kind, os.SEEK_SET, 0, 1, 0))
    except not_of_handler(OSError) as error:
        # Else the file system has none: then two unlink() at one moment are not told apart.
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


def same_file(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except not_of_handler(FileNotFoundError):
        return False
