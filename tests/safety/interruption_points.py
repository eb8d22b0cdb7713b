"""An exception at every point of a call: where memory is asked for, and at each instruction of our Python code.

Fails if: an interrupted call is done in part, does nothing without saying so, or keeps references; or another process
finds anything else than the counts say.
"""

from __future__ import annotations

import gc
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import shmqueue
import shmqueue.compat

from .interruption_calls import Call, Counts, Target, calls_of, counts_of, engine_of, has_lock, new_name
from .interruption_process import Neighbour
from .outcome import Outcome

try:
    import _testcapi  # type: ignore[import-not-found]
except ImportError:  # some distributions leave it out
    _testcapi = None

OURS = tuple(os.path.dirname(str(module.__file__)) + os.sep for module in (shmqueue, shmqueue.compat))
LOSES_ARGUMENTS = (3, 11) <= sys.version_info < (3, 13)
"""Whether CPython loses a reference to each argument of a function that it cannot make a cell for."""

CRASHES_WITHOUT_CELLS = sys.version_info >= (3, 12)
"""Whether the interpreter may crash when it cannot make a cell, whosever function it is for."""

_ENOUGH = 5  # faults
_A_WHILE = 20  # allocations; after about 40 the interpreter gives up by itself
_GOES_THROUGH = 4  # as many points in a row at which nothing failed: the call has no more of them


def why_no_memory_failures(engine: str) -> str | None:
    """Why allocations cannot be made to fail here with this engine, or None."""
    if not hasattr(_testcapi, "set_nomemory"):
        return "this Python has no _testcapi.set_nomemory"
    if CRASHES_WITHOUT_CELLS and engine == "portable":
        return "this Python crashes when a function with cells, of which the portable engine is made, gets no memory"
    return None


class NoMemory:
    """Allocations fail from the ``point``-th of a call on: that one, or so many that follow that nothing can be mended.

    Not all: since 3.11 CPython tries for ever to enter an exception handler when it has no memory for a number.
    """

    def __init__(self, point: int, for_a_while: bool) -> None:
        self._arguments = (point, point + (_A_WHILE if for_a_while else 1))
        self.expected: Counts | None = None

    def spares_loading(self, queue: Any) -> bool:
        """Whether a scalar can be loaded after all: the native engine does so before it takes it, others try twice."""
        return self._arguments[1] - self._arguments[0] == 1 or not hasattr(engine_of(queue), "_lock")

    def run(self, call: Call, queue: Any) -> tuple[Any, BaseException | None]:
        result, error, run, remove = None, None, call.run, _testcapi.remove_mem_hooks
        try:
            _testcapi.set_nomemory(*self._arguments)
            result = run(queue)
            remove()
        except BaseException as raised:
            remove()
            error = raised
        return result, error


