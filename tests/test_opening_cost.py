"""Opening a queue costs the same, however many other queues there are, and little at the start of a program."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support import python, run_python

from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]
SYSTEM = ("posix", "fcntl")


def calls(action: Callable[[], object]) -> int:
    """How many calls of the system's modules an action makes."""
    count = 0

    def profile(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        if event == "c_call" and getattr(function, "__module__", None) in SYSTEM:
            count += 1

    sys.setprofile(profile)
    try:
        action()
    finally:
        sys.setprofile(None)
    return count


def usual_calls(action: Callable[[], object]) -> int:
    """The fewest of several attempts: now and then one sweeps a few files as well."""
    return min(calls(action) for _ in range(5))


@pytest.mark.usefixtures("engine")
class TestOpening:
    @pytest.mark.parametrize("create", [True, None, False])
    def test_it_does_not_depend_on_the_number_of_queues(self, make: Make, name: str, create: bool | None) -> None:
        def open_one() -> None:
            ShmQueue(name, create=create).close()

        opened = make(name) if create is False else None
        few = usual_calls(open_one)
        for number in range(100):
            make(f"other-{number}", max_bytes=1 << 20)
        assert usual_calls(open_one) == few
        assert opened is None or opened.empty()

    def test_a_sweep_in_passing_looks_at_a_handful(
        self, make: Make, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("shmqueue.segment.removal._CHANCE", 1.0)
        monkeypatch.setattr("shmqueue.segment.removal._SELDOM", 0.0)
        monkeypatch.setattr("shmqueue.segment.removal._not_before", 0.0)
        usual = usual_calls(lambda: ShmQueue(name).close())
        for number in range(50):
            make(f"other-{number}", max_bytes=1 << 20)
        assert usual_calls(lambda: ShmQueue(name).close()) <= usual + 100

    def test_sweeps_in_passing_remove_what_killed_programs_left(
        self, name: str, segment_directory: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        code = "import os\nfrom shmqueue.compat.queue import Queue\nq = [Queue() for _ in range(10)]\nos._exit(0)"
        with python(code) as process:
            process.communicate()
        assert sum("unnamed" in entry for entry in os.listdir(segment_directory)) == 10
        monkeypatch.setattr("shmqueue.segment.removal._CHANCE", 1.0)
        monkeypatch.setattr("shmqueue.segment.removal._SELDOM", 0.0)
        monkeypatch.setattr("shmqueue.segment.removal._not_before", 0.0)
        for _ in range(10):  # each time a few of them
            ShmQueue(name).close()
        assert os.listdir(segment_directory) == []

    def test_a_program_sweeps_once_a_minute_at_most(
        self, name: str, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from shmqueue.segment import removal

        monkeypatch.setattr(removal, "_CHANCE", 1.0)
        monkeypatch.setattr(removal, "_not_before", 0.0)
        listed = []
        monkeypatch.setattr(removal, "list_entries", lambda: listed.append(1) or [])  # type: ignore[func-returns-value]
        for number in range(10):
            make(f"{name}-{number}")
        assert len(listed) == 1


@pytest.mark.usefixtures("engine")
def test_a_program_that_opens_a_queue_imports_little(name: str) -> None:
    """Each of these takes a twentieth of the time that the rest takes, or more."""
    code = """
import sys
before = set(sys.modules)
from shmqueue import ShmQueue
with ShmQueue(sys.argv[1]) as q:
    q.put({"n": 1})
    assert q.get() == {"n": 1}
heavy = "asyncio shmlock urllib.parse uuid".split()
print(sorted(set(heavy) & (set(sys.modules) - before)))
"""
    assert run_python(code, name) == "[]\n"


@pytest.mark.usefixtures("engine")
def test_what_a_program_calls_later_imports_nothing(name: str) -> None:
    """An import that another thread was in the middle of never ends in a forked child; at the end there is none."""
    code = """
import pickle, sys, warnings
from shmqueue import ShmQueue
with ShmQueue(sys.argv[1], debug_ref_to_file_log=True) as q, ShmQueue(sys.argv[1] + "-dead") as dead:
    before = set(sys.modules)
    q.statistics(), q.fileno(), repr(q), dir(q)
    q.put({1, 2})
    for attempt in range(2):
        q.lease(max_attempts=1, dead_letter=dead, timeout=1).requeue() if attempt == 0 else None
    try:
        q.lease(False, max_attempts=1, dead_letter=dead)
    except Exception:
        assert dead.get() == {1, 2}
    q.put_many([1, 2.5, "3"]), q.get_many(3), q.shutdown_all()
print(sorted(set(sys.modules) - before))
"""
    assert run_python(code, name) == "[]\n"
