"""Who holds a segment, as the kernel counts them."""

from __future__ import annotations

import os

from shmqueue.segment.header import SYSTEM_PAGESIZE

__all__ = ["can_see_holders", "holders_of", "locks_of"]


def can_see_holders() -> bool:
    """Whether the kernel's table of locks can be read here."""
    return os.access("/proc/locks", os.R_OK)


def holders_of(path: str) -> list[int]:
    """The process id of each handle on the segment at ``path``, from the kernel's own table of locks.

    A process that holds it twice is listed twice. Where there is no /proc/locks the list is empty.
    """
    try:
        locks = _shared_locks(os.stat(path, follow_symlinks=False), path)
    except OSError:
        return []
    return sorted(pid for kind, pid, _ in locks if kind == "FLOCK")


def locks_of(fd: int, path: str) -> list[tuple[str, str]]:
    """The shared locks on the file behind ``fd``, which has or had this path.

    Returns:
        For each its kind, FLOCK or (for a record lock) OFDLCK, and its first byte.
    """
    try:
        return [(kind, start) for kind, _, start in _shared_locks(os.fstat(fd), path)]
    except OSError:
        return []


def _shared_locks(status: os.stat_result, path: str) -> list[tuple[str, int, str]]:
    table = _lock_table()
    locks = _locks_in(table, os.major(status.st_dev), os.minor(status.st_dev), status.st_ino)
    if not locks:
        mounted = _device_of_mount(os.path.dirname(path))
        if mounted is not None and mounted != (os.major(status.st_dev), os.minor(status.st_dev)):
            locks = _locks_in(table, *mounted, status.st_ino)
    return locks


def _locks_in(table: str, major: int, minor: int, inode: int) -> list[tuple[str, int, str]]:
    file = f"{major:02x}:{minor:02x}:{inode}"
    locks = []
    for line in table.splitlines():
        fields = line.split()  # "1: FLOCK ADVISORY READ 2394 00:1b:2002 0 EOF"; who still waits has "->" after the 1:
        if len(fields) >= 7 and fields[3] == "READ" and fields[5] == file:
            locks.append((fields[1], int(fields[4]), fields[6]))
    return locks


def _device_of_mount(where: str) -> tuple[int, int] | None:
    """The device number of the file system that is mounted at or above a directory; None where that cannot be told.

    The kernel's table goes by it. Files of an overlayfs or btrfs have device numbers of their own instead.
    """
    try:
        fd = os.open(where, os.O_PATH | os.O_CLOEXEC)
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
    except (AttributeError, KeyError, ValueError, OSError):
        pass
    return None


def _lock_table() -> str:
    """/proc/locks as it was at one moment.

    Only what one read() returns is of one moment, and that is a page at most; the next one goes on at an index that
    others may have shifted. So a longer table is read until it comes out the same twice.
    """
    before = None
    for _ in range(100):
        with open("/proc/locks", "rb", buffering=0) as file:
            chunks = [file.read(1 << 20)]
            while len(chunks[-1]) > SYSTEM_PAGESIZE - 256:  # perhaps cut off: a line is shorter than that
                chunks.append(file.read(1 << 20))
        table = b"".join(chunks)
        if len(chunks) == 1 or table == before:
            break
        before = table
    return table.decode("ascii", "replace")
