"""A queue of each kind, and what child processes do with them: they import it from here."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

from shmqueue import ShmQueue
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue

KINDS: dict[str, Callable[[], Any]] = {
    "queue.Queue": our_queue.Queue,
    "queue.SimpleQueue": our_queue.SimpleQueue,
    "multiprocessing.Queue": our_multiprocessing.Queue,
    "multiprocessing.JoinableQueue": our_multiprocessing.JoinableQueue,
    "multiprocessing.SimpleQueue": our_multiprocessing.SimpleQueue,
    "ShmQueue": lambda: ShmQueue("of-each-kind"),
    "named": lambda: our_multiprocessing.Queue(name="of-each-kind"),
}


def make_queue(kind: str, settings: dict[str, str]) -> Any:
    os.environ.update(settings)
    q = KINDS[kind]()
    q.put("item")
    return q


def send_queue(carrier: Any, kind: str, settings: dict[str, str]) -> None:
    carrier.put(make_queue(kind, settings))


def take_one(q: Any) -> Any:
    try:
        return q.get()
    finally:
        q.close()


def unpickled(pickled: bytes) -> Any:
    return pickle.loads(pickled)
