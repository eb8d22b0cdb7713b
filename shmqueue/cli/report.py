"""What the command line shows, as plain data: queues, one queue, this installation."""

from __future__ import annotations

import os
import platform
import stat
import sys
import time
from dataclasses import asdict
from importlib import metadata
from typing import Any

import shmqueue
from shmqueue import ShmQueue, ShmQueueError, ShmQueueNotFoundError, ShmQueueRefusedError, engine, segment
from shmqueue.engine import Counters

__all__ = ["Data", "all_queues", "installation", "one_queue", "remove", "sentence", "use_engine_of"]

Data = dict[str, Any]

SMALL_SHM = 64 << 20  # what container runtimes give unless told otherwise


def sentence(error: Exception) -> str:
    """An error in one line; those of the operating system without their number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error)


def all_queues() -> list[Data]:
    """A dictionary for each of this user's queues; one that cannot be read has the reason under ``problem``."""
    return [_row(name) for name in segment.list_names()]


def _row(name: str) -> Data:
    path = segment.path_of(name)
    row: Data = {"name": name, "holders": segment.holders_of(path)}  # before this process becomes one itself
    try:
        header = segment.read_header(path)
        row |= {
            "size": header.capacity,
            "age": max(0.0, time.time() - header.created / 1e9),
            "engine": header.engine,
        }
        counters = _counters(name, header)
        row |= {"items": counters.qsize, "bytes": counters.occupancy}
    except (ShmQueueError, OSError) as error:
        row["problem"] = getattr(error, "strerror", None) or str(error)  # the path says no more than the name
    return row


def _counters(name: str, header: segment.Header) -> Counters:
    handle = segment.attach_segment(name, segment.directory(), header.uuid)
    try:
        records = engine.open_engine(handle)
        try:
            return Counters(*records.counters())
        finally:
            records.close()
    finally:
        handle.close()


def one_queue(name: str) -> Data:
    """Everything about one queue.

    Raises:
        ShmQueueError: there is none, or it cannot be read.
    """
    path = segment.path_of(name)
    holders = segment.holders_of(path)
    header = segment.read_header(path)
    use_engine_of(name)
    with ShmQueue(name, create=False) as queue:
        snapshot = queue.snapshot()._asdict()
        del snapshot["ref_count"]  # it would count this process
        return {
            "name": name,
            "path": path,
            "engine": header.engine,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(header.created / 1e9)),
            "holders": holders,
            "maxsize": header.maxsize,
            "bytes": queue.buffer_occupancy(),
            "unfinished": queue.unfinished_tasks,
            **snapshot,
            "statistics": asdict(queue.statistics()),
        }


def use_engine_of(name: str) -> None:
    """Use the engine of an existing queue, so that the command works with the programs that share it."""
    try:
        os.environ["SHMQUEUE_ENGINE"] = segment.read_header(segment.path_of(name)).engine
    except ShmQueueNotFoundError:
        pass  # a new queue gets the engine that everything else gets


def remove(name: str) -> None:
    """Take a queue's name away, damaged or not. Those who hold it go on.

    Raises:
        ShmQueueNotFoundError: there is none.
        ShmQueueRefusedError: what lies there is no file of this user.
    """
    path = segment.path_of(name)
    try:
        status = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        raise ShmQueueNotFoundError(f"there is no queue called {name!r}") from None
    if not stat.S_ISREG(status.st_mode) or (hasattr(os, "geteuid") and status.st_uid != os.geteuid()):
        raise ShmQueueRefusedError(f"{path} is not a regular file of this user: not removed")
    os.unlink(path)


def installation() -> Data:
    """Which engine serves and why, versions, and the memory that there is."""
    free = segment.free_bytes()
    return {
        "engine": engine.chosen(),
        "why not native": engine.REASON,
        "directory": segment.directory(),
        "free bytes": free,
        "free bytes warning": f"less than {SMALL_SHM >> 20} MiB are free" if 0 <= free < SMALL_SHM else None,
        "orphans": [row["name"] for row in all_queues() if not row["holders"]],
        "shmqueue": shmqueue.__version__,
        "msgpack": metadata.version("msgpack"),
        "shmlock": metadata.version("shmlock"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": f"{platform.platform()}, {os.cpu_count()} processors",
        "executable": sys.executable,
    }
