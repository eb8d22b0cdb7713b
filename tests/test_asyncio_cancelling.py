"""Coroutines that are cancelled have taken nothing, and put nothing."""

from __future__ import annotations

import asyncio
import json
import random
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncio_support import in_another_process, run_asyncio
from support import PATIENCE, is_asleep, python, wait_for_line, wait_until

from shmqueue.compat.asyncio import Queue

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def q(name: str) -> Iterator[Queue[Any]]:
    with Queue(name=name) as opened:
        yield opened


async def cancelled_at_random(call: Callable[[], Awaitable[Any]], rng: random.Random) -> tuple[bool, Any]:
    """Whether the call came to its end, and what it returned, though somebody may have cancelled it."""
    task = asyncio.ensure_future(call())
    for _ in range(rng.choice((0, 1, 1, 2, 3, 5))):
        await asyncio.sleep(0)
    if rng.random() < 0.3:
        await asyncio.sleep(rng.random() * 0.0005)
    task.cancel()
    try:
        return True, await task
    except asyncio.CancelledError:
        return False, None


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.thorough)])
def test_a_cancelled_get_has_taken_nothing(run: Callable[..., Any], q: Queue[int], name: str, count: int) -> None:
    rng = random.Random(count)

    async def main() -> None:
        got: list[int] = []

        async def consume() -> None:
            while len(got) < count:
                done, item = await cancelled_at_random(q.get, rng)
                if done:
                    got.append(item)

        with in_another_process(f"for number in range({count}): q.put(number)", name):
            consumers = [asyncio.create_task(consume()) for _ in range(4)]
            await asyncio.gather(*consumers)
        assert sorted(got) == list(range(count))

    run(main, PATIENCE + count / 50)


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.thorough)])
def test_a_cancelled_put_has_put_nothing(run: Callable[..., Any], name: str, count: int) -> None:
    rng = random.Random(count)

    async def main() -> None:
        put: list[int] = []
        with Queue[int](3, name=name) as q:
            numbers = iter(range(count))

            async def produce() -> None:
                for number in numbers:
                    done, _ = await cancelled_at_random(lambda number=number: q.put(number), rng)  # type: ignore[misc]
                    if done:
                        put.append(number)

            code = "print(*iter(q.get, None))"  # at the end: the pipe is not read before, and would be full
            with in_another_process(code, name) as process:
                await asyncio.gather(*(produce() for _ in range(4)))
                await q.put(None)  # type: ignore[arg-type]
                loop = asyncio.get_running_loop()
                output = await loop.run_in_executor(None, process.communicate)
        assert sorted(map(int, output[0].split())) == sorted(put)

    run(main, PATIENCE + count / 50)


@pytest.mark.parametrize("count", [200, pytest.param(50_000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_storm_of_cancellations_in_two_processes_loses_and_doubles_nothing(name: str, loop: str, count: int) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop", reason="uvloop is not installed")
    code = Path(__file__).with_name("cancel_storm.py").read_text(encoding="utf-8")
    with python(code, "get", name, loop, count) as getter, python(code, "put", name, loop, count) as putter:
        patience = PATIENCE + count / 100
        put, got = (json.loads(side.communicate(timeout=patience)[0]) for side in (putter, getter))
    assert min(put["cancelled"], got["cancelled"]) >= count
    assert sorted(got["numbers"]) == sorted(put["numbers"])


@pytest.mark.parametrize("is_called_first", [True, False])
def test_one_that_is_cancelled_when_it_is_called_passes_the_call_on(q: Queue[int], is_called_first: bool) -> None:
    async def main() -> None:
        first, second = asyncio.create_task(q.get()), asyncio.create_task(q.get())
        await asyncio.sleep(0)
        if is_called_first:
            q.put_nowait(1)
            first.cancel()
        else:
            first.cancel()
            q.put_nowait(1)
        assert await second == 1
        assert first.cancelled()

    run_asyncio(main)


def test_a_get_that_times_out_takes_nothing(q: Queue[int], name: str) -> None:
    async def main() -> None:
        for number in range(20):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(q.get(), 0.005)
            q.sync_queue.put(number)
            assert await asyncio.wait_for(q.get(), PATIENCE) == number

    run_asyncio(main)


def test_control_c_ends_the_program(name: str, engine: str) -> None:
    code = """
import asyncio, sys
from shmqueue.compat.asyncio import Queue

async def main():
    q = Queue(name=sys.argv[1])
    print("waits", flush=True)
    await q.get()

import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    with python(code, name) as process:
        wait_for_line(process, "waits")
        wait_until(
            lambda: is_asleep(process.pid), "the loop waits"
        )  # before 3.11 asyncio may miss one that comes earlier
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE)
        assert (output, errors, process.returncode) == ("interrupted\n", "", 0)
