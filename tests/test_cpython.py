"""CPython's own tests of ``queue`` and ``multiprocessing``, on our queues.

They are taken from the ``test`` package of the interpreter; some distributions leave it out of theirs.
"""

from __future__ import annotations

import importlib
import importlib.util
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cpython_support import is_there, run_case
from support import PATIENCE, START_METHODS, Opener, run_program

PROGRAM = Path(__file__).parent / "programs" / "cpython_multiprocessing.py"


pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(
        not (is_there("test.test_queue") and is_there("test._test_multiprocessing")),
        reason="this Python comes without its own tests, the package 'test'",
    ),
]


# ---- queue ----

LEFT_OUT = {
    "test_references": "an item taken is a copy, and a class inside a function cannot be pickled",
    "test_is_default": "compares the class with itself",
    "test_reentrancy": "a finalizer may put between the call of put and the moment at which its item is in the queue",
}
CASES = {"QueueTest": "Queue", "BaseSimpleQueueTest": "SimpleQueue"}


def names_of_tests() -> list[str]:
    """All tests of the two classes; none where there is no package ``test``."""
    if not is_there("test.test_queue"):
        return ["none"]
    module = importlib.import_module("test.test_queue")
    found = [(case, name) for case in CASES for name in dir(getattr(module, case)) if name.startswith("test_")]
    return [f"{case}.{name}" for case, name in found if name not in LEFT_OUT]


@pytest.fixture
def queues() -> Iterator[Opener]:
    import shmqueue.compat.queue

    opener = Opener(shmqueue.compat.queue, False)
    yield opener
    opener.close()


@pytest.mark.parametrize("test", names_of_tests())
def test_queue(queues: Opener, engine: str, test: str) -> None:
    case_name, _, test_name = test.partition(".")
    if engine == "portable" and test_name in ("test_many_threads", "test_many_threads_nonblock"):
        pytest.skip("a hundred threads that poll take a quarter of a minute, and show nothing that test_order does not")
    mixin = getattr(importlib.import_module("test.test_queue"), case_name)
    attributes: dict[str, Any] = {"queue": queues, "type2test": property(lambda self: self.made_of)}
    attributes["made_of"] = staticmethod(getattr(queues, CASES[case_name]))
    if case_name == "QueueTest":
        del attributes["type2test"]  # its setUp() takes the class from the module
    function = getattr(mixin, test_name)
    if hasattr(function, "memuse"):  # from 3.13.5 on, for a hundred threads: skipped unless gigabytes are promised
        attributes[test_name] = lambda self: function.__wrapped__(self, function.size)
    case = type(case_name, (mixin, unittest.TestCase), attributes)(test_name)
    run_case(case)


# ---- multiprocessing ----

DIFFERENT = {
    "test_queue_feeder_donot_stop_onexc": "what cannot be pickled raises in put",
    "test_closed_queue_empty_exceptions": "a closed queue cannot be asked whether it is empty, used or not",
}


QUEUES = ["TestQueue", "TestSimpleQueue", "TestPicklingConnections"], 13
POOLS = ["TestPool", "TestPoolWorkerErrors", "TestPoolWorkerLifetime"], 30


@pytest.mark.parametrize(
    ("method", "classes", "least"),
    [
        *(pytest.param(method, *QUEUES, id=f"queues-{method}") for method in START_METHODS),
        pytest.param("fork", *POOLS, id="pools-fork"),
        pytest.param("spawn", *POOLS, id="pools-spawn"),
        pytest.param("forkserver", *POOLS, id="pools-forkserver", marks=pytest.mark.thorough),
    ],
)
def test_multiprocessing(method: str, classes: list[str], least: int, tmp_path: Path) -> None:
    command = ["-m", "shmqueue.compat", str(PROGRAM), method, *(f"-{test}" for test in DIFFERENT), *classes]
    ran = run_program(*command, within=tmp_path, patience=3 * PATIENCE)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("shmqueue.compat")
    count, skipped = map(int, lines[-1].split())
    assert count >= least
    assert skipped == 0, ran.stderr
