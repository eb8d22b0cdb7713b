"""A put that waits for room is not overtaken for ever; on both engines."""

from __future__ import annotations

import queue
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support import (
    PATIENCE,
    Call,
    asleep,
    is_asleep,
    python,
    undisturbed_seconds,
    wait_for_line,
    wait_until,
)

from shmqueue import ShmQueue
from shmqueue.engine.portable_claim import Claim, Claimed

pytestmark = pytest.mark.usefixtures("engine")

Make = Callable[..., ShmQueue]

LARGE = b"x" * 300_000
MOST = 1.0  # seconds that a large item waits behind small ones
SLICE = 0.1

PUTS = """
import sys
from shmqueue import ShmQueue

with ShmQueue(sys.argv[1]) as q:
    print("puts", flush=True)
    try:
        while True:
            q.put(b"x" * int(sys.argv[2]))
    except Exception:
        pass
"""


@pytest.fixture
def busy(make: Make, name: str) -> Iterator[ShmQueue]:
    """A queue that two processes keep full of small items, and that another thread takes them from."""
    q = make(buffer_size=512 * 1024)
    with ExitStack() as stack:
        producers = [stack.enter_context(python(PUTS, name, 1000)) for _ in range(2)]
        for producer in producers:
            wait_for_line(producer, "puts")
        wait_until(lambda: q.qsize() > 500, "the queue is full")
        yield q
        for producer in producers:
            producer.kill()


def take_slowly(q: ShmQueue, ends: list[int]) -> int:
    """Take items, with a pause after each few, until told to end. How many large ones there were."""
    large = 0
    while not ends:
        large += sum(len(item) == len(LARGE) for item in q.get_many(20))
        time.sleep(0.001)
    return large


def test_a_large_item_is_put_behind_small_ones(busy: ShmQueue) -> None:
    ends: list[int] = []
    consumer = Call(take_slowly, busy, ends)
    waits = []
    for _ in range(3):
        began = undisturbed_seconds()
        busy.put(LARGE, timeout=PATIENCE)
        waits.append(undisturbed_seconds() - began)
    ends.append(1)
    consumer.result()
    assert min(waits) < MOST, waits  # not the worst, for the machine may be busy


def test_a_claim_keeps_nobody_from_putting_at_once_what_there_is_room_for(make: Make) -> None:
    q = make(buffer_size=100_000)
    q.put_many([b"x" * 2000] * 30)
    large = asleep(Call(q.put, b"x" * 90_000))
    deadline = time.monotonic() + 3 * SLICE
    while time.monotonic() < deadline:  # it is overtaken, and claims
        q.put(b"x" * 2000, block=False)
        q.get()
        time.sleep(0.001)
    assert len(q.get_many(30)) == 30
    large.result()
    assert len(q.get()) == 90_000


def test_at_its_deadline_a_put_takes_the_room_that_there_is(make: Make) -> None:
    q = make(buffer_size=100_000)
    q.put_many([b"x" * 2000] * 30)
    large = asleep(Call(q.put, b"x" * 90_000))
    for _ in range(10):
        q.put(b"x" * 2000, timeout=0.03)
        q.get()
    assert len(q.get_many(30)) == 30
    large.result()
    assert len(q.get()) == 90_000


def test_at_its_deadline_a_put_takes_the_room_of_a_claim_that_has_just_ended(
    make: Make, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the portable engine a claim may end between the last look and the end of the call's time."""
    if engine == "native":
        pytest.skip("there the last look is the one at the deadline")
    withdrawn: list[Claim] = []
    monkeypatch.setattr(Claim, "of_others", lambda claim: None if withdrawn else Claimed(90_000, 1))
    monkeypatch.setattr(Claim, "withdraw", lambda claim: withdrawn.append(claim))
    q = make(buffer_size=100_000)
    q.put_many([b"x" * 2000] * 30, block=False)
    withdrawn.clear()
    q.put(b"x" * 2000, timeout=0.01)
    assert q.qsize() == 31


def test_a_claimant_that_is_killed_delays_the_others_by_a_slice(make: Make, name: str) -> None:
    q = make(buffer_size=512 * 1024)
    while q.qsize() < 400:
        q.put(b"x" * 1000)
    with python(PUTS, name, len(LARGE)) as process:
        wait_for_line(process, "puts")
        wait_until(lambda: is_asleep(process.pid), "it waits for room")
        for _ in range(300):  # it is overtaken meanwhile, and claims
            q.put(b"x" * 1000, block=False)
            q.get()
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    waits = []
    for _ in range(20):
        began = undisturbed_seconds()
        q.put(b"x" * 1000, timeout=PATIENCE)
        waits.append(undisturbed_seconds() - began)
        q.get()
    assert sum(waits) < 2 * SLICE, waits


def test_put_without_waiting_says_full_only_if_it_is(make: Make) -> None:
    q = make(maxsize=1)
    q.put(1)
    waiting = asleep(Call(q.put, 2))
    with pytest.raises(queue.Full):
        q.put(3, block=False)
    assert q.get() == 1
    waiting.result()
    assert q.get() == 2


def test_a_claim_ends_when_nothing_is_taken(make: Make) -> None:
    """Otherwise no put would succeed, though there is room, and the consumer may have to put first."""
    q = make(buffer_size=1 << 16)
    q.put(bytes(30_000))
    waiting = asleep(Call(q.put, bytes(40_000), timeout=PATIENCE))
    for _ in range(200):
        q.put(b"small", timeout=PATIENCE / 2)
        time.sleep(0.002)  # so that the other one comes to claim
    assert q.qsize() == 201
    while q.qsize():
        q.get()
    waiting.result()
