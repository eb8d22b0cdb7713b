"""A named segment's life: create, attach, holders, free, sweep orphans.

A segment is one file that every holder maps. The kernel counts the holders, so that SIGKILL cannot leak a reference:
each handle keeps ``flock(LOCK_SH)`` on an open file description of its own, and a process that gets ``LOCK_EX`` knows
that it is the only holder. A file becomes visible under its name only when it is complete.

This package knows nothing of records or locks inside a segment: the engines do (``shmqueue.engine``). It may assume
Linux; elsewhere it does what the platform allows, which is said at each place.
"""

from shmqueue.segment.contents import Contents, Leased, contents_of
from shmqueue.segment.directories import DirectoryProbe, probe_directory
from shmqueue.segment.handle import Replaced, Segment
from shmqueue.segment.header import (
    BY_BUFFER_SIZE,
    BY_MAX_BYTES,
    BY_MEMORY,
    HEADER_SIZE,
    KEEP,
    PRIVATE,
    SYSTEM_PAGESIZE,
    Header,
    Shape,
)
from shmqueue.segment.holders import holders_of
from shmqueue.segment.lifecycle import attach_segment, judge, open_segment, read_header
from shmqueue.segment.naming import directory, free_bytes, list_names, list_segments, path_of, total_bytes
from shmqueue.segment.removal import (
    list_strays,
    open_to_look,
    remove_if_unheld,
    remove_left_to_others,
    remove_name,
    remove_unarrived,
    sweep_orphans,
    sweep_strays,
)
from shmqueue.segment.roles import READER, WRITER
from shmqueue.segment.transit import Note

__all__ = [
    "BY_BUFFER_SIZE",
    "BY_MAX_BYTES",
    "BY_MEMORY",
    "HEADER_SIZE",
    "KEEP",
    "PRIVATE",
    "READER",
    "SYSTEM_PAGESIZE",
    "WRITER",
    "Contents",
    "DirectoryProbe",
    "Header",
    "Leased",
    "Note",
    "Replaced",
    "Segment",
    "Shape",
    "attach_segment",
    "contents_of",
    "directory",
    "free_bytes",
    "holders_of",
    "judge",
    "list_names",
    "list_segments",
    "list_strays",
    "open_segment",
    "open_to_look",
    "path_of",
    "probe_directory",
    "read_header",
    "remove_if_unheld",
    "remove_left_to_others",
    "remove_name",
    "remove_unarrived",
    "sweep_orphans",
    "sweep_strays",
    "total_bytes",
]
