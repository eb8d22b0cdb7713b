"""One side of a storm of cancellations: ``python cancel_storm.py put|get NAME asyncio|uvloop COUNT``.

Two such processes share a small queue, so that both often wait. Each has tasks that are cancelled after any number of
steps of the loop, and at random moments. They go on until each has seen ``COUNT`` cancellations. Each then prints JSON:
how many there were, and the numbers that it has put, or got.
"""

from __future__ import annotations

import asyncio
import functools
import json
import random
import sys
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

from shmqueue.compat.asyncio import Queue

TASKS = 4
STEPS = 6
"""More than any call here takes when it need not wait."""


class Side:
    """What one process does.

    Args:
        enough: how many cancellations it has to see.
    """

    def __init__(self, name: str, enough: int) -> None:
        self.items: Queue[int | None] = Queue(3, name=name)
        self.ends: Queue[str] = Queue(name=f"{name}-ends")
        self.random = random.Random(enough)
        self.enough = enough
        self.cancelled = 0
        self.done: list[int] = []

    async def attempt(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> tuple[bool, Any]:
        """Whether a call came to its end, and what it returned, though it may have been cancelled."""
        task = asyncio.ensure_future(call())
        steps = self.random.randrange(STEPS + 2)
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps > STEPS:
            await asyncio.sleep(self.random.random() * 0.0005)
        task.cancel()
        try:
            return True, await task
        except asyncio.CancelledError:
            self.cancelled += 1
            return False, None

    async def put(self) -> None:
        numbers = count()
        other_is_done = asyncio.ensure_future(self.ends.get())

        async def produce() -> None:
            while self.cancelled < self.enough or not other_is_done.done():
                number = next(numbers)
                was_put, _ = await self.attempt(functools.partial(self.items.put, number))
                if was_put:
                    self.done.append(number)

        await asyncio.gather(*(produce() for _ in range(TASKS)))
        for _ in range(TASKS):
            await self.items.put(None)

    async def get(self) -> None:
        has_told = False

        async def consume() -> None:
            nonlocal has_told
            while True:
                was_got, number = await self.attempt(self.items.get)
                if was_got and number is None:
                    return
                if was_got:
                    self.done.append(number)
                if self.cancelled >= self.enough and not has_told:
                    has_told = True
                    await self.ends.put("enough")

        await asyncio.gather(*(consume() for _ in range(TASKS)))


def main(role: str, name: str, loop: str, enough: int) -> None:
    side = Side(name, enough)
    run: Any = asyncio.run
    if loop == "uvloop":
        import uvloop

        runner = uvloop.new_event_loop()
        run = runner.run_until_complete
    run(side.put() if role == "put" else side.get())
    json.dump({"cancelled": side.cancelled, "numbers": side.done}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
