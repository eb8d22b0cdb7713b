"""A call of the portable engine that is stopped past its deadline: it still finds what came meanwhile, and ends.

A process is stopped like that by SIGSTOP, and wherever more programs run than there are processors.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from portable_lines import at_line
from portable_support import PAGE, Open, Opened, kill, lock_held_elsewhere
from support import Call

from shmqueue import clock
from shmqueue.engine import portable_lock, portable_waiting
from shmqueue.engine.portable_get import LONG
from shmqueue.exceptions import ShmQueueEmpty

TIMEOUT = 0.001
ROUND = 0.05  # seconds until a thread that lets the others run has its turn again


class Time:
    """A clock that moves only while the engine sleeps, or is stopped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = clock.monotonic()
        monkeypatch.setattr(clock, "monotonic", lambda: self.now)
        monkeypatch.setattr(portable_waiting, "sleep", self.pass_by)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def get(queue: Opened) -> object:
    return queue.engine.get(True, TIMEOUT)


def lend(queue: Opened) -> object:
    loan = queue.engine.lend(True, TIMEOUT, False)
    return loan and loan.finish()


def wait(queue: Opened) -> object:
    return queue.engine.wait(True, TIMEOUT)


def put(queue: Opened) -> object:
    return queue.engine.put(0, b"x", True, TIMEOUT)


def join(queue: Opened) -> object:
    return queue.engine.join(TIMEOUT)


@pytest.mark.parametrize("call", [get, lend, wait, put, join])
def test_a_call_that_is_stopped_past_its_deadline_finds_what_came_before_it(
    open_portable: Open, time: Time, call: Callable[[Opened], object]
) -> None:
    queue, other = open_portable(maxsize=1), open_portable(maxsize=1)
    awaits_items = call in (get, lend, wait)
    missed = []
    for line in range(1, 5000):
        other.engine.clear()
        if not awaits_items:
            other.engine.put(0, b"before", False, None)
        queue.engine.qsize()  # so that it takes no lock for what it knows from before
        queue.engine._looks = 1
        deadline = time.now + TIMEOUT
        was_in_time = True

        def stop() -> None:
            nonlocal was_in_time
            was_in_time = time.now < deadline  # noqa: B023
            Call(*((other.engine.put, 0, b"x", False, None) if awaits_items else (other.engine.clear,))).result()
            time.now = deadline + 1  # noqa: B023

        results: list[object] = []
        if not at_line(line, lambda: results.append(call(queue)), stop, everywhere=True):  # noqa: B023
            break
        if was_in_time and not results[0]:
            missed.append(line)
    else:
        pytest.fail("the call never came to its end")
    assert line > 100
    assert missed == []


def test_a_get_that_is_stopped_past_its_deadline_gives_memory_back(elastic: Opened, time: Time) -> None:
    empty = elastic.memory()
    kept = []
    for line in range(1, 5000):
        elastic.engine.put(0, bytes(8 * PAGE), False, None)
        elastic.engine.get(False, None)
        assert elastic.memory() > empty
        elastic.engine._looks = 1

        def stop() -> None:
            time.pass_by(2 * LONG)

        if not at_line(line, lambda: elastic.engine.get(True, 2 * LONG), stop, everywhere=True):
            break
        if elastic.memory() > empty:
            kept.append(line)
    else:
        pytest.fail("the call never came to its end")
    assert line > 100
    assert kept == []


@pytest.mark.parametrize("call", [get, lend, put, join])
def test_where_others_have_the_processors_a_call_ends_at_its_deadline(
    open_portable: Open, time: Time, monkeypatch: pytest.MonkeyPatch, call: Callable[[Opened], object]
) -> None:
    queue = open_portable(maxsize=1)
    if call in (put, join):
        queue.engine.put(0, b"before", False, None)
    monkeypatch.setattr(portable_waiting, "let_others_run", lambda: time.pass_by(ROUND))
    began = time.now
    assert not call(queue)
    assert began + TIMEOUT <= time.now <= began + TIMEOUT + 1.5 * ROUND


def test_where_others_have_the_processors_a_call_waits_for_the_lock_until_its_deadline(
    open_portable: Open, name: str, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = open_portable()
    queue.engine.put(0, b"x", False, None)
    monkeypatch.setattr(portable_lock, "let_others_run", lambda: time.pass_by(ROUND))
    monkeypatch.setattr(portable_lock, "sleep", time.pass_by)
    with lock_held_elsewhere(name) as process:
        began = time.now
        with pytest.raises(ShmQueueEmpty):
            get(queue)
        assert began + TIMEOUT <= time.now <= began + TIMEOUT + 1.5 * ROUND
        kill(process)
    assert get(queue) == (0, b"x")
