"""A process that is killed at any line of opening, adopting, replacing or closing: the next one goes on from there."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from orphans_support import leave_orphan
from support import PATIENCE, overwrite

from shmqueue import ShmQueue, segment

ITEMS = 3

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(300)]


def killed_at(line: int, action: Callable[[], object]) -> bool:
    """Run the action in a forked child and kill it at that line of ``shmqueue.segment``. False: it ended before."""
    pid = os.fork()
    if pid == 0:
        left = line

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal left
            if f"{os.sep}segment{os.sep}" not in frame.f_code.co_filename:
                return None
            if event == "line":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        status = 1
        try:
            warnings.simplefilter("ignore")
            sys.settrace(trace)
            action()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def check(name: str, expected: tuple[int, ...]) -> None:
    """The queue can be opened and works, with one of these numbers of items, and its last holder leaves nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        queue = ShmQueue(name)
        assert queue.qsize() in expected
        queue.put("more", timeout=PATIENCE)
        taken = [queue.get(timeout=PATIENCE) for _ in range(queue.qsize())]
        assert taken[:-1] == list(range(len(taken) - 1))
        queue.unlink()
        queue.close()
    segment.sweep_orphans()
    assert os.listdir(segment.directory()) == []


def at_each_line(engine: str, prepare: Callable[[], object], action: Callable[[], object], verify: Any) -> None:
    line, step = 0, 5 if engine == "native" else 15
    while True:
        prepare()
        was_killed = killed_at(line, action)
        verify()
        if not was_killed:
            break
        line += step
    assert line > 30


def image_of(path: str, spoil: Callable[[str], object]) -> Callable[[], None]:
    """What makes the file at the path anew, as it is now and spoilt."""
    spoil(path)
    with open(path, "rb") as file:
        image = file.read()
    os.unlink(path)

    def restore() -> None:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as copy:
            copy.write(image)

    return restore


def test_creating_and_closing(engine: str, name: str) -> None:
    def action() -> None:
        ShmQueue(name, buffer_size=4096).close()

    at_each_line(engine, lambda: None, action, lambda: check(name, (0,)))


@pytest.mark.parametrize("namespace", [0, 4711], ids=["here", "elsewhere"])
def test_adopting(engine: str, name: str, namespace: int) -> None:
    """Until it is closed by its last holder the items are there."""
    path = leave_orphan(name, ITEMS, namespace)
    restore = image_of(
        path, lambda path: overwrite(path, 256, b"\1\0\0\0") if engine == "native" and not namespace else None
    )

    def action() -> None:
        queue = ShmQueue(name)
        os._exit(0 if queue.qsize() == ITEMS else 1)  # as if killed

    at_each_line(engine, restore, action, lambda: check(name, (ITEMS,)))


def test_replacing(engine: str, name: str) -> None:
    """The items are lost with the file that cannot be used, and there is one queue afterwards."""
    restore = image_of(leave_orphan(name, ITEMS), lambda path: overwrite(path, 48, b"zz"))

    def action() -> None:
        ShmQueue(name, buffer_size=4096).close()

    at_each_line(engine, restore, action, lambda: check(name, (0,)))


def test_closing_a_queue_that_is_kept(engine: str, name: str) -> None:
    restore = image_of(leave_orphan(name, ITEMS, keep=True), lambda path: None)
    at_each_line(engine, restore, lambda: ShmQueue(name).close(), lambda: check(name, (ITEMS,)))


def test_closing_with_items(engine: str, name: str) -> None:
    """They are all there or all gone."""
    restore = image_of(leave_orphan(name, ITEMS), lambda path: None)
    at_each_line(engine, restore, lambda: ShmQueue(name).close(), lambda: check(name, (0, ITEMS)))
