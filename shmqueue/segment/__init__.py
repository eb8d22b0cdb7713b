"""A named segment's life: create, attach, who holds it, free, sweep orphans.

A segment is one file that every holder maps. The kernel counts the holders, so that SIGKILL cannot leak a reference:
each handle keeps ``flock(LOCK_SH)`` on an open file description of its own, and whoever can get ``LOCK_EX`` knows that
nobody else is left. A file becomes visible under its name only when it is complete.

This package knows nothing of records or locks inside a segment: the engines do (``shmqueue.engine``). It may assume
Linux; elsewhere it does what the platform allows, which is said at each place.
"""

from shmqueue.segment.directories import DirectoryProbe, probe_directory
from shmqueue.segment.handle import Segment
from shmqueue.segment.header import HEADER_SIZE, SYSTEM_PAGESIZE, Header, Shape
from shmqueue.segment.holders import holders_of
from shmqueue.segment.life import attach_segment, open_segment, read_header, sweep_orphans
from shmqueue.segment.naming import directory, free_bytes, list_names, path_of, total_bytes

__all__ = [
    "HEADER_SIZE",
    "SYSTEM_PAGESIZE",
    "DirectoryProbe",
    "Header",
    "Segment",
    "Shape",
    "attach_segment",
    "directory",
    "free_bytes",
    "holders_of",
    "list_names",
    "open_segment",
    "path_of",
    "probe_directory",
    "read_header",
    "sweep_orphans",
    "total_bytes",
]
