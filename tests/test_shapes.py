"""How large a queue is, what decides it, and the warning for a process that asks for another size; on both engines."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import run_python

import shmqueue
from shmqueue import SYSTEM_PAGESIZE, ShmQueue, ShmQueueShapeWarning
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue

pytestmark = pytest.mark.usefixtures("engine")

Make = Callable[..., ShmQueue]
MIB = 1 << 20


# ---- how large it is ----


def test_a_size_that_no_address_space_has_is_refused_by_its_name(name: str) -> None:
    most = min(1 << 55, (sys.maxsize + 1) // 8)
    for size in (most + 1, 1 << 70):
        with pytest.raises(shmqueue.ShmQueueValueError, match=f"^buffer_size must be at most {most}, .* not "):
            ShmQueue(name, buffer_size=size)


def test_growth_ends_where_a_process_has_addresses(make: Make) -> None:
    q = make(max_bytes=1 << 61)
    capacity = q._segment.header.shape.capacity
    assert 4 * capacity < sys.maxsize
    assert capacity == min(1 << 46, (sys.maxsize + 1) // 8)


def test_addresses_of_32_bits_limit_growth(name: str) -> None:
    code = """
import sys
sys.maxsize = 2**31 - 1
import shmqueue.shapes
for engine, most in (("native", 1 << 28), ("portable", 1 << 25)):
    shape = shmqueue.shapes.require_shape(None, None, None).shape(engine, 0)
    assert shape.capacity <= most, shape
assert shmqueue.shapes.require_shape(None, 1 << 40, None).shape("portable", 0).capacity == 1 << 28
try:
    shmqueue.ShmQueue(sys.argv[1], buffer_size=1 << 29)
except shmqueue.ShmQueueValueError as error:
    print(error)
"""
    wanted = "buffer_size must be at most 268435456, for addresses of 32 bits, not 536870912\n"
    assert run_python(code, name) == wanted


def test_without_a_size_a_queue_grows(make: Make) -> None:
    q = make()
    items = [{"number": number, "text": "x" * 50} for number in range(2000)]
    for item in items:
        q.put(item, block=False)
    q.put(b"x" * (5 * MIB), block=False)
    assert not q.full()
    assert q.buffer_occupancy() > 5 * MIB
    assert q.get_many(2000) == items
    assert q.get() == b"x" * (5 * MIB)
    assert q.buffer_occupancy() == 0


def test_it_starts_as_small_as_the_queues_of_the_adapters(make: Make, name: str) -> None:
    q = make()
    with our_queue.Queue(name=name + "-other") as adapter:
        ours, theirs = q._segment.header.shape, adapter._channel.handle.shape
        assert ours.initial == theirs.initial == 64 << 10
        assert ours.capacity == theirs.capacity == q.max_buffer_size()


def test_max_bytes_limits_a_queue_that_grows(make: Make) -> None:
    q = make(max_bytes=MIB)
    assert q.max_buffer_size() == MIB
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put_many([b"x" * 1000] * (2 * MIB // 1000), timeout=0)
    assert MIB - 2000 < q.buffer_occupancy() <= MIB


@pytest.mark.parametrize("max_bytes", [1, 4096, 5000])
def test_max_bytes_below_the_first_size_limits_the_queue_from_the_start(make: Make, max_bytes: int) -> None:
    whole = -(-max_bytes // SYSTEM_PAGESIZE) * SYSTEM_PAGESIZE
    q = make(max_bytes=max_bytes)
    assert q.max_buffer_size() == whole
    with pytest.raises(shmqueue.ShmQueueValueError, match=rf"holds {whole} bytes \(max_bytes, chosen by its creator\)"):
        q.put(b"x" * whole)


def test_with_buffer_size_a_queue_has_exactly_that(make: Make) -> None:
    q = make(buffer_size=2 * SYSTEM_PAGESIZE)
    assert q.max_buffer_size() == 2 * SYSTEM_PAGESIZE
    q.put(b"x" * (2 * SYSTEM_PAGESIZE - 11))
    assert q.full()
    assert q.buffer_occupancy() == q.snapshot().buffer_size == q.max_buffer_size()


def test_a_snapshot_of_a_queue_that_grows_makes_sense(make: Make) -> None:
    q = make()
    q.put_many([b"x" * 1000] * 200)
    q.get_many(50)
    snap = q.snapshot()
    assert snap.put_pos - snap.get_pos == q.buffer_occupancy() > 64 << 10
    assert (snap.buffer_size, snap.qsize, snap.same_lap) == (q.max_buffer_size(), 150, 1)


def test_a_process_of_few_resources_can_have_a_queue(engine: str) -> None:
    for limit in ("RLIMIT_FSIZE", "RLIMIT_AS"):
        code = f"""
import resource, shmqueue
with open("/proc/self/statm") as file:  # an interpreter without a GIL reserves more than 1 GiB of addresses for itself
    most = int(file.read().split()[0]) * resource.getpagesize() + (1 << 30)
