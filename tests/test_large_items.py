"""Items whose length is no number of 32 bits."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import SHM

from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

GIB = 1 << 30
LENGTH = 4 * GIB + 1

pytestmark = [
    pytest.mark.usefixtures("engine", "one_at_a_time"),
    pytest.mark.thorough,  # gigabytes
    pytest.mark.timeout(600),
]


@pytest.fixture
def one_at_a_time() -> Iterator[None]:
    """Two such tests beside each other may take more memory than either of them sees available."""
    directory = os.open(SHM, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def require_memory(gibs: int) -> None:
    """Skip where the test would have the kernel end processes for lack of memory; what it takes was measured."""
    with open("/proc/meminfo", encoding="ascii") as file:
        figures = dict(line.split(":") for line in file)
    available = min(int(figures["MemAvailable"].split()[0]) << 10, os.statvfs(SHM).f_bavail * os.statvfs(SHM).f_frsize)
    if available < gibs * GIB:
        pytest.skip(f"it takes {gibs} GiB of memory, and {available / GIB:.1f} are available")


def marked(length: int) -> tuple[Any, memoryview]:
    """Bytes that have next to no memory, with something at both ends; and what they are a view of.

    A page of private memory that is only read is the kernel's page of zeros.
    """
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:5], memory[-5:] = b"first", b"last!"
    return memory, memoryview(memory)


def test_a_record_of_more_than_four_gib_is_moved(make: Make) -> None:
    require_memory(11)
    q = make(max_bytes=LENGTH + 4096)
    q.put(b"before")
    memory, view = marked(LENGTH)
    assert q._engine.put(1001, view, True, None)
    view.release()
    memory.close()
    assert q.buffer_occupancy() == 16 + LENGTH + 8 + 2 + 6
    assert q.get() == b"before"
    record = q._engine.get(False, None)
    assert record is not None
    method, payload = record
    assert (method, len(payload), payload[:5], payload[-5:]) == (1001, LENGTH, b"first", b"last!")
    del record, payload
    assert q.buffer_occupancy() == 0


def test_bytes_of_more_than_four_gib_arrive(make: Make, native: None) -> None:
    require_memory(14)
    q = make()
    memory, view = marked(LENGTH)
    q.put_many(["before", "beside"])
    q.put(view)
    view.release()
    memory.close()
    assert q.get_many(2) == ["before", "beside"]
    with q.lease() as lease:
        item = lease.item
        assert type(item) is bytes
        assert (len(item), item[:5], item[-5:]) == (LENGTH, b"first", b"last!")
    assert q.buffer_occupancy() == 0
