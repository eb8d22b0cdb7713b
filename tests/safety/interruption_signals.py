"""Real signals at random moments of puts and gets, blocked ones and busy ones.

Fails if: a waiting call does not end soon after its signal, or an item is missing, doubled or out of order that no
interrupted get explains.
"""

from __future__ import annotations

import _thread
import itertools
import multiprocessing
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from shmqueue import ShmQueue

from .busy import at_least
from .interruption_calls import Target, new_name
from .interruption_process import STUCK, Neighbour, Stuck
from .outcome import Outcome

_FORK = multiprocessing.get_context("fork")
_END = -1
_ENDS = 1000  # of which interrupted gets may lose some
_SLICE = 0.1  # seconds after which a sleeping call looks whether something has happened, at the latest
_WEDGED = _SLICE + at_least(1.0)  # seconds: what a busy machine may add


_FULL = {"ShmQueue": b"x" * ((1 << 20) - 13), "multiprocessing.SimpleQueue": b"x" * 65536}
"""An item that fills a queue of the class; the others are never full."""


class Interrupted(BaseException):
    """Raised by the signal handler."""


class _Handler:
    """Raises, and remembers when; a handler that came too late for its call is not to disturb the next."""

    def __init__(self) -> None:
        self.armed = False

    def __call__(self, number: int, frame: object) -> None:
        if self.armed:
            self.armed = False
            raise Interrupted


def check_blocked(target: Target, outcome: Outcome, seconds: float, seed: int) -> None:
    """A get that waits in an empty queue, and a put that waits in a full one, end at a signal and change nothing."""
    rng = random.Random(seed)
    handler = _Handler()
    signal.signal(signal.SIGALRM, handler)
    signal.signal(signal.SIGINT, handler)
    name = new_name()
    queue = target.make(name)
    with Neighbour(name) as neighbour:
        _interrupt_waits(handler, queue.get, outcome, rng, seconds / 2)
        filling = _FULL.get(target.name)
        if filling is not None:
            queue.put(filling)
            _interrupt_waits(handler, lambda: queue.put("one too many"), outcome, rng, seconds / 2)
            if (left := [queue.get() for _ in range(queue.qsize() if hasattr(queue, "qsize") else 1)]) != [filling]:
                outcome.fault(f"after a waiting put was interrupted the queue holds {left!r:.80}")
        if (found := neighbour.exchange([])) != []:
            outcome.fault(f"after waiting calls were interrupted another process finds {found!r:.80}")
    target.close(queue)


def _interrupt_waits(
    handler: _Handler, wait: Callable[[], Any], outcome: Outcome, rng: random.Random, seconds: float
) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        delay = rng.choice((rng.uniform(1e-5, 3e-4), rng.uniform(1e-3, 5e-3)))
        timer = threading.Timer(delay, _thread.interrupt_main) if rng.random() < 0.1 else None
        began = time.monotonic()
        try:
            handler.armed = True
            if timer is not None:
                timer.start()
            else:
                signal.setitimer(signal.ITIMER_REAL, delay)
            result = wait()
            handler.armed = False
            outcome.fault(f"a call that had to wait returned {result!r:.80}")
        except Interrupted:
            outcome.count("waiting calls that a signal ended")
        late = time.monotonic() - began - delay
        outcome.note_worst("worst seconds from a signal to the end of a waiting call", round(late, 3))
        if late > _WEDGED:
            outcome.fault(f"a waiting call ended {late:.2f} s after its signal")
        if timer is not None:
            timer.join()


def check_busy(target: Target, outcome: Outcome, seconds: float, seed: int) -> None:
    """Signals in a busy producer, then in a busy consumer: only an interrupted call's own item may be missing."""
    handler = _Handler()
    signal.signal(signal.SIGALRM, handler)
    rng = random.Random(seed)
    for role in (_put_interrupted, _get_interrupted):
        name = new_name()
        queue = target.make(name)
        role(queue, name, handler, rng, seconds / 2, outcome)
        target.close(queue)


def _put_interrupted(
    queue: Any, name: str, handler: _Handler, rng: random.Random, seconds: float, outcome: Outcome
) -> None:
    ours, theirs = _FORK.Pipe(duplex=False)
    consumer = _FORK.Process(target=_consume, args=(name, theirs), daemon=True)
    consumer.start()
    theirs.close()
    number, interrupted = 0, []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        try:
            _arm(handler, rng)
            queue.put(_item(number))
            handler.armed = False
        except Interrupted:
            interrupted.append(number)
    queue.put(_END)
    got = _answer(ours, consumer)
    outcome.count("puts interrupted in a busy queue", len(interrupted))
    outcome.count("items accounted", len(got))
    lost = set(range(1, number + 1)) - set(got)
    if not lost <= set(interrupted):
        outcome.fault(f"items are missing whose put was not interrupted: {sorted(lost - set(interrupted))[:5]}")
    if any(later <= earlier for earlier, later in itertools.pairwise(got)):
        outcome.fault("an interrupted put doubled or reordered items")
    outcome.count("puts interrupted on their way back", len(interrupted) - len(lost))


def _get_interrupted(
    queue: Any, name: str, handler: _Handler, rng: random.Random, seconds: float, outcome: Outcome
) -> None:
    ours, theirs = _FORK.Pipe(duplex=False)
    producer = _FORK.Process(target=_produce, args=(name, theirs, seconds), daemon=True)
    producer.start()
    theirs.close()
    got: list[int] = []
    interrupted = 0
    while True:
        try:
            _arm(handler, rng)
            item = queue.get()
            handler.armed = False
        except Interrupted:
            interrupted += 1
            continue
        if item == _END:
            break
        got.append(item if isinstance(item, int) else item[0])
    count = _answer(ours, producer)
    missing = count - len(got)
    outcome.count("gets interrupted in a busy queue", interrupted)
    outcome.count("items that they had taken and could not return", missing)
    if missing > interrupted:
        outcome.fault(f"{missing} items are missing after {interrupted} interrupted gets")
    if any(later <= earlier for earlier, later in itertools.pairwise(got)):
        outcome.fault("an interrupted get doubled or reordered items")


def _arm(handler: _Handler, rng: random.Random) -> None:
    handler.armed = True
    signal.setitimer(signal.ITIMER_REAL, rng.choice((1e-6, 5e-6, 2e-5, 1e-4, 5e-4)) * rng.uniform(0.5, 2))


def _item(number: int) -> Any:
    """Three ways that items go: as a scalar, as msgpack, by pickle."""
    return (number, [number], (number, "by pickle"))[number % 3]


def _consume(name: str, report: Any) -> None:
    queue = ShmQueue(name, create=False)
    got = []
    while (item := queue.get(timeout=10 * STUCK)) != _END:
        got.append(item if isinstance(item, int) else item[0])
    report.send(got)
    queue.shutdown()


def _produce(name: str, report: Any, seconds: float) -> None:
    queue = ShmQueue(name, create=False)
    number = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        queue.put(_item(number), timeout=10 * STUCK)
        if number % 64 == 0:
            time.sleep(0)
    for _ in range(_ENDS):
        queue.put(_END)
    report.send(number)
    queue.shutdown()


def _answer(pipe: Any, process: Any) -> Any:
    try:
        if not pipe.poll(15 * STUCK):
            raise Stuck("the other process does not come to its end")
        return pipe.recv()
    except EOFError:
        raise Stuck("the other process has failed") from None
    finally:
        process.join(STUCK)
        if process.is_alive():
            process.kill()
            process.join()
