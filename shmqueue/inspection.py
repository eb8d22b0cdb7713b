"""Looking at queues without opening them: nothing here attaches, and looking changes nothing.

A look reads the file of the queue's segment. It takes no lock, so that the process that looks never counts as a holder,
and what it finds is still there afterwards. Only the functions whose names begin with ``remove`` remove something.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from shmqueue import engine, segment
from shmqueue.exceptions import ShmQueueNotFoundError, ShmQueueRefusedError
from shmqueue.interruptions import not_of_handler
from shmqueue.segment import Header

engine.register_layouts()  # by which items are counted

__all__ = ["QueueInfo", "list_queues", "list_strays", "look_at", "remove_orphans", "remove_queue", "remove_strays"]


@dataclass(frozen=True)
class QueueInfo:
    """What can be seen of a queue from outside, at one moment."""

    name: str
    """The queue's name."""
    path: str
    """The path of its file."""
    user: int
    """The id of the user that it belongs to; -1 where there are none."""
    engine: str | None
    """Whose layout it has, ``"native"`` or ``"portable"``; None where that cannot be read."""
    holders: list[int]
    """The process id of each handle on it, as the kernel tells them; empty for an orphan."""
    items: int | None
    """Items in it that can be taken, those that a process had leased that has ended since included; None where they
    cannot be counted."""
    bytes_used: int | None
    """Bytes that the items take; None as for ``items``."""
    file_bytes: int
    """Bytes of memory that the file has."""
    created: float
    """When it was made, in seconds since the epoch; the file's last change where that cannot be read."""
    keep: bool
    """Whether it outlives its holders."""
    problem: str | None
    """Why it cannot be opened here; None when it can."""
    private: bool = False
    """Whether nobody knows its name: the unnamed queues of the adapters."""
    leased: int | None = None
    """Further items, which living processes have leased; None as for ``items``."""
    is_shutdown: bool = False
    """Whether it was shut down for all processes; it stays so until it is removed."""


def look_at(name: str) -> QueueInfo:
    """Look at this user's queue called ``name``.

    Raises:
        ShmQueueNotFoundError: there is none.
        ShmQueueTypeError, ShmQueueValueError: no queue can be called so.
    """
    info = _look(name, segment.path_of(name))
    if info is None:
        raise ShmQueueNotFoundError(f"there is no queue called {name!r}")
    return info


def list_queues(all_users: bool = False) -> list[QueueInfo]:
    """Look at all queues of this user, or of all users, sorted by name. What others have can only be seen from afar."""
    found = (_look(name, path) for name, path in segment.list_segments(all_users))
    return sorted((info for info in found if info is not None), key=lambda info: (info.name, info.user))


def remove_queue(name: str) -> QueueInfo:
    """Remove the name of this user's queue, in whatever state it is, and return what was there.

    An orphan is gone with it. Processes that have the queue open can go on using it.

    Raises:
        ShmQueueNotFoundError: there is none.
        ShmQueueRefusedError: what is there is not a regular file of this user.
    """
    path = segment.path_of(name)
    info = look_at(name)
    try:
        segment.remove_name(path)
    except not_of_handler(FileNotFoundError):
        raise ShmQueueNotFoundError(f"there is no queue called {name!r}") from None
    except ShmQueueRefusedError:
        raise
    except not_of_handler(OSError) as error:
        raise ShmQueueRefusedError(error.errno, f"cannot remove it: {error.strerror}", path) from error
    return info


def remove_orphans() -> list[QueueInfo]:
    """Remove all queues of this user that no process has open, with their items, and return what was there.

    Those with ``keep`` are no orphans: they stay, until ``remove_queue``. Whether a queue is open is decided by the
    kernel's lock at the moment of the removal.
    """
    removed = []
    for info in list_queues():
        if not info.keep and not info.holders:
            try:
                if segment.remove_if_unheld(info.path):
                    removed.append(info)
            except not_of_handler(OSError):
                continue  # not this user's own, no segment, or gone already
    segment.sweep_orphans()  # and what has no name that could be listed
    return removed


def list_strays() -> list[str]:
    """The names of this user's files that belong to no queue: lock files, and what a killed process had half made.

    They take next to no memory. One whose queue is still open counts as well, if the queue's name was taken away.
    """
    return segment.list_strays()


def remove_strays() -> list[str]:
    """Remove the files that belong to no queue, and return their names."""
    return segment.sweep_strays()


def _look(name: str, path: str) -> QueueInfo | None:
    """None when there is nothing at the path."""
    try:
        status = os.lstat(path)
    except not_of_handler(FileNotFoundError):
        return None
    header: Header | None = None
    contents: segment.Contents | None = None
    problem: str | None = None
    holders = segment.holders_of(path)
    try:
        fd = segment.open_to_look(path)
    except not_of_handler(FileNotFoundError):
        return None
    except ShmQueueRefusedError as error:
        problem = (error.strerror or str(error)).removeprefix("refusing to attach: ")
    else:
        try:
            found = segment.judge(fd, bool(holders))
            if isinstance(found, Header):
                header = found
            else:
                problem = found.why
            contents = segment.contents_of(fd)
            status = os.fstat(fd)
        finally:
            os.close(fd)
    return QueueInfo(
        name=name,
        path=path,
        user=status.st_uid if hasattr(os, "geteuid") else -1,
        engine=header.shape.engine if header is not None else None,
        holders=holders,
        items=contents.items - contents.leased.held if contents is not None else None,
        bytes_used=contents.bytes_used if contents is not None else None,
        file_bytes=getattr(status, "st_blocks", 0) * 512 if stat.S_ISREG(status.st_mode) else 0,
        created=header.created / 1e9 if header is not None else status.st_mtime,
        keep=header.keep if header is not None else False,
        problem=problem,
        private=header.private if header is not None else False,
        leased=contents.leased.held if contents is not None else None,
        is_shutdown=contents is not None and contents.is_shut_down,
    )
