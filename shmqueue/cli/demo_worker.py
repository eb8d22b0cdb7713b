"""One program of the demonstration; run by ``shmqueue.cli.demo`` as a script of its own.

``produce NAME ITEMS`` and ``consume NAME ITEMS`` share nothing but the queue's name. ``multiprocessing ITEMS`` does the
same work with a child process, on the standard library's queue. A producer starts at a line on its standard input; a
consumer prints how far it is, and at last what it measured as one line of JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable
from typing import Any

REPORT_EVERY = 50_000  # items


def produce(put: Callable[[int], object], items: int) -> None:
    for number in range(items):
        put(number)


def consume(get: Callable[[], int], items: int) -> None:
    """Take the items, check their order, and time them from the first one's arrival to the last one's."""
    in_order = get() == 0
    start = time.perf_counter()
    for begin in range(1, items, REPORT_EVERY):
        for number in range(begin, min(begin + REPORT_EVERY, items)):
            if get() != number:
                in_order = False
        print(min(begin + REPORT_EVERY, items), flush=True)
    seconds = time.perf_counter() - start
    print(json.dumps({"items": items, "seconds": seconds, "in order": in_order}), flush=True)


def ready_and_wait() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def produce_when_told(queue: Any, go: Any, items: int) -> None:
    go.wait()
    produce(queue.put, items)


def on_multiprocessing_queue(items: int) -> None:
    context = multiprocessing.get_context("spawn")
    queue, go = context.Queue(), context.Event()
    producer = context.Process(target=produce_when_told, args=(queue, go, items), daemon=True)
    producer.start()
    ready_and_wait()
    go.set()
    consume(queue.get, items)
    producer.join()


def main(role: str, *arguments: str) -> None:
    items = int(arguments[-1])
    if role == "multiprocessing":
        on_multiprocessing_queue(items)
        return
    from shmqueue import ShmQueue

    with ShmQueue(arguments[0], create=False) as queue:
        if role == "produce":
            ready_and_wait()
            produce(queue.put, items)
        else:
            print("ready", flush=True)
            consume(queue.get, items)


if __name__ == "__main__":
    main(*sys.argv[1:])
