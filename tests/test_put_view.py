"""Writing an item where it lies."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable

import pytest
from support import PATIENCE

import shmqueue
from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")

# ---- what is put ----


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, 65536, 200_000])
def test_what_is_written_is_the_item(make: Make, size: int) -> None:
    q = make(buffer_size=1 << 18)
    for _ in range(4):  # the larger ones wrap
        item = os.urandom(size)
        with q.put_view(size) as view:
            assert not view.readonly
            assert view.nbytes == size
            view[:] = item
        with pytest.raises(ValueError, match="released"):
            bytes(view)
        assert q.get() == item
    assert q.empty()
    assert q.buffer_occupancy() == 0


def test_it_is_read_where_it_was_written(make: Make) -> None:
    q = make(buffer_size=1 << 16)
    for number in range(20):
        with q.put_view(10_000) as view:
            view[:] = bytes([number]) * 10_000
        with q.get_view() as seen:
            assert seen == bytes([number]) * 10_000
    assert q.unfinished_tasks == 0


def test_items_of_both_kinds_come_in_order(make: Make) -> None:
    q = make(buffer_size=4096, max_bytes=1 << 22)
    for number in range(500):
        if number % 3:
            q.put(number)
        else:
            with q.put_view(number) as view:
                view[:] = bytes(number)
    assert q.qsize() == 500
    items = q.get_many(100)
    while len(items) < 500:
        items += q.get_many(500)
    assert items == [number if number % 3 else bytes(number) for number in range(500)]


def test_an_elastic_queue_grows_for_it(make: Make) -> None:
    q = make(buffer_size=4096, max_bytes=1 << 24)
    for number in range(30):
        with q.put_view(100_000) as view:
            view[:] = bytes([number]) * 100_000
    for number in range(30):
        assert q.get() == bytes([number]) * 100_000


def test_when_the_block_raises_nothing_is_put(make: Make) -> None:
    q = make(buffer_size=4096)
    for _ in range(10):
        with pytest.raises(ZeroDivisionError), q.put_view(3000) as view:
            view[:] = bytes([1 // 0])
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(block=False)
    assert q.qsize() == 0
    q.join()
    assert q.buffer_occupancy() == 0


def test_what_is_never_entered_is_not_put(make: Make) -> None:
    q = make(buffer_size=4096)
    q.put_view(3000)
    q.put(bytes(3000), timeout=PATIENCE)
    assert q.get() == bytes(3000)


def test_a_view_is_entered_once(make: Make) -> None:
    entered = make().put_view(1)
    with entered:
        pass
    with pytest.raises(RuntimeError, match="once"), entered:
        raise AssertionError


# ---- what waits ----


def test_nobody_waits_for_who_writes(make: Make) -> None:
    q = make()
    with q.put_view(5) as view:
        q.put("later")
        assert q.get(timeout=PATIENCE) == "later"
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(block=False)
        assert q.qsize() == 0
        view[:] = b"first"
    assert q.get(block=False) == b"first"
    assert q.unfinished_tasks == 2


def test_its_place_is_where_it_began(make: Make, native: None) -> None:
    q = make()
    q.put("before")
    with q.put_view(1) as first, q.put_view(1) as second:
        q.put("behind")
        first[:], second[:] = b"1", b"2"
    assert [q.get() for _ in range(4)] == ["before", b"1", b"2", "behind"]


def test_what_was_passed_comes_before_what_was_not_taken(make: Make, native: None) -> None:
    q = make()
    with q.put_view(1) as view:
        q.put("taken")
        q.put("left")
        assert q.get() == "taken"
        view[:] = b"1"
    with q.lease() as lease:
        assert (lease.item, lease.attempt) == (b"1", 1)
    assert q.get() == "left"
    assert q.statistics().redelivered == 0


def test_a_getter_that_sleeps_is_woken_at_the_end(make: Make) -> None:
    q = make()
    got: list[object] = []
    getter = threading.Thread(target=lambda: got.append(q.get(timeout=PATIENCE)))
    with q.put_view(4) as view:
        getter.start()
        deadline = time.monotonic() + PATIENCE
        while not q.statistics().waiting and time.monotonic() < deadline:
            time.sleep(0.001)
        view[:] = b"item"
        began = time.monotonic()
    getter.join(PATIENCE)
    assert got == [b"item"]
    assert time.monotonic() - began < PATIENCE / 2


def test_more_are_written_at_once_than_there_are_leases(make: Make, native: None) -> None:
    q = make(max_bytes=1 << 24)
    views = [q.put_view(1) for _ in range(1100)]
    q.put("last")
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(timeout=0.2)
    for view in views[::-1]:
        with view as contents:
            contents[:] = b"x"
    assert [q.get(timeout=PATIENCE) for _ in range(1101)].count(b"x") == 1100
    assert q.empty()


# ---- room ----


def test_it_waits_for_room_as_put_does(make: Make) -> None:
    q = make(buffer_size=4096)
    q.put(bytes(3000))
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put_view(2000, block=False)
    with pytest.raises(shmqueue.ShmQueueFull, match=r"0\.05"):
        q.put_view(2000, timeout=0.05)
    getter = threading.Timer(0.05, q.get)
    getter.start()
    with q.put_view(2000, timeout=PATIENCE) as view:
        view[:] = bytes(2000)
    getter.join()
    assert q.get() == bytes(2000)


def test_what_is_written_takes_room(make: Make, native: None) -> None:
    q = make(buffer_size=4096)
    with q.put_view(3000), pytest.raises(shmqueue.ShmQueueFull):
        q.put(bytes(2000), block=False)
    assert q.get() is not None
    q.put(bytes(2000), block=False)


def test_it_counts_for_maxsize(make: Make, native: None) -> None:
    q = make(maxsize=1)
    with q.put_view(1), pytest.raises(shmqueue.ShmQueueFull):
        q.put("one too many", block=False)
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put_view(1, block=False)


def test_what_never_fits_is_refused(make: Make) -> None:
    q = make(buffer_size=4096)
    with pytest.raises(shmqueue.ShmQueueValueError, match="4096"):
        q.put_view(4096)
    with pytest.raises(shmqueue.ShmQueueValueError):
        q.put_view(1 << 62)
    for wrong in -1, "1", 1.5, None:
        with pytest.raises((shmqueue.ShmQueueValueError, shmqueue.ShmQueueTypeError)):
            q.put_view(wrong)  # type: ignore[arg-type]
    with pytest.raises(shmqueue.ShmQueueValueError):
        q.put_view(1, timeout=-1)


# ---- what still refers to the bytes ----


def test_what_could_still_be_written_is_not_put(make: Make) -> None:
    q = make(buffer_size=4096)
    with pytest.raises(BufferError, match="nothing was put"), q.put_view(3000) as view:
        part = view[1:10]
    part[:] = b"x" * 9
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(block=False)
    del part
    q.put(bytes(3000), timeout=PATIENCE)
    assert q.get() == bytes(3000)


def test_an_array_must_be_gone(make: Make) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    q = make()
    with q.put_view(800) as view:
        frame = numpy.frombuffer(view, dtype=numpy.float64)
        frame[:] = 1.5
        del frame
    with q.get_view() as view:
        assert numpy.frombuffer(view, dtype=numpy.float64).sum() == 150
    with pytest.raises(BufferError), q.put_view(800) as view:
        frame = numpy.frombuffer(view, dtype=numpy.float64)
    frame[:] = 2.5
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(block=False)


# ---- the end of the queue ----


def test_after_a_shutdown_in_the_block_nothing_is_put(make: Make) -> None:
    for immediate in False, True:
        q = make(f"{os.getpid()}-{immediate}")
        with pytest.raises(shmqueue.ShmQueueShutDown), q.put_view(1):
            q.shutdown_all(immediate)
        with pytest.raises(shmqueue.ShmQueueShutDown):
            q.get(block=False)
        with pytest.raises(shmqueue.ShmQueueShutDown):
            q.put_view(1)
        q.join()


def test_after_closing_in_the_block_nothing_is_put(make: Make, name: str) -> None:
    other, q = make(), make()
    entered = q.put_view(3)
    with pytest.raises(shmqueue.ShmQueueNotInitializedError), entered:
        q.shutdown()
    with pytest.raises(shmqueue.ShmQueueEmpty):
        other.get(timeout=0.2)
    assert other.buffer_occupancy() == 0


def test_clear_leaves_what_is_being_written(make: Make) -> None:
    q = make(buffer_size=1 << 14)
    q.put("before")
    with q.put_view(1000) as view:
        q.put("behind")
        q.clear()
        assert q.qsize() == 0
        for number in range(10):
            q.put(bytes([number]) * 500)
            assert q.get() == bytes([number]) * 500
        view[:] = b"v" * 1000
    assert q.get(block=False) == b"v" * 1000
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(block=False)
    for _ in range(11):
        q.task_done()
    q.join()


# ---- leases beside it ----


def test_leases_and_views_beside_it(make: Make) -> None:
    q = make(buffer_size=1 << 14)
    draw = random.Random(7)
    put, got, leases = 0, 0, []
    for _ in range(3000):
        choice = draw.randrange(4)
        if choice == 0:
            try:
                with q.put_view(draw.randrange(300), block=False) as view:
                    view[:] = bytes([put % 251]) * len(view)
                put += 1
            except shmqueue.ShmQueueFull:
                pass
        elif choice == 1 and not q.empty():
            leases.append(q.lease(timeout=PATIENCE))
        elif choice == 2 and leases:
            lease = leases.pop(draw.randrange(len(leases)))
            if draw.randrange(2):
                lease.requeue()
            else:
                assert len(set(lease.item)) <= 1
                lease.ack()
                got += 1
        elif not q.empty():
            with q.get_view() as seen:
                assert len(set(seen)) <= 1
            got += 1
    for lease in leases:
        lease.ack()
    q.clear()
    q.join()
    assert got + len(leases) <= put
    assert q.statistics().leased == 0