class Interrupt:
    """KeyboardInterrupt before the ``point``-th instruction of our Python code in a call.

    ``expected`` is what must have become of the counts: what had happened stays, except what the portable engine did
    under the lock that it still had.
    """

    def __init__(self, point: int, before: Counts, roots: tuple[str, ...] = OURS) -> None:
        self._left = point
        self._roots = roots
        self._before = before
        self._queue: Any = None
        self.expected: Counts | None = None
        self.where = ""

    def run(self, call: Call, queue: Any) -> tuple[Any, BaseException | None]:
        self._queue = queue
        return self.run_plain(lambda: call.run(queue))

    @property
    def is_reached(self) -> bool:
        """Whether the call had that many instructions. What a finalizer raises does not come out of the call."""
        return self._left < 0

    def run_plain(self, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        result, error = None, None
        # Kept until the end: to call the trace function CPython 3.11 makes a frame object, which may collect garbage.
        # If a weak reference's callback is traced then, and raises, the interpreter drops the trace function and calls
        # it all the same: without this reference it is freed memory.
        enter = self._enter
        try:
            sys.settrace(enter)
            result = next(_alone(call))
            sys.settrace(None)
        except BaseException as raised:
            sys.settrace(None)
            error = raised
        return result, error

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._roots):
            return None
        frame.f_trace_opcodes = True
        return self._step

    def _step(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            if self._left == 0:
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"
                if self._queue is not None:
                    self.expected = self._before if has_lock(self._queue) else counts_of(self._queue)
                self._left = -1
                raise KeyboardInterrupt
            self._left -= 1
        return self._step


class Trial:
    """One class of queues under exceptions, with a neighbour that looks at the queue after each."""

    def __init__(self, target: Target, queue: Any, neighbour: Neighbour, outcome: Outcome) -> None:
        self.target, self.queue, self.neighbour, self.outcome = target, queue, neighbour, outcome
        self._has_garbage = True

    def fill(self, call: Call) -> None:
        """Make the queue what it is before the call."""
        self.neighbour.exchange(list(call.before))
        call.prepare(self.queue)

    def warm(self, call: Call) -> None:
        """Make the call once, for what the first one keeps."""
        self.fill(call)
        call.run(self.queue)
        self._has_garbage = True

    def memory_failures(self, call: Call, seconds: float) -> None:
        """Every allocation of the call fails, alone and with those that follow, until the call goes through.

        When the time is over, the steps from one to the next get larger.
        """
        deadline = time.monotonic() + seconds
        for for_a_while in (False, True):
            point = through = 0
            step = 1
            while through < _GOES_THROUGH and len(self.outcome.faults) < _ENOUGH:
                self._has_garbage = True  # a collection empties the free lists, from which tuples need no allocation
                _, raised = self._inject(call, lambda before, p=point, a=for_a_while: NoMemory(p, a))  # type: ignore[misc]
                self.outcome.count("allocations that failed", raised)
                through = 0 if raised else through + 1
                step = 2 * step if time.monotonic() > deadline else 1
                point += step

    def interrupts(self, call: Call, points: Iterator[int]) -> None:
        """KeyboardInterrupt at the given points, until the call goes through."""
        for point in points:
            if len(self.outcome.faults) >= _ENOUGH:
                return
            injection, _ = self._inject(call, lambda before, p=point: Interrupt(p, before))  # type: ignore[misc]
            if not injection.is_reached:
                return
            self.outcome.count("instructions interrupted")

    def _inject(self, call: Call, how: Callable[[Counts], Any]) -> tuple[Any, bool]:
        """One exception, and a look at everything. Returns the injection, and whether the call raised."""
        self.fill(call)
        if self._has_garbage:
            gc.collect()
            self._has_garbage = False
        items = [*call.puts, call.run, self.queue]
        references = _references(items)
        before = counts_of(self.queue)
        injection = how(before)
        result, error = injection.run(call, self.queue)
        where = f"{call.name}, {_describe(injection, error)}"
        raised = error is not None
        if error is not None:
            error.__traceback__ = error.__cause__ = error.__context__ = None
        error = None
        injection._queue = None
        if _references(items) != references:
            self._has_garbage = True
            gc.collect()
            if not raised and not isinstance(injection, NoMemory):
                self.outcome.fault(f"{where}: what it has put stays until the next garbage collection")
            self.outcome.count("references kept until a collection, by an exception")
        if LOSES_ARGUMENTS and call.has_cells and isinstance(injection, NoMemory):
            items = []
        kept = [
            f"{type(item).__name__} {more:+}"
            for item, more in zip(items, _more(items, references), strict=False)
            if more
        ]
        if kept:
            self.outcome.fault(f"{where}: the references to its items have changed: {kept}")
        self._judge(call, where, before, injection, raised, result)
        return injection, raised

    def _judge(self, call: Call, where: str, before: Counts, injection: Any, raised: bool, result: Any) -> None:
        after = counts_of(self.queue)
        done = after != before
        if raised:
            self.outcome.count("exceptions raised")
            expected = injection.expected
            if expected is None:  # memory was short
                if done and call.takes and not (call.is_whole and injection.spares_loading(self.queue)):
                    self.outcome.count("items taken that could not be loaded", after[1] - before[1])
                elif done:
                    self.outcome.fault(f"{where}: it raised, and the counts went from {before} to {after}")
            elif after != expected:
                self.outcome.fault(f"{where}: the counts are {after}, and were {expected} when it was interrupted")
            elif done and call.takes:
                self.outcome.count("items taken by a get that was interrupted on its way back", after[1] - before[1])
        elif call.takes and result != call.result:
            self.outcome.fault(f"{where}: it returned {result!r:.80}, not {call.result!r:.80}")
        elif (call.takes or call.puts) and not done:
            self.outcome.fault(f"{where}: it did nothing, and did not say so")
        if done and after not in (
            (before[0] + len(call.puts), before[1] + call.takes, before[2]),
            (before[0], before[1], before[2] + (call.name == "task_done")),
        ):
            self.outcome.fault(f"{where}: done in part: the counts went from {before} to {after}")
        queued = self.neighbour.exchange([])
        self.outcome.count("items accounted", len(queued))
        if queued != call.after(done and call.name != "task_done"):
            self.outcome.fault(f"{where}: another process finds {queued!r:.150}")


def _alone(call: Callable[[], Any]) -> Iterator[Any]:
    """Make the call. An exception between the instructions that begin or end a handler unbalances the interpreter's
    stack of handled exceptions, which no real one can; a generator has a stack of its own.
    """
    yield call()


def _references(items: list[Any]) -> list[int]:
    return [sys.getrefcount(item) for item in items]


def _more(items: list[Any], before: list[int]) -> list[int]:
    return [now - then for now, then in zip(_references(items), before, strict=False)]


def _describe(injection: Any, error: BaseException | None) -> str:
    kind = "went through" if error is None else repr(error)[:100]
    if isinstance(injection, NoMemory):
        return f"allocation {injection._arguments} failing ({kind})"
    return f"interrupted at {injection.where} ({kind})"


def check_memory(target: Target, outcome: Outcome, seconds: float) -> None:
    """Allocation failures in all calls of a class; as many of them as there is time for."""
    name = new_name()
    queue = target.make(name)
    with Neighbour(name) as neighbour:
        trial = Trial(target, queue, neighbour, outcome)
        calls = [call for call in calls_of(target) if not (CRASHES_WITHOUT_CELLS and call.has_cells)]
        deadline = time.monotonic() + seconds
        for index, call in enumerate(calls):
            trial.warm(call)
            trial.memory_failures(call, (deadline - time.monotonic()) / (len(calls) - index))
            if len(outcome.faults) >= _ENOUGH:
                break
    target.close(queue)


def check_instructions(target: Target, outcome: Outcome, seconds: float, seed: int) -> None:
    """KeyboardInterrupt at the instructions of all calls of a class; as many of them as there is time for."""
    name = new_name()
    queue = target.make(name)
    rng = random.Random(seed)
    with Neighbour(name) as neighbour:
        trial = Trial(target, queue, neighbour, outcome)
        calls = list(calls_of(target))
        deadline = time.monotonic() + seconds
        for index, call in enumerate(calls):
            trial.warm(call)
            share = max(0.0, deadline - time.monotonic()) / (len(calls) - index)
            trial.interrupts(call, _points(queue, call, trial, share, rng))
            if len(outcome.faults) >= _ENOUGH:
                break
    target.close(queue)


def _points(queue: Any, call: Call, trial: Trial, share: float, rng: random.Random) -> Iterator[int]:
    """All points in order if the time suffices for them, else in steps, from a random one on."""
    trial.fill(call)
    counter = Interrupt(1 << 40, (0, 0, 0))
    counter.run(call, queue)
    count = (1 << 40) - counter._left
    trial.outcome.count("instructions", count)
    end = time.monotonic() + share
    began, step, point = time.monotonic(), 1, 0
    tried = 0
    while point <= count:
        yield point
        tried += 1
        now = time.monotonic()
        left = max(0.0, end - now) / ((now - began) / tried)  # points that there is time for
        step = 1 if count - point <= left else min(count, int((count - point) / max(1.0, left)) + 1)
        point += step if step == 1 else rng.randint(1, 2 * step - 1)
