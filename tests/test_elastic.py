"""Elastic queues: they grow instead of being full, up to a limit or to the end of the memory, and give it back."""

from __future__ import annotations

import errno
import logging
import os
import random
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator

import pytest
from conftest import SHM
from handler_support import raised_by_a_handler
from support import PATIENCE, python, run_python, wait_until

import shmqueue
from shmqueue import ShmQueue, handle, segment
from shmqueue.plain import pack_scalar

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")

KIB, MIB = 1 << 10, 1 << 20
BURST = 24  # items of 1 MiB: less than the portable engine has room for where an address has 32 bits
START = 64 * KIB
FEW_PAGES = START + 4 * 4096  # bytes: what it started with, the header, and what an empty one may need


def memory_of(q: ShmQueue) -> int:
    """Bytes of memory that the queue's file really has."""
    return os.stat(segment.path_of(q.identifier)).st_blocks * 512


@pytest.fixture
def elastic(make: Make) -> ShmQueue:
    return make(buffer_size=START, max_bytes=0)


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The segments' directory is a file system of 8 MiB."""
    directory = tempfile.mkdtemp(prefix="shmqueue-tests-", dir=SHM)
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "shmqueue-tests", directory]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.skip(f"cannot mount a small file system (needs root): {mounted.stderr.strip()}")
        try:
            monkeypatch.setenv("SHMQUEUE_DIR", directory)
            yield directory
            assert os.listdir(directory) == []
        finally:
            subprocess.run(["umount", directory], check=True)
    finally:
        os.rmdir(directory)


# ---- growing ----


def test_everything_is_put_before_anything_is_taken(elastic: ShmQueue, engine: str) -> None:
    count = 200_000 if engine == "native" else 3_000
    for start in range(0, count, 1000):
        elastic.put_many(range(start, start + 1000))
    assert elastic.qsize() == count
    taken: list[int] = []
    while len(taken) < count:
        taken += elastic.get_many(1000)
    assert taken == list(range(count))


def test_a_drained_queue_has_given_its_memory_back(elastic: ShmQueue) -> None:
    assert memory_of(elastic) <= FEW_PAGES
    for number in range(BURST):
        elastic.put(bytes([number]) * MIB)
    assert memory_of(elastic) >= BURST * MIB
    for number in range(BURST):
        assert elastic.get() == bytes([number]) * MIB
    assert memory_of(elastic) <= FEW_PAGES


