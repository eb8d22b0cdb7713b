"""In an empty queue large items are written where the one before lay: the processors still have those bytes cached."""

from __future__ import annotations

import random
import resource
from collections import deque
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import pytest
from children import answer_large
from support import PATIENCE

from shmqueue import ShmQueue, ShmQueueNotInitializedError
from shmqueue.segment import HEADER_SIZE, path_of

Make = Callable[..., ShmQueue]

LARGE = 100_000  # bytes
RING = 4 << 20


def first_bytes(name: str) -> bytes:
    """What the data of a queue begin with."""
    with open(path_of(name), "rb") as file:
        file.seek(HEADER_SIZE)
        return file.read(LARGE)


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("options", [{}, {"max_bytes": RING}], ids=["fixed", "elastic"])
def test_each_large_item_lies_where_the_last_one_lay(make: Make, name: str, options: dict[str, Any]) -> None:
    q = make(buffer_size=RING, **options)
    for number in range(100):
        item = bytes([number]) * LARGE
        q.put(item)
        assert first_bytes(name).count(number) > LARGE - 100
        assert q.get() == item


@pytest.mark.usefixtures("native")
def test_what_is_leased_or_looked_at_stays(make: Make, name: str) -> None:
    q = make(buffer_size=RING)
    q.put(b"a" * LARGE)
    with q.get_view() as view:
        q.put(b"b" * LARGE)
        assert q.get() == b"b" * LARGE
        q.put(b"c" * LARGE)
        assert view == b"a" * LARGE
    assert q.get() == b"c" * LARGE
    q.put(b"d" * LARGE)
    assert first_bytes(name).count(b"d") > LARGE - 100
    assert q.get() == b"d" * LARGE


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("options", [{}, {"max_bytes": 1 << 26}], ids=["fixed", "elastic"])
def test_items_of_all_sizes_come_as_they_were_put(make: Make, name: str, options: dict[str, Any]) -> None:
    q = make(buffer_size=RING, **options)
    rng, waiting = random.Random(11), deque[bytes]()
    for _ in range(1500):
        if waiting and rng.random() < 0.55:
            assert q.get() == waiting.popleft()
        elif len(waiting) < 20:
            item = rng.randbytes(4) * rng.choice((1, 100, 20_000, 30_000))
            q.put(item)
            waiting.append(item)


@pytest.mark.usefixtures("engine")
def test_two_processes_exchange_large_items(make: Make, name: str) -> None:
    q, answers = make(buffer_size=RING), make(f"{name}-answers", buffer_size=RING)
    process = get_context("fork").Process(target=answer_large, args=(q, answers))
    process.start()
    try:
        for number in range(300):
            q.put(bytes([number % 256]) * LARGE)
            if number % 3 == 2:
                for earlier in range(number - 2, number + 1):
                    assert answers.get(timeout=PATIENCE) == (earlier % 256, LARGE)
        q.put(None)
    finally:
        process.join(PATIENCE)
        process.kill()


def faults_of_a_lap(q: ShmQueue) -> int:
    """Page faults while the whole buffer is written once."""
    item = bytes(1 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(15):
        q.put(item)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.usefixtures("engine")
def test_no_put_meets_a_page_fault_after_prefault(make: Make, engine: str) -> None:
    q = make(buffer_size=16 << 20)
    if engine == "portable":
        assert q.prefault() is False
        return
    if not q.prefault():
        pytest.skip("this kernel has no MADV_POPULATE_WRITE")
    assert q.empty()
    faults = faults_of_a_lap(q)
    q.clear()
    q.shutdown()
    assert faults < faults_of_a_lap(make(buffer_size=16 << 20)) / 10


@pytest.mark.usefixtures("engine")
def test_a_closed_queue_is_not_prefaulted(make: Make) -> None:
    q = make()
    q.shutdown()
    with pytest.raises(ShmQueueNotInitializedError):
        q.prefault()
