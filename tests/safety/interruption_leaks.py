"""Nothing is kept: memory, descriptors and mappings stay as they are over many calls, failing ones included.

Fails if: the number of memory blocks, descriptors or mappings grows with the number of calls, or an interrupted call
fails afterwards.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import shmqueue

from .busy import at_least
from .interruption_calls import Call, Target, calls_of, counts_of, engine_of, new_name
from .interruption_items import Refuses
from .interruption_points import LOSES_ARGUMENTS, Interrupt, NoMemory, why_no_memory_failures
from .outcome import Outcome

_WINDOW = 30  # calls over which growth is measured
_WINDOWS = 3  # what grows in all of them leaks; what fills a cache does so once


def check_calls(target: Target, outcome: Outcome, seconds: float) -> None:
    """The blocks that the interpreter has allocated do not grow with the calls."""
    name = new_name()
    queue = target.make(name)
    calls = list(calls_of(target))
    end = time.monotonic() + seconds
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        for what, run in _workloads(target, queue, calls):
            growth = _WINDOW
            windows = 0
            while growth >= _WINDOW // 2 and windows < _WINDOWS:
                growth = _growth(run, outcome)
                windows += 1
            outcome.note_worst("worst growth in blocks per call", round(growth / _WINDOW, 2))
            if growth >= _WINDOW // 2:
                outcome.fault(f"{what}: {growth} blocks more after {_WINDOW} calls, again and again")
        rounds += 1
    target.close(queue)


def _growth(run: Callable[[], None], outcome: Outcome) -> int:
    run()
    before = _blocks()
    for _ in range(_WINDOW):
        run()
    outcome.count("calls watched for leaks", _WINDOW)
    return _blocks() - before


def _blocks() -> int:
    """Blocks that are allocated, without garbage and without the names that CPython's cache of attributes keeps."""
    gc.collect()
    getattr(sys, "_clear_internal_caches", sys._clear_type_cache)()
    return sys.getallocatedblocks()


def _workloads(target: Target, queue: Any, calls: list[Call]) -> list[tuple[str, Callable[[], None]]]:
    """What is repeated: each leaves the queue as it was."""
    engine = "portable" if hasattr(engine_of(queue), "_lock") else "native"
    found = [(call.name, _there_and_back(target, queue, call)) for call in calls if call.puts]
    found.append(("put of what cannot be pickled", _failing(lambda: queue.put(Refuses()))))
    if why_no_memory_failures(engine) is None and not (LOSES_ARGUMENTS and engine == "portable"):
        for call in calls:
            if call.takes and call.is_whole:
                found.extend((f"{call.name} without memory", _without_memory(queue, call, point)) for point in range(3))
    return found


def _there_and_back(target: Target, queue: Any, call: Call) -> Callable[[], None]:
    def run() -> None:
        call.run(queue)
        if len(call.puts) > 1:
            queue.get_many(len(call.puts))
        while not queue.empty():
            queue.get()

    return run


def _failing(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            call()
        except (ArithmeticError, shmqueue.ShmQueueError):
            pass

    return run


def _without_memory(queue: Any, call: Call, point: int) -> Callable[[], None]:
    def run() -> None:
        if queue.empty():
            for item in call.before:
                queue.put(item)
        injection = NoMemory(point, True)
        injection.run(call, queue)

    return run


def _resources() -> tuple[int, int]:
    with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
        return len(os.listdir("/proc/self/fd")), sum("shmqueue-" in line for line in maps)


def check_life(target: Target, outcome: Outcome, seconds: float) -> None:
    """Descriptors and mappings do not grow with the queues that are opened and closed."""
    target.close(target.make(new_name()))
    gc.collect()
    before = _resources()
    end = time.monotonic() + seconds
    opened = 0
    while opened < 20 or time.monotonic() < end:
        name = new_name()
        first, second = target.make(name), target.make(name)
        first.put([1])
        second.get()
        target.close(first)
        if opened % 2:
            target.close(second)  # else the finalizer does it
        del first, second
        opened += 1
    gc.collect()
    outcome.count("queues opened and closed", opened)
    if (after := _resources()) != before:
        outcome.fault(f"after {opened} queues (descriptors, mappings) went from {before} to {after}")


def check_life_interrupted(target: Target, outcome: Outcome, seconds: float) -> None:
    """KeyboardInterrupt at the instructions of opening, attaching and closing.

    What was interrupted may keep its descriptors until the process ends; the name works for all others.
    """
    end = time.monotonic() + seconds
    for what in ("open", "attach", "close"):
        point, step = 0, 1
        end_of_this = time.monotonic() + max(0.0, end - time.monotonic()) / 3
        began = time.monotonic()
        while _interrupt_life(target, what, point, outcome):
            outcome.count("instructions of a queue's life interrupted")
            spent = (time.monotonic() - began) / (point // step + 1)
            step = max(1, int(_POINTS_OF_LIFE * spent / max(0.05, end_of_this - began)))
            point += step
            if time.monotonic() > end_of_this + _GRACE:
                break


_POINTS_OF_LIFE = 2500  # about as many as there are
_GRACE = at_least(1.0)  # seconds


def _is_the_interpreters_own(error: BaseException | None) -> bool:
    """Whether the exception came between the instructions that begin or end a handler, where no real one comes.

    It unbalances the interpreter's stack, and the handler finds a traceback where its exception should be.
    """
    return isinstance(error, TypeError) and "'traceback' object" in str(error)


def _interrupt_life(target: Target, what: str, point: int, outcome: Outcome) -> bool:
    name = new_name()
    other = None if what == "open" else target.make(name)
    queue = target.make(name) if what == "close" else None
    injection = Interrupt(point, (0, 0, 0))
    call = partial(target.make, name) if queue is None else partial(target.close, queue)
    _, error = injection.run_plain(call)
    if error is not None and _is_the_interpreters_own(error):
        outcome.count("interruptions that no real one can be")
    elif error is not None and not isinstance(error, KeyboardInterrupt):
        outcome.fault(f"{what}, interrupted at {injection.where}, raised {error!r:.150}")
    error = None
    if queue is not None:
        target.close(queue)
    del queue, call
    before = _resources()[0]
    another = target.make(name)
    another.put([point])
    got = (other or another).get()
    if got != [point] or counts_of(another)[0] < 1:
        outcome.fault(f"{what}, interrupted at {injection.where}: then {got!r} was got")
    target.close(another)
    if other is not None:
        target.close(other)
    outcome.note_worst("worst number of descriptors", before)
    return injection.is_reached
