"""What a segment contains, read from its file without attaching to it.

This package knows no layout of records. Each engine registers what reads its own (``shmqueue.engine.contents``).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from shmqueue.interruptions import not_of_handler
from shmqueue.segment.header import FIELDS, MAGIC

__all__ = ["Contents", "Layout", "Leased", "contents_of", "layout_of", "register_layout"]


class Leased(NamedTuple):
    """What the lease table of a segment says.

    ``held`` are the items that living processes have leased, ``stranded`` those whose process has ended: the next
    consumer that looks receives them. ``returned`` items were requeued. ``since`` is when the oldest of the held ones
    was leased, on the monotonic clock, in ns; 0 if there is none.
    """

    held: int = 0
    stranded: int = 0
    returned: int = 0
    since: int = 0


class Contents(NamedTuple):
    """The items in a segment, the bytes that they take, and whether the queue was shut down.

    ``items`` are all of them, those that are leased included.
    """

    items: int
    bytes_used: int
    is_shut_down: bool
    leased: Leased = Leased()


class Layout(NamedTuple):
    """What an engine offers to a caller that has only the file of a segment.

    ``versions`` are the layout versions that it can read. ``read`` returns the contents of the segment behind a
    descriptor, None if they contradict themselves; it changes nothing. ``clear`` removes the traces of processes that
    do not have the segment open any more: lock words and flags of sleepers. Its second argument tells whether the
    thread of an id still uses the file, and it returns whether none does. Only a process that has the segment's lock
    exclusively may call it.
    """

    versions: frozenset[int]
    read: Callable[[int], Contents | None]
    clear: Callable[[int, Callable[[int], bool]], bool]


_layouts: dict[str, Layout] = {}


def register_layout(engine: str, layout: Layout) -> None:
    """Let this package know the layout of an engine."""
    _layouts[engine] = layout


def layout_of(engine: str) -> Layout | None:
    """The layout of an engine; None when there is no such engine."""
    return _layouts.get(engine)


def contents_of(fd: int) -> Contents | None:
    """The contents of the segment behind a descriptor; None where they cannot be read."""
    try:
        data = os.pread(fd, FIELDS.size, 0) if hasattr(os, "pread") else b""
        if len(data) < FIELDS.size or not data.startswith(MAGIC):
            return None
        _, engine, version, *_ = FIELDS.unpack(data)
        layout = _layouts.get(engine.rstrip(b"\0").decode("ascii", "replace"))
        if layout is None or version not in layout.versions:
            return None
        contents = layout.read(fd)
        size = os.fstat(fd).st_size
    except not_of_handler(OSError):
        return None
    return contents if contents is not None and contents.bytes_used <= size else None
