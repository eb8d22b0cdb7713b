"""Queues that have a descriptor, of every kind, and what a process has open because of them."""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from shmqueue import ShmQueue

KINDS = ["queue.Queue", "mp.Queue", "mp.JoinableQueue", "mp.SimpleQueue", "ShmQueue"]


OpenQueue = Callable[[str], Any]
"""Makes a queue of the kind."""


@contextmanager
def opened_by_kind() -> Iterator[OpenQueue]:
    """Makes queues; closes them at the end."""
    opened: list[Any] = []

    def open_kind(kind: str) -> Any:
        opened.append(maker(kind)())
        return opened[-1]

    yield open_kind
    for q in opened:
        q.close()


_numbers = itertools.count()


def maker(kind: str) -> Any:
    if kind == "ShmQueue":
        return lambda: ShmQueue(f"with-descriptor-{next(_numbers)}")
    module, name = kind.split(".")
    return getattr(importlib.import_module(f"shmqueue.compat.{'multiprocessing' if module == 'mp' else module}"), name)


def source_of(q: Any) -> Any:
    """What programs give to ``wait()`` or to a selector."""
    return getattr(q, "_reader", q)


def descriptors() -> set[str]:
    return {f"{fd}: {os.readlink(f'/proc/self/fd/{fd}')}" for fd in os.listdir("/proc/self/fd") if is_open(fd)}


def is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")
