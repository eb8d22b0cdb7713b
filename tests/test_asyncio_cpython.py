"""CPython's own tests of ``asyncio.Queue``, on ours. They are taken from the ``test`` package of the interpreter."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
from cpython_support import is_there, run_case
from support import Opener

import shmqueue.compat.asyncio

MODULE = "test.test_asyncio.test_queues"


LEFT_OUT = {
    "QueueBasicTests.test_repr": "ours names the queue and not its items",
    "QueueBasicTests.test_str": "as repr",
    "QueueJoinTests.test_format": "as repr",
    "QueueShutdownTests.test_format": "as repr",
    "QueueBasicTests.test_generic_alias": "asks for the very type of the alias; ours is one of typing",
    "QueueGetTests.test_cancelled_getters_not_being_held_in_self_getters": "looks into the private _getters",
    "QueueGetTests.test_get_with_putters": "puts a future of its own into the private _putters",
    "QueuePutTests.test_cancelled_puts_not_being_held_in_self_putters": "looks into the private _putters",
}
if sys.version_info < (3, 11):
    LEFT_OUT |= {
        "QueueJoinTests.test_task_done": "its loop allows no timers; an attempt that finds the lock taken sets one",
        "QueueGetTests.test_get_cancelled_race": "puts while the loop does not run, and counts its steps then",
        "QueueGetTests.test_why_are_getters_waiting": "calls the private _get_loop()",
        "QueuePutTests.test_put_cancelled_race": "gets while the loop does not run, and counts its steps then",
        "QueuePutTests.test_why_are_putters_waiting": "calls the private _get_loop()",
    }
CASES = ("QueueBasicTests", "QueueGetTests", "QueuePutTests", "QueueJoinTests", "QueueShutdownTests")


def names_of_tests() -> list[str]:
    if not is_there(MODULE):
        return ["none"]
    module = importlib.import_module(MODULE)
    cases = [case for case in CASES if hasattr(module, case)]
    found = [f"{case}.{name}" for case in cases for name in dir(getattr(module, case)) if name.startswith("test_")]
    return [name for name in found if name not in LEFT_OUT]


@pytest.fixture
def queues() -> Iterator[Opener]:
    opener = Opener(shmqueue.compat.asyncio, False)
    yield opener
    opener.close()


@pytest.mark.usefixtures("engine")
@pytest.mark.skipif(not is_there(MODULE), reason="this Python comes without its own tests, the package 'test'")
@pytest.mark.parametrize("test", names_of_tests())
def test_asyncio_queue(queues: Opener, monkeypatch: pytest.MonkeyPatch, test: str) -> None:
    module = importlib.import_module(MODULE)
    names = {"Queue": queues.Queue, "QueueEmpty": shmqueue.compat.asyncio.QueueEmpty}
    names |= {"QueueFull": shmqueue.compat.asyncio.QueueFull, "QueueShutDown": shmqueue.compat.asyncio.QueueShutDown}
    monkeypatch.setattr(module, "asyncio", types.SimpleNamespace(**(vars(asyncio) | names)))
    case_name, _, test_name = test.partition(".")
    case: Any = type(case_name, (getattr(module, case_name),), {"q_class": staticmethod(queues.Queue)})(test_name)
    run_case(case)
