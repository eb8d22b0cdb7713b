"""The work that is measured: the same two loops, whichever queue they are given.

The programs that run them import little else, and nothing of the command line.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypedDict

__all__ = ["Outcome", "consume", "end_with_parent", "produce"]

REPORT_EVERY = 20_000
"""Items between two reports of progress: seldom enough to cost nothing."""


class Outcome(TypedDict):
    """What a consumer tells: ``seconds`` from the first item to the last one; ``mistake`` if one was wrong."""

    items: int
    seconds: float
    mistake: str | None


def produce(put: Callable[[int], object], items: int) -> None:
    """Put the integers from 0 on."""
    for number in range(items):
        put(number)


def consume(get: Callable[[], Any], items: int, report: Callable[[int], object]) -> Outcome:
    """Take as many items and check that they are the integers from 0 on.

    The clock runs from the moment at which the first item is here, so the start of the producer is not measured.

    Args:
        report: called now and then with the number of items taken.
    """
    item = get()
    if item != 0:
        return _wrong(0, item)
    begin = time.perf_counter()
    for start in range(1, items, REPORT_EVERY):
        stop = min(start + REPORT_EVERY, items)
        for expected in range(start, stop):
            item = get()
            if item != expected:
                return _wrong(expected, item)
        report(stop)
    return {"items": items, "seconds": time.perf_counter() - begin, "mistake": None}


def _wrong(expected: int, item: object) -> Outcome:
    return {"items": expected, "seconds": 0.0, "mistake": f"item {expected} arrived as {item!r}"}


def end_with_parent(wait: Callable[[], object], give_up: Callable[[], object]) -> threading.Thread:
    """End this process when its parent is gone, however that ended.

    Args:
        wait: returns when the parent is gone; a thread waits in it.
        give_up: called then, before the process ends.

    Returns:
        The thread. A caller that finds a handle closed joins it and does not return: if the interpreter
        ended first, it would stop the thread half-way.
    """

    def watch() -> None:
        wait()
        give_up()
        os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    return watcher
