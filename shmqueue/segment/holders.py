"""The holders of a segment, as the kernel counts them."""

from __future__ import annotations

import os

from shmqueue.interruptions import not_of_handler
from shmqueue.segment.descriptor import Descriptor
from shmqueue.segment.header import SYSTEM_PAGESIZE

__all__ = ["can_see_holders", "devices_of", "holders_of", "locks_of"]


def can_see_holders() -> bool:
    """Whether the kernel's table of locks can be read here."""
    return os.access("/proc/locks", os.R_OK)


def holders_of(path: str) -> list[int]:
    """The process id of each handle on the segment at ``path``, from the kernel's own table of locks.

    A process that holds it twice is listed twice. Where there is no /proc/locks the list is empty.
    """
    try:
        locks = _shared_locks(os.stat(path, follow_symlinks=False), path)
    except not_of_handler(OSError):
        return []
    return sorted(pid for kind, pid, _ in locks if kind == "FLOCK")


def locks_of(fd: int, path: str) -> list[tuple[str, str]]:
    """The shared locks on the file behind ``fd``, which has or had this path.

    Returns:
        For each its kind, FLOCK or (for a record lock) OFDLCK, and its first byte.
    """
    try:
        return [(kind, start) for kind, _, start in _shared_locks(os.fstat(fd), path)]
    except not_of_handler(OSError):
        return []


def devices_of(status: os.stat_result, path: str) -> list[tuple[int, int]]:
    """Major and minor number of the devices by which the kernel may name a file: its own, and its file system's."""
    own = os.major(status.st_dev), os.minor(status.st_dev)
    mounted = _device_of_mount(os.path.dirname(path))
    return [own] if mounted is None or mounted == own else [own, mounted]


def _shared_locks(status: os.stat_result, path: str) -> list[tuple[str, int, str]]:
    locks = _locks_on(os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    if not locks:
        for device in devices_of(status, path)[1:]:
            locks = _locks_on(*device, status.st_ino)
    return locks


_LOOKS = 6  # at a table that is longer than a page


def _locks_on(major: int, minor: int, inode: int) -> list[tuple[str, int, str]]:
    """The shared locks on one file: kind, process id and first byte of each.

    The kernel shows at one moment what one read() returns, and that is a page at most, however large the buffer is; the
    next read() goes on at an index that others may have shifted. So what a longer table says counts when it says the
    same twice, of this file: the locks of others come and go. Where it does not, the look that shows the most counts,
    for to miss a holder is worse than to see one that has just gone.
    """
    file = f"{major:02x}:{minor:02x}:{inode}"
    looks: list[list[tuple[str, int, str]]] = []
    while len(looks) < _LOOKS:
        table, is_of_one_moment = _read_lock_table()
        looks.append(_locks_in(table, file))
        if is_of_one_moment or looks[-1] in looks[-2:-1]:
            return looks[-1]
    return max(looks, key=len)


def _locks_in(table: str, file: str) -> list[tuple[str, int, str]]:
    locks = []
    for line in table.splitlines():
        fields = line.split()  # "1: FLOCK ADVISORY READ 2394 00:1b:2002 0 EOF"; "->" after the 1: is one that waits
        if len(fields) >= 7 and fields[3] == "READ" and fields[5] == file:
            locks.append((fields[1], int(fields[4]), fields[6]))
    return locks


def _device_of_mount(where: str) -> tuple[int, int] | None:
    """The device number of the file system that is mounted at or above a directory; None where the system does not say.

    The kernel's table uses it. Files of an overlayfs or btrfs have device numbers of their own instead.
    """
    try:
        fd = Descriptor.opened(os.open, where, os.O_PATH | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii", errors="replace") as file:
                info = dict(line.split(":", 1) for line in file if ":" in line)
        finally:
            os.close(fd)
        mount = info["mnt_id"].strip()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split(" ", 3)  # "36 35 98:0 /root /mount ..."
                if fields[0] == mount:
                    major, minor = fields[2].split(":")
                    return int(major), int(minor)
    except not_of_handler(AttributeError, KeyError, ValueError, OSError):
        pass
    return None


def _read_lock_table() -> tuple[str, bool]:
    """/proc/locks, and whether all of it is of one moment."""
    with open("/proc/locks", "rb", buffering=0) as file:
        chunks = [file.read(1 << 20)]
        while len(chunks[-1]) > SYSTEM_PAGESIZE - 256:  # perhaps cut off: a line is shorter than that
            chunks.append(file.read(1 << 20))
    return b"".join(chunks).decode("ascii", "replace"), len(chunks) == 1
