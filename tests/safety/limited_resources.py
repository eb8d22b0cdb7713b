"""Kinds of shortage: what is made scarce, how scarce in each degree, and what a clear error says of it.

A shortage of the file system holds from ``begin`` to ``end``; one of the process's own limits only within ``felt``,
around the one call that is tried, for what keeps the books of a trial could not live with it either.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .rooms import bind_read_only, mount_tmpfs, own_mounts, unmount

__all__ = [
    "SHM",
    "AddressSpace",
    "Descriptors",
    "FileSize",
    "FullMemory",
    "NoDirectory",
    "NoInodes",
    "ReadOnly",
    "Shortage",
]

SHM = "/dev/shm"
PAGE = 4096
KIB, MIB = 1 << 10, 1 << 20
SIZE = 8 * MIB
INODES = 40


class Shortage:
    """``degrees``: how much is left, from nothing on. ``words``: one of these patterns is in every error it causes.

    ``ends_growth``: an elastic queue cannot grow in the least degree.
    """

    name: str
    needs_mounts = False
    ends_growth = False
    degrees: Sequence[int]
    words: Sequence[str]

    def prepare(self) -> None:
        """In the child, before anything is made."""

    def begin(self, degree: int) -> None:
        """From now on so much is left."""

    def end(self) -> None:
        """Relief."""

    @contextmanager
    def felt(self) -> Iterator[None]:
        yield


class FullMemory(Shortage):
    """/dev/shm is a file system of 8 MiB, as in a container, with few pages left."""

    name = "/dev/shm full"
    needs_mounts = True
    ends_growth = True
    degrees: Sequence[int] = (*range(6), 12, 20, 30, 40, 60, 65, 66, 67, 68, 80, 300, 600)
    words: Sequence[str] = (
        rf"^ShmQueueNoSpaceError: .*not enough shared memory: \d+ bytes needed, \d+ free .*--shm-size.*'{SHM}",
        rf"^ShmQueueFull: .* cannot grow \(No space left on device\), {SHM} has \d+ of {SIZE} bytes free",
    )
    options = f"size={SIZE},mode=1777"

    def prepare(self) -> None:
        own_mounts()
        mount_tmpfs(SHM, self.options)
        os.environ["SHMQUEUE_DIR"] = SHM

    def begin(self, degree: int) -> None:
        free = os.statvfs(SHM).f_bavail
        with open(f"{SHM}/hog", "xb") as hog:
            if free > degree:
                os.posix_fallocate(hog.fileno(), 0, (free - degree) * PAGE)

    def end(self) -> None:
        os.unlink(f"{SHM}/hog")


class NoInodes(FullMemory):
    """/dev/shm has memory, and no room for more than so many files."""

    name = "/dev/shm out of inodes"
    ends_growth = False
    degrees: Sequence[int] = range(6)
    words: Sequence[str] = (rf"^ShmQueueNoSpaceError: .*no inodes.*'{SHM}",)
    options = f"size={4 * SIZE},nr_inodes={INODES},mode=1777"

    def begin(self, degree: int) -> None:
        self._hogs = [f"{SHM}/hog{number}" for number in range(os.statvfs(SHM).f_favail - degree)]
        for hog in self._hogs:
            open(hog, "xb").close()

    def end(self) -> None:
        for hog in self._hogs:
            os.unlink(hog)


class NoDirectory(Shortage):
    """The directory of segments was moved away."""

    name = "directory missing"
    degrees: Sequence[int] = (0,)
    words: Sequence[str] = (
        r"^ShmQueueRefusedError: .*cannot create a segment: No such file or directory; .*SHMQUEUE_DIR.*: '/",
        r"^FileNotFoundError: .*: '/",  # what the portable engine locks lies there too
    )

    def begin(self, degree: int) -> None:
        directory = os.environ["SHMQUEUE_DIR"]
        os.rename(directory, directory + "-away")

    def end(self) -> None:
        directory = os.environ["SHMQUEUE_DIR"]
        os.rename(directory + "-away", directory)


class ReadOnly(Shortage):
    """A process that uses the directory's path can only read."""

    name = "file system read-only"
    needs_mounts = True
    degrees: Sequence[int] = (0,)
    words: Sequence[str] = (
        r"^ShmQueueRefusedError: .*cannot create a segment: Read-only file system; .*SHMQUEUE_DIR.*: '/",
        r"^ShmQueueRefusedError: .*it cannot be opened: Read-only file system; .*SHMQUEUE_DIR.*: '/",
    )

    def prepare(self) -> None:
        own_mounts()

    def begin(self, degree: int) -> None:
        bind_read_only(os.environ["SHMQUEUE_DIR"])

    def end(self) -> None:
        unmount(os.environ["SHMQUEUE_DIR"])


class _Limit(Shortage):
    """A limit of the process."""

    resource: int
    degree = 0

    def begin(self, degree: int) -> None:
        self.degree = degree

    def limit(self) -> int:
        return self.degree * PAGE

    @contextmanager
    def felt(self) -> Iterator[None]:
        soft, hard = resource.getrlimit(self.resource)
        lowered, before = (self.limit(), hard), (soft, hard)
        resource.setrlimit(self.resource, lowered)
        try:
            yield
        finally:
            resource.setrlimit(self.resource, before)


class FileSize(_Limit):
    """It ends no growth, for an elastic queue's file is as long as it ever will be."""

    name = "RLIMIT_FSIZE"
    resource = resource.RLIMIT_FSIZE
    degrees: Sequence[int] = (0, 1, 2, 5, 17, 63, 64, 65, 66, 512, 4096)
    words: Sequence[str] = (
        r"^ShmQueueNoSpaceError: .*File too large.*(RLIMIT_FSIZE|ulimit -f)",
        r"^OSError: .*File too large: 'shmqueue-block-",
    )


class AddressSpace(_Limit):
    name = "RLIMIT_AS"
    resource = resource.RLIMIT_AS
    degrees: Sequence[int] = (0, 1, 2, 4, 8, 16, 32, 64, 128, 512, 1024, 2048, 4096)
    words: Sequence[str] = (
        r"^MemoryError",
        r"^ShmQueueNoSpaceError: .* cannot map queue '\w+': Cannot allocate memory \(.*RLIMIT_AS",
        r"^ShmQueueFull: .* cannot grow \(Cannot allocate memory\)",
        r"^OSError: .*Cannot allocate memory: 'shmqueue-block-",
    )

    def limit(self) -> int:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        return (pages + self.degree) * PAGE


class Descriptors(_Limit):
    name = "RLIMIT_NOFILE"
    resource = resource.RLIMIT_NOFILE
    degrees: Sequence[int] = range(9)
    words: Sequence[str] = (r"^\w*Error: .*Too many open files",)

    def limit(self) -> int:
        """The number below which just so many descriptors are free."""
        free = number = 0
        while free <= self.degree:
            try:
                os.fstat(number)
            except OSError:
                free += 1
            number += 1
        return number - 1
