"""The asynchronous tests of janus and culsans, queues between threads and coroutines, run on ours.

They come out of the packages' source distributions when the tests run: ``SHMQUEUE_TEST_JANUS`` and
``SHMQUEUE_TEST_CULSANS`` name the directories into which these were unpacked. A module of the package's name stands in
for the package: its queue has our two as its two sides.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import PATIENCE, run_program

STAND_IN = """
import asyncio
import queue as standard
import threading

from shmqueue.compat import asyncio as shared, queue as synchronous

AsyncQueueEmpty, AsyncQueueFull, AsyncQueueShutDown = shared.QueueEmpty, shared.QueueFull, shared.QueueShutDown
SyncQueueEmpty, SyncQueueFull, SyncQueueShutDown = standard.Empty, standard.Full, synchronous.ShutDown
LifoQueue = PriorityQueue = None


class Queue:
    def __init__(self, maxsize=0):
        self.async_q = shared.Queue(maxsize)
        self.sync_q = self.async_q.sync_queue
        self.shutdown = self.async_q.shutdown
        self._sync_mutex = threading.Lock()

    maxsize = property(lambda self: self.sync_q.maxsize)
    unfinished_tasks = property(lambda self: self.sync_q.unfinished_tasks)
    is_shutdown = property(lambda self: self.sync_q.is_shutdown)
    closed = property(lambda self: self.async_q.closed)

    def _qsize(self):
        return self.sync_q.qsize()

    def close(self):
        if not self.closed:
            self.shutdown(immediate=True)

    async def wait_closed(self):
        await asyncio.sleep(0)  # for coroutines that the shut-down has ended
        self.async_q.close()

    async def aclose(self):
        self.close()
        await self.wait_closed()
"""

CONFTEST = """
import asyncio
import inspect

import pytest


def pytest_configure(config):
    config.addinivalue_line("markers", "asyncio: a coroutine")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        asyncio.run(pyfuncitem.obj())
        return True


@pytest.fixture(autouse=True)
def patience(monkeypatch):  # a loaded machine takes a tenth of a second of anybody's time
    wait_for = asyncio.wait_for
    monkeypatch.setattr(asyncio, "wait_for", lambda awaitable, timeout: wait_for(awaitable, 100 * timeout))
"""

ORDER = "only queues in which the oldest item comes first are shared"
PRIVATE = "reaches for private attributes of a queue"
CLOSING = "shutting down, for all processes, and closing, in this one, are two things here"
SETTER = "maxsize is set on the synchronous queue"
WRAPPED = "about the object that has the two sides, for which there is no counterpart"
WAITING = "asks how many wait, which nobody knows who takes other processes into account"

JANUS = {
    "test_async.py::TestLifoQueue": ORDER,
    "test_async.py::TestLifoQueueJoin": ORDER,
    "test_async.py::TestPriorityQueue": ORDER,
    "test_async.py::TestPriorityQueueJoin": ORDER,
    "test_mixed.py::TestMixedMode::test_ctor_noloop": "about Pythons before 3.10",
    "test_mixed.py::TestMixedMode::test_get_loop_ok": PRIVATE,
    "test_mixed.py::TestMixedMode::test_get_loop_different_loop": PRIVATE,
    "test_mixed.py::TestMixedMode::test_unfinished": "unfinished_tasks is asked of the synchronous queue",
    "test_mixed.py::TestMixedMode::test_wait_without_closing": WRAPPED,
    "test_mixed.py::TestMixedMode::test_put_notifies_sync_not_empty": PRIVATE,
    "test_mixed.py::TestMixedMode::test_put_notifies_async_not_empty": PRIVATE,
    "test_mixed.py::TestMixedMode::test_get_notifies_sync_not_full": PRIVATE,
    "test_mixed.py::TestMixedMode::test_get_notifies_async_not_full": PRIVATE,
}
CULSANS = {
    "test_asyncio.py::LifoQueueTests": ORDER,
    "test_asyncio.py::LifoQueueJoinTests": ORDER,
    "test_asyncio.py::LifoQueueShutdownTests": ORDER,
    "test_asyncio.py::PriorityQueueTests": ORDER,
    "test_asyncio.py::PriorityQueueJoinTests": ORDER,
    "test_asyncio.py::PriorityQueueShutdownTests": ORDER,
    "test_asyncio.py::QueueGetTests::test_cancelled_getters_not_being_held_in_self_getters": WAITING,
    "test_asyncio.py::QueuePutTests::test_cancelled_puts_not_being_held_in_self_putters": WAITING,
    "test_mixed.py::TestMixedQueue::test_growing_and_shrinking": SETTER,
    "test_mixed.py::TestMixedQueue::test_peek": "there is no peek() here",
    "test_mixed.py::TestMixedQueue::test_clear": "there is no clear() here",
    "test_mixed.py::TestMixedQueue::test_closed": CLOSING,
    "test_mixed.py::TestMixedQueue::test_wait_without_closing": WRAPPED,
}


@dataclass(frozen=True)
class Package:
    name: str
    tests: str
    files: tuple[str, ...]
    left_out: dict[str, str]
    run: int
    """How many tests are left: of the version that was looked through, so that none is missing unnoticed."""

    @property
    def variable(self) -> str:
        return f"SHMQUEUE_TEST_{self.name.upper()}"


PACKAGES = [
    Package("janus", "tests", ("test_async.py", "test_mixed.py"), JANUS, 48),
    Package("culsans", "tests/culsans", ("test_asyncio.py", "test_mixed.py"), CULSANS, 38),
]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_what_the_package_tests_holds(package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked = os.environ.get(package.variable, "")
    if not unpacked:
        pytest.skip(f"{package.variable} names no directory with the source distribution of {package.name}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shutil.copytree(Path(unpacked) / package.tests, tmp_path / "theirs")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / f"{package.name}.py").write_text(STAND_IN, encoding="utf-8")
    (tmp_path / "aiologic").mkdir()
    (tmp_path / "aiologic" / "__init__.py").touch()
    (tmp_path / "aiologic" / "lowlevel.py").write_text("def async_checkpoint_enabled(): return False\n")
    options = [f"--deselect=theirs/{test}" for test in package.left_out]
    ran = run_program(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml=results.xml", *options),
        *(f"theirs/{file}" for file in package.files),
        within=tmp_path,
        patience=2 * PATIENCE,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (suite,) = ElementTree.parse(tmp_path / "results.xml").getroot()
    assert (suite.get("tests"), suite.get("skipped")) == (str(package.run), "0")