@pytest.mark.parametrize("left", [0, 1])
def test_leases_give_the_memory_back(elastic: ShmQueue, engine: str, left: int) -> None:
    count, size = (20_000, 200) if engine == "native" else (200, 40_000)  # it keeps a MiB or so
    held = []
    for number in range(count):
        elastic.put(f"{number:{size}}")
    grown = memory_of(elastic)
    assert grown >= 4 * FEW_PAGES
    for number in range(count):
        lease = elastic.lease()
        assert lease.item == f"{number:{size}}"
        if number < left:
            held.append(lease)  # all others are not the only one
        else:
            assert lease.ack()
    for lease in held:
        assert lease.ack()
    elastic.put(None)
    assert elastic.lease().ack()
    assert memory_of(elastic) <= (2 * FEW_PAGES if engine == "native" else grown // 8)
    assert elastic.unfinished_tasks == 0


def test_clear_gives_the_memory_back(elastic: ShmQueue) -> None:
    for _ in range(20):
        elastic.put(bytes(MIB))
    elastic.clear()
    assert memory_of(elastic) <= FEW_PAGES


def test_what_a_small_burst_has_taken_goes_back_when_a_getter_waits(elastic: ShmQueue) -> None:
    for round_number in range(3):
        for _ in range(10):
            elastic.put(bytes(40 * KIB))
        for _ in range(10):
            elastic.get()
        with pytest.raises(shmqueue.ShmQueueEmpty):
            elastic.get(timeout=0.5)
        assert memory_of(elastic) <= FEW_PAGES, round_number


def test_a_queue_that_never_runs_empty_gives_back_what_it_does_not_need(elastic: ShmQueue) -> None:
    for _ in range(BURST):
        elastic.put(bytes(MIB))
    for _ in range(BURST):
        elastic.put("small")  # from here on there is always one left
        assert elastic.get() == bytes(MIB)
    for _ in range(20_000):
        elastic.put("small")
        elastic.get()
        if memory_of(elastic) <= 4 * MIB:
            break
    assert memory_of(elastic) <= 4 * MIB
    assert elastic.qsize() == BURST


def test_items_of_all_sizes_keep_their_order(make: Make) -> None:
    q = make(buffer_size=4096, max_bytes=MIB)
    chance = random.Random(7)
    sent, expected = 0, 0
    for _ in range(3000):
        if chance.random() < 0.52:
            size = chance.choice([0, 1, 100, 4000, 5000, 70_000, chance.randrange(200_000)])
            try:
                q.put((sent, b"%c" % (sent % 251) * size), block=False)
                sent += 1
            except shmqueue.ShmQueueFull:
                assert q.buffer_occupancy() > MIB - 210_000
        elif expected < sent:
            number, payload = q.get(block=False)
            assert number == expected
            assert payload == b"%c" % (number % 251) * len(payload)
            expected += 1
    assert expected > 500


def test_the_limit_is_exact(make: Make) -> None:
    q = make(buffer_size=START, max_bytes=MIB)
    assert q.max_buffer_size() == MIB
    q.put(b"", block=False)
    rest = MIB - q.buffer_occupancy()
    head = len(pack_scalar(bytes(rest - 100))) - (rest - 100)
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(bytes(rest - 8 - head + 1), block=False)
    q.put(bytes(rest - 8 - head), block=False)
    assert q.buffer_occupancy() == MIB
    assert q.full()
    with pytest.raises(shmqueue.ShmQueueValueError, match=f"can never fit: queue .* holds {MIB} bytes"):
        q.put(bytes(MIB))


def test_a_putter_at_the_limit_waits_for_room(make: Make) -> None:
    q = make(buffer_size=START, max_bytes=MIB)
    for _ in range(9):
        q.put(bytes(100_000))
    putter = threading.Thread(target=q.put, args=(bytes(300_000),))
    putter.start()
    for _ in range(9):
        assert len(q.get(timeout=PATIENCE)) == 100_000
    assert len(q.get(timeout=PATIENCE)) == 300_000
    putter.join()


def test_the_first_creator_decides_whether_a_queue_grows(make: Make) -> None:
    make(buffer_size=START, max_bytes=MIB)
    assert make().max_buffer_size() == MIB


@pytest.mark.parametrize(("buffer_size", "max_bytes"), [(8192, 4096), (4096, -1), (4096, 1.5), (4096, True)])
def test_a_limit_that_makes_no_sense_is_refused(
    name: str, buffer_size: int, max_bytes: int, segment_directory: str
) -> None:
    with pytest.raises((shmqueue.ShmQueueValueError, shmqueue.ShmQueueTypeError), match="max_bytes"):
        ShmQueue(name, buffer_size=buffer_size, max_bytes=max_bytes)
    assert os.listdir(segment_directory) == []


def test_a_limit_that_is_the_start_makes_a_queue_of_fixed_size(make: Make) -> None:
    q = make(buffer_size=8192, max_bytes=8192)
    assert q._segment.header.shape.initial == 0
    q.put(bytes(8000))
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(bytes(8000), block=False)


def test_a_process_has_room_for_many_queues_that_could_grow_large(name: str, native: None) -> None:
    code = """
import os, sys, shmqueue

def addresses():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")

before = addresses()
queues = [shmqueue.ShmQueue(f"{sys.argv[1]}-{number}", buffer_size=65536, max_bytes=0) for number in range(100)]
print(addresses() - before)
"""
    assert int(run_python(code, name)) < 1 << 30  # one of them alone could grow larger


def test_another_process_takes_what_was_put_before_it_began(elastic: ShmQueue, name: str, engine: str) -> None:
    count = 100_000 if engine == "native" else 1_000
    elastic.put_many([(number, "x" * (number % 50)) for number in range(count)])
    code = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
for number in range(int(sys.argv[2])):
    assert q.get(timeout=30) == (number, "x" * (number % 50))
q.put("all there")
"""
    with python(code, name, count) as process:
        assert process.wait(PATIENCE) == 0
    assert elastic.get() == "all there"


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_a_queue_that_is_only_polled_gives_its_memory_back(elastic: ShmQueue, timeout: float) -> None:
    for _ in range(2):
        for _ in range(20):
            elastic.put(bytes(MIB))
        for _ in range(20):
            elastic.get()

    def has_given_it_back() -> bool:
        with pytest.raises(shmqueue.ShmQueueEmpty):
            elastic.get(timeout > 0, timeout)
        return memory_of(elastic) <= FEW_PAGES

    wait_until(has_given_it_back, "an empty queue has no memory")


# ---- when the memory is out ----


def fill(q: ShmQueue, size: int) -> int:
    """Put numbered items until there is no room; returns how many."""
    number = 0
    while True:
        try:
            q.put((number, bytes(size)), block=False)
        except shmqueue.ShmQueueFull:
            return number
        number += 1


@pytest.mark.thorough
@pytest.mark.parametrize("size", [100, 5_000, 700_000])
def test_growth_ends_with_the_memory_and_nothing_is_lost(
    small_memory: str, make: Make, caplog: pytest.LogCaptureFixture, size: int, engine: str
) -> None:
    if (engine, size) == ("portable", 100):
        size = 700  # it is slow, and this many take the same way
    q = make(buffer_size=START, max_bytes=100 * MIB)
    with caplog.at_level(logging.WARNING, "shmqueue"):
        for _ in range(3):
            count = fill(q, size)
            assert count * size > 2 * MIB * (size > 1000)
            with pytest.raises(
                shmqueue.ShmQueueFull, match=r"it cannot grow \(.*\), .* of 8388608 bytes free after 0.01 s"
            ):
                q.put((count, bytes(size)), timeout=0.01)
            assert [q.get(block=False) for _ in range(count)] == [(number, bytes(size)) for number in range(count)]
            assert q.empty()
    assert memory_of(q) <= 2 * MIB
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 3, warnings  # one for each time that it ended
    assert os.strerror(errno.ENOSPC) in warnings[0]
    assert f"{small_memory} has " in warnings[0]
    assert "of 8388608 bytes free" in warnings[0]


class Own(BaseException):
    """A class of the program's."""


@pytest.mark.parametrize("failure", [SystemExit, KeyboardInterrupt, Own, TimeoutError])
def test_a_put_in_whose_report_a_handler_raises_has_put_nothing_and_raises_it(
    small_memory: str, make: Make, monkeypatch: pytest.MonkeyPatch, failure: type[BaseException]
) -> None:
    def report(self: object, error: int) -> None:
        signal.raise_signal(signal.SIGUSR1)

    def put_until_it_raises() -> int:
        before = q.qsize()
        for count in range(100):
            try:
                q.put(bytes(100_000), block=False)
            except failure as error:
                assert str(error) == "the handler's"  # noqa: PT017 - not every put raises it
                assert q.qsize() == before + count
                return count
        raise AssertionError("it never raised")

    monkeypatch.setattr(handle._GrowthLog, "__call__", report)
    q = make(buffer_size=START, max_bytes=100 * MIB)
    with open(os.path.join(small_memory, "hog"), "wb") as hog:
        os.posix_fallocate(hog.fileno(), 0, 3 * MIB)
        with raised_by_a_handler(failure):
            assert put_until_it_raises() > 1
            hog.truncate(0)
            assert put_until_it_raises() > 1  # it could grow, and then no more
    os.unlink(hog.name)
    q.clear()


def test_a_put_waits_until_there_is_memory_again(small_memory: str, make: Make) -> None:
    q = make(buffer_size=START, max_bytes=100 * MIB)
    count = fill(q, 500_000)
    putter = threading.Thread(target=q.put, args=((count, bytes(500_000)),))
    putter.start()
    assert [q.get(timeout=PATIENCE)[0] for _ in range(count + 1)] == list(range(count + 1))
    putter.join()


def test_a_put_goes_on_when_others_free_memory(small_memory: str, make: Make) -> None:
    hog = os.path.join(small_memory, "hog")
    q = make(buffer_size=START, max_bytes=100 * MIB)
    with open(hog, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 7 * MIB)
    putter = threading.Thread(target=q.put, args=(bytes(3 * MIB),))
    putter.start()
    os.unlink(hog)
    assert len(q.get(timeout=PATIENCE)) == 3 * MIB
    putter.join()


def test_a_lease_without_memory_to_note_it_leaves_the_item_in_the_queue(small_memory: str, make: Make) -> None:
    hog = os.path.join(small_memory, "hog")
    q = make(buffer_size=START)
    q.put_many(["first", "second"])
    with open(hog, "wb") as file:
        free = os.statvfs(small_memory)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize)
    with pytest.raises(shmqueue.ShmQueueNoSpaceError) as raised:
        q.lease(timeout=0)
    assert raised.value.errno == errno.ENOSPC
    assert q.get(timeout=0) == "first"
    os.unlink(hog)
    assert q.lease(timeout=0).item == "second"


