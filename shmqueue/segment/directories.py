"""What the directory of segments can do, found out by trying."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from shmqueue.exceptions import ShmQueueError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment.descriptor import Descriptor
from shmqueue.segment.files import OPEN_FLAGS, link_nameless, make_file, remove_quietly
from shmqueue.segment.header import HEADER_SIZE
from shmqueue.segment.locks import fcntl
from shmqueue.segment.naming import UNNAMED, directory, file_prefix, free_bytes
from shmqueue.segment.reserving import reserve

__all__ = ["DirectoryProbe", "probe_directory"]


class DirectoryProbe(NamedTuple):
    """What was found in the directory of segments. Queues work there if ``problem`` is None.

    Without ``nameless_files``, ``hard_links`` or ``reserves_memory`` there is a slower way to do the same.
    """

    directory: str
    """Its path; what ``SHMQUEUE_DIR`` says where that cannot be resolved."""
    problem: str | None
    """Why no segment can be made there."""
    locks: bool
    """Whether a file has the locks by which the holders of a queue are counted."""
    nameless_files: bool
    """O_TMPFILE: whether a creator that is killed leaves nothing at all."""
    hard_links: bool
    """Whether a file gets its name without one being replaced."""
    reserves_memory: bool
    """fallocate: whether a queue gets memory without writing it, and gives it back when it runs empty."""
    free_bytes: int | None
    """Bytes free; None where the file system does not say."""


def probe_directory(within: str | None = None) -> DirectoryProbe:
    """Make a file as a segment is made, remove it again, and say what the file system could do.

    Args:
        within: the directory; None, the one that queues get.
    """
    try:
        where = within or directory()
    except not_of_handler(OSError) as error:
        where = os.environ.get("SHMQUEUE_DIR", "")
        return DirectoryProbe(where, str(error), False, False, False, False, None)
    path = os.path.join(where, f"{file_prefix()}{UNNAMED}{os.urandom(16).hex()}")
    free = _free(where)
    try:
        fd = make_file(path, lambda fd: reserve(fd, HEADER_SIZE, path), as_holder=True)
    except not_of_handler(ShmQueueError, OSError) as error:
        return DirectoryProbe(where, str(error), False, False, False, False, free)
    if fd is None:
        return DirectoryProbe(where, "a file of a random name is there already", False, False, False, False, free)
    try:
        found = DirectoryProbe(
            where,
            None,
            locks=fcntl is not None,
            nameless_files=_can(lambda: _link_nameless_file(where)),
            hard_links=_can(lambda: _link(path)),
            reserves_memory=_can(lambda: _allocate(fd)),
            free_bytes=free,
        )
        remove_quietly(path)
        return found
    except BaseException:
        remove_quietly(path)
        raise
    finally:
        os.close(fd)


def _free(where: str) -> int | None:
    try:
        free = free_bytes(where)
    except not_of_handler(OSError):
        return None
    return free if free >= 0 else None


def _can(attempt: Callable[[], None]) -> bool:
    try:
        attempt()
    except not_of_handler(AttributeError, NotImplementedError, OSError):
        return False
    return True


def _link_nameless_file(where: str) -> None:
    path = os.path.join(where, f"{file_prefix()}{UNNAMED}{os.urandom(16).hex()}")
    fd = Descriptor.opened(os.open, where, OPEN_FLAGS & ~os.O_NONBLOCK | os.O_TMPFILE, 0o600)
    try:
        link_nameless(fd, path)
        remove_quietly(path)
    except BaseException:
        remove_quietly(path)
        raise
    finally:
        os.close(fd)


def _link(path: str) -> None:
    again = path + "-again"
    try:
        os.link(path, again)
        remove_quietly(again)
    except BaseException:
        remove_quietly(again)
        raise


def _allocate(fd: int) -> None:
    if fcntl is not None:  # glibc writes where a file system cannot reserve, but not to a file opened for appending
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    os.posix_fallocate(fd, HEADER_SIZE, HEADER_SIZE)
