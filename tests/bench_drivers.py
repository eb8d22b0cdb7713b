"""Queues that do wrong, for the benchmark to find out. They are named to it as ``bench_drivers:Class``."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

from shmqueue.cli.bench.drivers import Driver, Plan, Receiver, Sender


class _Standard(Driver):
    """A correct queue, except for what a subclass does to its items when they are taken."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.queue: Any = multiprocessing.get_context("fork").Queue()

    def sender(self, index: int) -> Sender:
        return Sender(self.queue.put)

    def receiver(self, index: int) -> Receiver:
        taken = 0

        def get() -> Any:
            nonlocal taken
            taken += 1
            return self.pass_on(self.queue.get(), taken)

        return Receiver(get)

    def pass_on(self, item: Any, taken: int) -> Any:
        """What the consumer gets for its item with this number, counted from 1."""
        return item


class Right(_Standard):
    """Does nothing wrong."""


class Corrupting(_Standard):
    """Alters the price of a dict, one of the ints, a byte in the middle of bytes, and one dict of a list."""

    def pass_on(self, item: Any, taken: int) -> Any:
        if taken != 50:
            return item
        if isinstance(item, dict):
            return {**item, "price": 0.0}
        if isinstance(item, list):
            return [{**each, "price": 0.0} for each in item]
        return -item if isinstance(item, int) else item.replace(b"\xf8", b"\xff")


class Losing(_Standard):
    """Loses an item and gives the next one."""

    def pass_on(self, item: Any, taken: int) -> Any:
        return self.queue.get() if taken == 50 else item


class Doubling(_Standard):
    """Gives an item twice."""

    def pass_on(self, item: Any, taken: int) -> Any:
        if taken == 50:
            self.last = item
        return self.last if taken == 51 else item


class Hanging(_Standard):
    """Stops giving items, in a process that does not listen to SIGTERM."""

    def pass_on(self, item: Any, taken: int) -> Any:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while taken >= 50:
            time.sleep(1)
        return item


class Dying(_Standard):
    """Its consumer is killed."""

    def pass_on(self, item: Any, taken: int) -> Any:
        if taken == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return item


class Deaf(Driver):
    """Is never made, in a process that does not listen to SIGTERM."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            time.sleep(1)
