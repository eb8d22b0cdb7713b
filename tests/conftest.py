from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shmqueue import ShmQueue

SHM = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()


@pytest.fixture(autouse=True)
def segment_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each test keeps its segments in a directory of its own, which must be empty when it is over."""
    directory = tempfile.mkdtemp(prefix="shmqueue-tests-", dir=SHM)
    monkeypatch.setenv("SHMQUEUE_DIR", directory)
    try:
        yield directory
        left = os.listdir(directory)
        assert left == [], f"left in shared memory: {left}"
    finally:
        shutil.rmtree(directory)


@pytest.fixture(params=["native", "portable"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both engines in turn. A missing native engine fails the test: it must not pass on the other one."""
    monkeypatch.setenv("SHMQUEUE_ENGINE", request.param)
    return str(request.param)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what only the native engine promises."""
    monkeypatch.setenv("SHMQUEUE_ENGINE", "native")


@pytest.fixture
def name() -> str:
    """A queue name that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def make(name: str) -> Iterator[Callable[..., ShmQueue]]:
    """Opens queues that are shut down when the test is over, whatever happened."""
    opened: list[ShmQueue] = []

    def open_queue(queue_name: str = name, **options: Any) -> ShmQueue:
        queue = ShmQueue(queue_name, **options)
        opened.append(queue)
        return queue

    yield open_queue
    for queue in opened:
        queue.shutdown()
