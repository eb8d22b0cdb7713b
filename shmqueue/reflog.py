"""The debug log of references: which process created, attached to and closed a queue, one JSON object a line.

A line is appended with a single write to a file opened for appending, so lines of many processes never mix and the
file can be read while they write. A line that something else left there is passed over, and a log that cannot be
written never stops a queue.
"""

from __future__ import annotations

import enum
import json
import os
import tempfile
import time
from typing import Any

from shmqueue.interruptions import not_of_handler

__all__ = ["DebugRefLogAction", "append", "path_for", "read"]


class DebugRefLogAction(enum.Enum):
    """What a line tells."""

    CREATE = "create"
    ATTACH = "attach"
    SHUTDOWN = "shutdown"


def path_for(queue_name: str, asked: bool | str) -> str | None:
    """The log's path: ``asked`` itself if it is a path, a file in the temporary directory if True, None if False."""
    if isinstance(asked, str):
        return asked
    if not asked:
        return None
    safe = "".join(char if char.isalnum() or char in "._-" else f"%{ord(char):02X}" for char in str(queue_name))
    return os.path.join(tempfile.gettempdir(), f"shmqueue-refs-{safe}.jsonl")


def append(path: str, action: DebugRefLogAction, queue_name: str, refs_after: int) -> None:
    """Add a line with the time (seconds since the epoch), this process, the action, and the handles left after it."""
    line = {"time": time.time(), "pid": os.getpid(), "action": action.value, "name": queue_name, "refs": refs_after}
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            os.write(fd, json.dumps(line).encode() + b"\n")
        finally:
            os.close(fd)
    except not_of_handler(OSError):
        pass  # a full disk or a foreign file must not stop a queue


def read(path: str) -> list[dict[str, Any]]:
    """The log's entries in the order in which they were written; lines that are none are left out."""
    entries = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except not_of_handler(ValueError):
                continue
            if isinstance(entry, dict) and {"time", "pid", "action", "name", "refs"} <= entry.keys():
                entries.append(entry)
    return entries
