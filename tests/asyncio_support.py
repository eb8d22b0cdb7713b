"""What the tests of ``compat.asyncio`` have in common."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import PATIENCE, python

Main = Callable[[], Coroutine[Any, Any, Any]]


def run_asyncio(main: Main, patience: float = PATIENCE) -> Any:
    return asyncio.run(asyncio.wait_for(main(), patience))


def run_uvloop(main: Main, patience: float = PATIENCE) -> Any:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main(), patience))
    finally:
        loop.close()


@contextmanager
def in_another_process(code: str, name: str) -> Iterator[subprocess.Popen[str]]:
    """An interpreter that runs ``code`` with ``q`` as the queue of that name, to its end unless it is killed."""
    with python(
        f"import sys\nfrom shmqueue.compat.queue import Queue\nq = Queue(name=sys.argv[1])\n{code}", name
    ) as process:
        yield process
        assert process.wait(PATIENCE) in {0, -signal.SIGKILL}