def test_a_put_has_the_memory_that_the_queue_itself_does_not_need(small_memory: str, make: Make) -> None:
    q = make(buffer_size=START, max_bytes=100 * MIB)
    for _ in range(10):
        for size, count in ((100_000, 20), (6 * MIB, 1)):
            for _ in range(count):
                q.put(bytes(size), block=False)
            for _ in range(count):
                assert len(q.get(block=False)) == size


def test_several_queues_share_little_memory(small_memory: str, make: Make, name: str) -> None:
    one, two = (make(f"{name}-{number}", buffer_size=START, max_bytes=100 * MIB) for number in (1, 2))
    for _ in range(3):
        for first, second in ((one, two), (two, one)):
            many, few = fill(first, 100_000), fill(second, 100_000)
            assert many > few
            for q, count in ((first, many), (second, few)):
                assert [q.get(block=False)[0] for _ in range(count)] == list(range(count))


# ---- death in the middle of it ----

PRODUCE = """
import sys, random, shmqueue
q, me = shmqueue.ShmQueue(sys.argv[1]), int(sys.argv[2])
chance, number = random.Random(me), 0
print("up", flush=True)
while True:
    size = chance.choice([0, 10, 3000, 20_000, chance.randrange(150_000)])
    q.put((me, number, b"%c" % (me % 251) * size))
    number += 1
"""

