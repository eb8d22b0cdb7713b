"""The first bytes of every segment, of either engine; ``struct header`` in engine/native/layout.h is the same in C."""

from __future__ import annotations

import errno
import mmap
import os
import struct
import zlib
from functools import cache
from typing import NamedTuple

from shmqueue.exceptions import ShmQueueRefusedError
from shmqueue.interruptions import not_of_handler

__all__ = [
    "BY_BUFFER_SIZE",
    "BY_MAX_BYTES",
    "BY_MEMORY",
    "CRC",
    "FIELDS",
    "HEADER_SIZE",
    "KEEP",
    "MAGIC",
    "PRIVATE",
    "SYSTEM_PAGESIZE",
    "Header",
    "Shape",
    "Unfit",
    "boot_id",
    "pid_namespace",
    "refused",
    "uuid_in",
    "uuid_of",
]

SYSTEM_PAGESIZE: int = mmap.PAGESIZE
HEADER_SIZE = 4096
"""Bytes before the data: the header and whatever an engine keeps beside it."""
MAGIC = b"shmqueue"
_VERSION = 7
_BYTE_ORDER = 0x01020304
_OTHER_BYTE_ORDER = 0x04030201
FIELDS = struct.Struct("=8s8sIIQQQQQQ16sqQIII")  # the first 116 bytes of struct header in engine/native/layout.h
CRC = struct.Struct("=I")

KEEP = 1
"""Flag: the segment outlives its holders, until its name is removed."""
PRIVATE = 2
"""Flag: nobody knows the segment's name; without a holder it can never be opened again."""

BY_BUFFER_SIZE, BY_MAX_BYTES, BY_MEMORY = 0, 1, 2
"""What decided the capacity: the creator, as the size of the queue or as its limit, or the memory that there is.

Only messages depend on it."""


class Shape(NamedTuple):
    """What the creator of a segment decides, for all processes that attach.

    ``engine`` is whose layout it has; ``capacity`` the most bytes of records; ``maxsize`` the most items (0: as many as
    fit). A queue of fixed size has ``initial`` 0; an elastic one starts with ``initial`` bytes, grows, and shrinks back
    to them. ``threshold``: a put waits while this number of bytes is in the queue (0: no limit). ``data_size`` is how
    many bytes of the file follow the header; those of an elastic queue are mostly not there yet (a sparse file).
    ``limit``: what decided the capacity.
    """

    engine: str
    capacity: int
    maxsize: int
    initial: int
    threshold: int
    data_size: int
    limit: int = BY_BUFFER_SIZE


class Unfit(NamedTuple):
    """Why a file cannot be used. ``is_segment``: it is a segment all the same, of another version or corrupted,
    or was one."""

    why: str
    is_segment: bool


class Header(NamedTuple):
    """What is written into a segment before anyone can see it.

    ``pid_namespace`` is an inode number and ``boot`` the start of the system's boot id (0 where there are none): only
    where both are the same do the thread ids in the segment's lock words mean anything, and the kernel marks the words
    of the dead. They alone may change, while nobody has the segment open. ``created`` is in nanoseconds since the
    epoch, and negative before it. ``flags`` are KEEP and PRIVATE.
    """

    shape: Shape
    pid_namespace: int
    uuid: bytes
    created: int
    boot: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """The header's bytes, checksum included. ``unpack`` reads them back."""
        fields = FIELDS.pack(
            MAGIC,
            self.shape.engine.encode(),
            _VERSION,
            HEADER_SIZE,
            *self.shape[1:6],
            self.pid_namespace,
            self.uuid,
            self.created,
            self.boot,
            self.flags,
            self.shape.limit,
            _BYTE_ORDER,
        )
        return fields + CRC.pack(zlib.crc32(fields))

    @classmethod
    def unpack(cls, data: bytes, file_size: int, path: str) -> Header:
        """Read a header and check everything about it that does not depend on the process that attaches.

        Raises:
            ShmQueueRefusedError: it is not a whole, undamaged header of this version; the message says in which way.
        """
        header = cls.judge(data, file_size)
        if isinstance(header, Unfit):
            raise refused(path, header.why)
        return header

    @classmethod
    def judge(cls, data: bytes, file_size: int) -> Header | Unfit:
        """As ``unpack``, but returns what is wrong."""
        if not any(data):  # what a power cut leaves on a disk; no segment has its name before its header
            return Unfit(f"the file has {file_size} bytes, and its header is empty", True)
        is_segment = data.startswith(MAGIC)
        if len(data) < FIELDS.size + CRC.size or file_size < HEADER_SIZE:
            return Unfit(f"the file has only {file_size} bytes, a segment at least {HEADER_SIZE}", is_segment)
        _, engine, version, header_size, *numbers, limit, byte_order = FIELDS.unpack_from(data)
        if not is_segment:
            return Unfit("it is not a shmqueue segment (wrong magic)", is_segment)
        if byte_order == _OTHER_BYTE_ORDER:  # the version below would be a wrong number
            return Unfit("it was written by a machine of the other byte order", is_segment)
        if version != _VERSION or header_size != HEADER_SIZE:
            return Unfit(f"it has layout version {version}, this installation uses version {_VERSION}", is_segment)
        if byte_order != _BYTE_ORDER or CRC.unpack_from(data, FIELDS.size)[0] != zlib.crc32(data[: FIELDS.size]):
            return Unfit("its header is corrupted (wrong checksum)", is_segment)
        shape = Shape(engine.rstrip(b"\0").decode("ascii", "replace"), *numbers[:5])._replace(limit=limit)
        header = cls(shape, *numbers[5:])
        expected = HEADER_SIZE + shape.data_size
        if file_size != expected:
            return Unfit(f"the file has {file_size} bytes and its header says {expected} (truncated?)", is_segment)
        return header

    @property
    def keep(self) -> bool:
        """Whether the segment outlives its holders."""
        return bool(self.flags & KEEP)

    @property
    def private(self) -> bool:
        """Whether nobody knows its name."""
        return bool(self.flags & PRIVATE)


def uuid_in(data: bytes) -> bytes:
    return bytes(FIELDS.unpack_from(data)[10])


def uuid_of(fd: int) -> bytes | None:
    """The uuid of the segment behind a descriptor; None if it is no segment."""
    data = os.pread(fd, FIELDS.size, 0)
    return uuid_in(data) if len(data) == FIELDS.size and data.startswith(MAGIC) else None


def refused(path: str, why: str) -> ShmQueueRefusedError:
    return ShmQueueRefusedError(errno.EACCES, f"refusing to attach: {why}", path)


def pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except not_of_handler(OSError):
        return 0


@cache
def boot_id() -> int:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return int(file.read().replace("-", ""), 16) >> 64
    except not_of_handler(OSError, ValueError):
        return 0
