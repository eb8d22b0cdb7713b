"""How long a file is, and its memory: reserved beforehand, so that touching it cannot fail later."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from shmqueue.exceptions import ShmQueueNoSpaceError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment.naming import ANOTHER_DIRECTORY, free_bytes, has_free_inode

__all__ = ["FULL", "lengthen", "no_space", "reserve"]

FULL = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""What a file system says that has no room."""
_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""What a file system says that does not know a call."""


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def reserve(
    fd: int,
    size: int,
    path: str,
    start: int = 0,
    call: Callable[[Callable[..., Any], tuple[Any, ...]], Any] = _call,
) -> None:
    """Make the file ``size`` bytes long, with all its memory reserved: touching it later cannot fail.

    Args:
        fd: its descriptor.
        size: bytes.
        path: for what is raised.
        start: bytes from its start that have their memory. Where the file system cannot reserve memory, those behind
            them are written: they become zeros.
        call: makes the system calls, given a function and its arguments.

    Raises:
        ShmQueueNoSpaceError: there is not enough memory.
    """
    try:
        if not _allocate(fd, start, size, call):
            while start < size:
                start += call(os.pwrite, (fd, _ZEROS[: size - start], start))
    except not_of_handler(OSError) as error:
        raise _cannot_have(error, size, path) from error


_ZEROS = bytes(1 << 16)


def _allocate(fd: int, start: int, end: int, call: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> bool:
    """Have the file system reserve bytes of a file. False: it cannot."""
    if not hasattr(os, "posix_fallocate"):
        return False
    try:
        call(os.posix_fallocate, (fd, start, end - start))
    except not_of_handler(OSError) as error:  # musl's; glibc writes into each block instead
        if error.errno not in _NOT_SUPPORTED:
            raise
        return False
    return True


def lengthen(fd: int, size: int, path: str) -> None:
    """Make the file ``size`` bytes long, without any more memory."""
    try:
        os.ftruncate(fd, size)
    except not_of_handler(OSError) as error:
        raise _cannot_have(error, size, path) from error


def _cannot_have(error: OSError, size: int, path: str) -> ShmQueueNoSpaceError:
    if error.errno in FULL:
        return no_space(error, os.path.dirname(path), size)
    why = f"cannot reserve {size} bytes: {error.strerror}"
    if error.errno == errno.EFBIG:
        why += " (the file system allows no such file, or this process may not make one: RLIMIT_FSIZE, ulimit -f)"
    return ShmQueueNoSpaceError(error.errno, why, path)


def no_space(error: OSError, where: str, needed: int) -> ShmQueueNoSpaceError:
    """The error that says how much more memory a directory would need, in bytes, or that it has no more inodes."""
    try:
        free = f"{free_bytes(where)} free"
    except not_of_handler(OSError):
        free = "the number of free bytes is unknown"
    why = (
        f"not enough shared memory: {needed} bytes needed, {free} "
        f"(containers often have 64 MiB, which --shm-size changes; {ANOTHER_DIRECTORY}; "
        "'shmqueue ls' shows the queues, also those of killed processes)"
    )
    if not has_free_inode(where):
        why = "no inodes left: the file system takes no more files (remove some, or mount it with a larger nr_inodes)"
    elif error.errno != errno.ENOSPC:
        why = f"cannot reserve {needed} bytes: {error.strerror}; {ANOTHER_DIRECTORY}"
    return ShmQueueNoSpaceError(error.errno, why, where)