CONSUME = """
import sys, shmqueue
q, results = shmqueue.ShmQueue(sys.argv[1]), shmqueue.ShmQueue(sys.argv[2])
print("up", flush=True)
while True:
    producer, number, payload = q.get()
    assert payload == b"%c" % (producer % 251) * len(payload)
    results.put((producer, number))
"""


@pytest.mark.thorough
@pytest.mark.parametrize("victim", ["producer", "consumer"])
def test_a_kill_while_it_grows_or_shrinks_breaks_nothing(make: Make, name: str, victim: str) -> None:
    q = make(buffer_size=4096, max_bytes=2 * MIB)
    results = make(name + "-results", buffer_size=START, max_bytes=0)
    chance = random.Random(victim)
    producers = consumers = 0
    seen: dict[int, int] = {}
    missing = 0

    def note() -> None:
        nonlocal missing
        while not results.empty():
            producer, number = results.get()
            missing += number - seen.get(producer, -1) - 1
            assert number > seen.get(producer, -1), "an item came twice, or out of order"
            seen[producer] = number

    for _ in range(12):
        producers, consumers = producers + 1, consumers + 1
        with python(PRODUCE, name, producers) as produce, python(CONSUME, name, name + "-results") as consume:
            for process in (produce, consume):
                assert process.stdout is not None
                process.stdout.readline()
            wait_until(lambda: note() or producers in seen, "its items arrive")  # type: ignore[func-returns-value]  # noqa: B023
            dying, living = (produce, consume) if victim == "producer" else (consume, produce)
            threading.Event().wait(chance.uniform(0, 0.05))  # the moment of death is what varies
            dying.kill()
            dying.wait()
            assert living.poll() is None
            if victim == "producer":
                wait_until(q.empty, "the consumer goes on")
            else:
                wait_until(lambda: q.buffer_occupancy() > MIB, "the producer goes on")
    while not q.empty():
        producer, number, _ = q.get()
        results.put((producer, number))
        note()
    note()
    assert missing <= 2 * consumers, "more than one item is missing for each consumer killed"
    q.put("sound")
    assert q.get() == "sound"
