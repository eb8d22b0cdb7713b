"""Making a segment usable that its holders left without closing it.

What a process leaves behind when it is killed is in order, and the kernel marks the lock words that it owned. That ends
where the kernel's view ends: after a reboot, or in another pid namespace, the thread id in a lock word may belong to
some other thread that lives. So a process that attaches and finds itself alone removes such traces first.
"""

from __future__ import annotations

import os
import time

from shmqueue import clock
from shmqueue.interruptions import not_of_handler
from shmqueue.segment.contents import layout_of
from shmqueue.segment.header import Header, boot_id
from shmqueue.segment.holders import devices_of
from shmqueue.segment.transit import count_adoption

__all__ = ["adopt"]

_PATIENCE = 0.1  # seconds that a thread in another pid namespace may still need to leave the segment


def adopt(fd: int, header: Header, namespace: int, flags: int = 0) -> Header:
    """Remove what earlier holders left in the segment behind ``fd``, and return its header as it is then.

    The caller has the segment's lock exclusively, so that no process has it open. A thread that its process did not
    wait for when it ended may still be inside of a call, and keeps its lock: it exists for this process's pid
    namespace, and it maps the file. Death at any instruction leaves the next caller as much to do as before.

    Args:
        namespace: the pid namespace of this process.
        flags: what the segment gets beside its own flags.
    """
    count_adoption(fd)  # first: from now on the items are not only those of earlier holders
    layout = layout_of(header.shape.engine)
    is_of_here = header.pid_namespace == namespace and header.boot == boot_id()
    if layout is not None:
        if is_of_here:
            layout.clear(fd, lambda thread: _uses(thread, fd))
        elif header.boot == boot_id():
            deadline = clock.monotonic() + _PATIENCE
            while not layout.clear(fd, lambda thread: clock.monotonic() < deadline):
                time.sleep(0.001)
        else:
            layout.clear(fd, lambda thread: False)
    if not is_of_here or header.flags | flags != header.flags:
        header = header._replace(pid_namespace=namespace, boot=boot_id(), flags=header.flags | flags)
        os.lseek(fd, 0, os.SEEK_SET)
        os.write(fd, header.pack())
    return header


def _uses(thread: int, fd: int) -> bool:
    """Whether the thread belongs to a process that maps the file behind ``fd``, as far as this user may see that.

    An inode number alone means nothing: other file systems have files of the same one. The device that the kernel
    shows for a mapping is that of the file or of its file system, but on some (overlayfs) it is another one. There the
    file's name decides.
    """
    status = os.fstat(fd)
    try:
        path = os.readlink(f"/proc/self/fd/{fd}")
        with open(f"/proc/{thread}/maps", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(maxsplit=5) for line in file]
    except not_of_handler(OSError):
        return False
    mapped = [line for line in lines if line[4:5] == [str(status.st_ino)]]
    devices = {f"{major:02x}:{minor:02x}" for major, minor in devices_of(status, path)}
    name = os.path.basename(path)
    return any(line[3] in devices or os.path.basename(line[5]) == name for line in mapped if len(line) == 6)