resource.setrlimit(resource.{limit}, (most, most))
with shmqueue.ShmQueue("few") as q:
    q.put(b"x" * 1000000)
    print(len(q.get()))
"""
        assert run_python(code) == "1000000\n"


# ---- a process that asks for another size ----

OTHER_SHAPES: list[tuple[dict[str, int], dict[str, int], str]] = [
    ({"buffer_size": 8192}, {"buffer_size": 4096}, "buffer_size=8192, which holds: buffer_size=4096"),
    ({}, {"buffer_size": 4096}, r"no fixed buffer_size \(it grows\), which holds: buffer_size=4096"),
    ({"buffer_size": 4096}, {"max_bytes": MIB}, f"max_bytes=4096, which holds: max_bytes={MIB}"),
    ({"max_bytes": MIB}, {"max_bytes": 2 * MIB}, f"max_bytes={MIB}, which holds: max_bytes={2 * MIB}"),
    ({"max_bytes": MIB}, {"max_bytes": 0}, f"max_bytes={MIB}, which holds: max_bytes=0"),
    ({}, {"max_bytes": MIB}, rf"max_bytes=0 \(all the memory there is\), which holds: max_bytes={MIB}"),
    ({"maxsize": 7}, {"maxsize": 1}, "maxsize=7, which holds: maxsize=1"),
    ({"maxsize": 7}, {"maxsize": 0}, "maxsize=7, which holds: maxsize=0"),
    ({}, {"maxsize": 3}, "maxsize=0, which holds: maxsize=3"),
    (
        {"buffer_size": 8192, "maxsize": 7},
        {"buffer_size": 4096, "maxsize": 1},
        "buffer_size=8192, maxsize=7, which holds: buffer_size=4096, maxsize=1 given here has no effect",
    ),
]
SAME_SHAPES: list[tuple[dict[str, int], dict[str, int]]] = [
    ({"buffer_size": 8192}, {"buffer_size": 8192}),
    ({"buffer_size": 8192}, {"buffer_size": 8191}),
    ({"buffer_size": 8192}, {}),
    ({"max_bytes": MIB, "maxsize": 3}, {"max_bytes": MIB - 1, "maxsize": 3}),
    ({"max_bytes": 100}, {"max_bytes": 100}),
    ({"buffer_size": 8192, "max_bytes": 8192}, {"buffer_size": 8192, "max_bytes": 8192}),
    ({"buffer_size": 8192, "max_bytes": MIB}, {"buffer_size": 8192, "max_bytes": MIB}),
    ({"maxsize": 3}, {}),
    ({"maxsize": -3}, {"maxsize": 0}),
    ({}, {"max_bytes": 0}),
    ({"max_bytes": 0}, {}),
]


@pytest.mark.parametrize(("has", "asked", "told"), OTHER_SHAPES)
def test_another_shape_than_the_queue_has_is_a_warning(
    make: Make, name: str, has: dict[str, int], asked: dict[str, int], told: str
) -> None:
    first = make(**has)
    with pytest.warns(ShmQueueShapeWarning, match=f"queue '{name}' exists with {told}") as caught:
        second = make(**asked)
    assert len(caught) == 1
    assert (second.max_buffer_size(), second.maxsize) == (first.max_buffer_size(), first.maxsize)


@pytest.mark.parametrize(("has", "asked"), SAME_SHAPES)
def test_the_same_shape_or_none_is_no_warning(make: Make, has: dict[str, int], asked: dict[str, int]) -> None:
    make(**has)
    with no_warning():
        make(**asked)


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


ADAPTERS: dict[str, Callable[..., Any]] = {
    "queue.Queue": our_queue.Queue,
    "mp.Queue": our_multiprocessing.Queue,
    "mp.JoinableQueue": our_multiprocessing.JoinableQueue,
}


@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_an_adapter_warns_of_another_maxsize_and_of_no_other(make: Make, name: str, kind: str) -> None:
    make(maxsize=2)
    with pytest.warns(ShmQueueShapeWarning, match="exists with maxsize=2, which holds: maxsize=5 given here"):
        ADAPTERS[kind](5, name=name).close()
    with no_warning():
        ADAPTERS[kind](2, name=name).close()
        ADAPTERS[kind](name=name).close()


def test_an_adapter_warns_of_another_max_bytes(make: Make, name: str) -> None:
    make(max_bytes=MIB)
    with pytest.warns(ShmQueueShapeWarning, match=f"exists with max_bytes={MIB}, which holds: max_bytes={2 * MIB}"):
        our_queue.Queue(name=name, max_bytes=2 * MIB).close()
    with no_warning():
        our_queue.Queue(name=name, max_bytes=MIB).close()
        our_queue.Queue(name=name).close()


def test_the_warning_is_about_the_line_that_opens_the_queue(make: Make, name: str) -> None:
    make(maxsize=2)
    for open_it in (lambda: ShmQueue(name, maxsize=1), lambda: our_multiprocessing.Queue(1, name=name)):
        with pytest.warns(ShmQueueShapeWarning) as caught:
            open_it().close()
        assert caught[0].filename == __file__


def test_a_warning_that_is_an_error_leaves_no_handle(make: Make, name: str) -> None:
    q = make(maxsize=2)
    with no_warning(), pytest.raises(ShmQueueShapeWarning):
        ShmQueue(name, maxsize=1)
    assert q.refs == 1


# ---- an item that can never fit ----


def told_of(q: Any, item: object) -> str:
    with pytest.raises(shmqueue.ShmQueueValueError) as caught:
        q.put(item)
    many = getattr(q, "put_many", None)
    if many is not None:
        with pytest.raises(shmqueue.ShmQueueValueError, match=re.escape(str(caught.value))):
            many([1, item])
    assert q.empty()
    return str(caught.value)


def test_what_can_never_fit_names_buffer_size_if_that_is_the_limit(make: Make, name: str) -> None:
    told = f"queue '{name}' holds 4096 bytes (buffer_size, chosen by its creator), and an item takes 8 bytes more"
    assert told in told_of(make(buffer_size=4096), b"x" * 5000)
    with our_queue.Queue(name=name) as adapter:
        assert told in told_of(adapter, b"x" * 5000)


def test_what_can_never_fit_names_max_bytes_if_that_is_the_limit(make: Make, name: str) -> None:
    with our_queue.Queue(name=name + "-adapter", max_bytes=MIB) as adapter:
        for q, its_name in ((make(max_bytes=MIB), name), (adapter, name + "-adapter")):
            told = f"queue '{its_name}' holds {MIB} bytes (max_bytes, chosen by its creator), and"
            assert told in told_of(q, b"x" * MIB)


SMALL_MEMORY = """
import sys
from shmqueue.segment import naming
import shmqueue.shapes
shmqueue.shapes.total_bytes = lambda: 1 << 20
from shmqueue import ShmQueue
from shmqueue.compat import multiprocessing, queue
for q in (ShmQueue("a"), queue.Queue(), queue.SimpleQueue(), multiprocessing.Queue(), multiprocessing.SimpleQueue()):
    try:
        q.put(b"x" * (1 << 20))
    except ValueError as error:
        print(error)
