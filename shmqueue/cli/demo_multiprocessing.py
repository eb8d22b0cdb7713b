"""The demo's comparison: what the two children run between which a multiprocessing.Queue passes the same integers."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from multiprocessing.connection import Connection
from typing import Any

from shmqueue.cli.demo_work import consume, end_with_parent, produce

__all__ = ["run_consumer", "run_producer"]


def run_producer(control: Connection, queue: multiprocessing.Queue[int], items: int) -> None:
    """Say that this child is ready, and put integers when told to go."""
    _end_with_parent()
    control.send("ready")
    control.recv()
    produce(queue.put, items)


def run_consumer(control: Connection, queue: multiprocessing.Queue[int], items: int, taken: Any) -> None:
    """Say that this child is ready, take integers, and tell what came of it.

    Args:
        taken: a shared value that gets the number of items taken.
    """

    def report(number: int) -> None:
        taken.value = number

    _end_with_parent()
    control.send("ready")
    control.send(consume(queue.get, items, report))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel
    end_with_parent(lambda: multiprocessing.connection.wait([sentinel]), give_up=lambda: None)
