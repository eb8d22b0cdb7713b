"""The checker of histories on what many operations of real queues see, and on a million operations."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count

import pytest
from history_support import empty, full, get, pending_get, put

from shmqueue.conformance.history import Operation, Order, Pattern, find_violation

Value = tuple[int, int]


def simulate(chance: random.Random, operations: int, maxsize: int) -> list[Operation]:
    """What three producers and three consumers see of a queue; some are killed, and the rest drains it."""
    history: list[Operation] = []
    held: list[int] = []
    unused = count()

    def step(moment: int, kind: str) -> None:
        invoked, returned = moment - chance.randrange(500), moment + chance.randrange(500)
        killed, too_early = chance.random() < 0.01, chance.random() < 0.5
        if kind == "get" and killed:
            if held and not too_early:
                held.pop(0)
            history.append(pending_get(invoked))
        elif kind == "get":
            history.append(get(held.pop(0), invoked, returned) if held else empty(invoked, returned))
        elif len(held) == maxsize and not killed:
            history.append(full(next(unused), invoked, returned))
        else:
            value = next(unused)
            if len(held) < maxsize and not (killed and too_early):
                held.append(value)
            history.append(put(value, invoked, None if killed else returned, chance.randrange(3)))

    for number in range(operations):
        step(number * 100, chance.choice(["put", "get"]))
    for number in count(operations):
        if not held:
            break
        step(number * 100, "get")
    chance.shuffle(history)
    return history


@pytest.mark.parametrize("seed", range(8))
def test_what_workers_see_of_a_queue_is_accepted(seed: int) -> None:
    chance = random.Random(seed)
    maxsize = chance.choice([1, 3, 50])
    history = simulate(chance, 3000, maxsize)
    for order in Order:
        for drained in (True, False):
            assert find_violation(history, order=order, drained=drained, maxsize=maxsize) is None


def test_what_threads_see_of_the_standard_queue_is_accepted() -> None:
    shared: queue.Queue[Value] = queue.Queue(10)
    history: list[Operation] = []

    def log(worker: int, kind: str, call: Callable[[], Value | None], value: Value | None) -> None:
        invoked, outcome = time.monotonic_ns(), "ok"
        try:
            value = call() or value
        except (queue.Empty, queue.Full) as error:
            outcome = type(error).__name__.lower()
        history.append(Operation(worker, kind, value, invoked, time.monotonic_ns(), outcome))  # type: ignore[arg-type]

    def produce(worker: int) -> None:
        for number in range(500):
            value = worker, number
            log(worker, "put", partial(shared.put_nowait, value), value)

    def consume(worker: int) -> None:
        while any(producer.is_alive() for producer in producers) or not shared.empty():
            log(worker, "get", shared.get_nowait, None)

    producers = [threading.Thread(target=produce, args=(worker,)) for worker in (0, 1)]
    consumers = [threading.Thread(target=consume, args=(worker,)) for worker in (2, 3)]
    for thread in (*producers, *consumers):
        thread.start()
    for thread in (*producers, *consumers):
        thread.join()
    assert find_violation(history, maxsize=10) is None


@pytest.fixture(scope="module")
def million() -> list[Operation]:
    """Half a million values, put a microsecond apart and got two milliseconds later, by operations that overlap."""
    chance = random.Random(1)
    history = []
    for operation, delay in ((put, 0), (get, 2_000_000)):
        for value in range(500_000):
            moment = value * 1000 + delay
            times = moment - chance.randrange(1500), moment + chance.randrange(1500)
            history.append(operation(value, *times, worker=chance.randrange(4)))
    return history


@pytest.mark.thorough
def test_a_million_operations_are_accepted(million: list[Operation]) -> None:
    assert find_violation(million) is None


@pytest.mark.thorough
@pytest.mark.parametrize("distance", [10, 1000])
def test_two_swapped_values_among_a_million_operations_are_named(million: list[Operation], distance: int) -> None:
    history = list(million)
    first, then = 750_000, 750_000 + distance
    history[first] = million[first]._replace(value=million[then].value)
    history[then] = million[then]._replace(value=million[first].value)
    violation = find_violation(history)
    assert violation is not None
    assert violation.pattern is Pattern.ORDER
    assert violation.operations == (million[250_000], million[250_000 + distance], history[then], history[first])