"""


FEW_ADDRESSES = "all that addresses of 32 bits"


def test_what_can_never_fit_names_the_memory_if_that_is_the_limit(segment_directory: str) -> None:
    told = run_python(SMALL_MEMORY).splitlines()
    assert len(told) == 5
    for line in told:
        if sys.maxsize < 1 << 32:
            assert f"({FEW_ADDRESSES} and the memory of {segment_directory} allow)" in line
        else:
            assert f"holds {MIB} bytes (all the memory of {segment_directory}; a larger item needs more of it" in line
            assert "--shm-size" in line
        assert "buffer_size" not in line
        assert "max_bytes" not in line


@pytest.mark.skipif(sys.maxsize < 1 << 32, reason="an address of 32 bits reaches no item of 5 GiB")
def test_what_never_fits_is_refused_before_a_copy_is_made(make: Make, name: str, tmp_path: Any) -> None:
    make(max_bytes=MIB)
    (tmp_path / "huge").touch()
    code = """
import mmap, os, resource, sys
import shmqueue
from shmqueue.compat import multiprocessing, queue

huge = os.open(sys.argv[2], os.O_RDWR)
os.ftruncate(huge, 5 << 30)
view = memoryview(mmap.mmap(huge, 5 << 30, prot=mmap.PROT_READ))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))


class Carrier:
    def __init__(self, view):
        self.view = view

    def __reduce_ex__(self, protocol):
        import pickle
        return bytes, (pickle.PickleBuffer(self.view),)


before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
q = shmqueue.ShmQueue(sys.argv[1])
attempts = [
    lambda: q.put(view),
    lambda: q.put(Carrier(view), serialization_method=1),
    lambda: q.put_many([1, view]),
    lambda: q.put(Carrier(view)),
    lambda: queue.Queue().put(Carrier(view)),
    lambda: multiprocessing.Queue().put(Carrier(view)),
    lambda: multiprocessing.SimpleQueue().put(Carrier(view)),
]
for attempt in attempts:
    try:
        attempt()
    except ValueError as error:
        print(error)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert grown < 200000, grown
print(q.qsize())
"""
    *told, left = run_python(code, name, tmp_path / "huge").splitlines()
    assert left == "0"
    assert len(told) == 7
    for line in told:
        assert re.fullmatch(
            r"item of 53687\d{5} bytes can never fit: queue '.*' holds \d+ bytes \(.*\), and an item takes 16 .*", line
        ), line
