"""Items and calls of ShmQueue, as one process sees them, on both engines."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import pytest
from support import wait_until

import shmqueue
from shmqueue import SYSTEM_PAGESIZE, ShmQueue

pytestmark = pytest.mark.usefixtures("engine")

Make = Callable[..., ShmQueue]


def test_items_come_back_in_order(make: Make) -> None:
    q = make()
    for item in [1, "two", b"three", 4.5, None, True, [1, [2]], {"a": {"b": 1}}]:
        q.put(item)
    assert [q.get() for _ in range(8)] == [1, "two", b"three", 4.5, None, True, [1, [2]], {"a": {"b": 1}}]


def test_an_item_costs_8_bytes_and_its_payload(make: Make) -> None:
    q = make()
    q.put(b"x" * 100)  # msgpack: 2 bytes and the content
    assert q.buffer_occupancy() == 8 + 2 + 100
    q.get()
    assert q.buffer_occupancy() == 0


def test_a_buffer_holds_exactly_its_bytes(make: Make) -> None:
    q = make(buffer_size=SYSTEM_PAGESIZE)
    q.put(b"x" * (SYSTEM_PAGESIZE - 8 - 3), block=False)
    assert q.buffer_occupancy() == SYSTEM_PAGESIZE
    assert q.full()
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(None, block=False)
    assert q.get() == b"x" * (SYSTEM_PAGESIZE - 11)


def test_an_item_that_can_never_fit_is_refused_at_once(make: Make, name: str) -> None:
    q = make(buffer_size=SYSTEM_PAGESIZE)
    with pytest.raises(shmqueue.ShmQueueValueError) as caught:
        q.put(b"x" * (SYSTEM_PAGESIZE - 10))
    assert str(caught.value) == (
        f"item of {SYSTEM_PAGESIZE - 7} bytes can never fit: queue '{name}' holds {SYSTEM_PAGESIZE} bytes "
        "(buffer_size, chosen by its creator), and an item takes 8 bytes more than its own"
    )
    assert q.empty()


def test_an_empty_queue_says_so(make: Make) -> None:
    q = make()
    attempt: Callable[[], object]
    for attempt in (lambda: q.get(block=False), q.get_nowait, lambda: q.get(timeout=0.01), lambda: q.get(timeout=0)):
        with pytest.raises(shmqueue.ShmQueueEmpty):
            attempt()
        with pytest.raises(queue.Empty):
            attempt()


def test_a_full_queue_says_so(make: Make) -> None:
    q = make(maxsize=1)
    q.put(1)
    attempt: Callable[[], object]
    for attempt in (lambda: q.put(2, block=False), lambda: q.put_nowait(2), lambda: q.put(2, timeout=0.01)):
        with pytest.raises(shmqueue.ShmQueueFull):
            attempt()
        with pytest.raises(queue.Full):
            attempt()
    assert q.get() == 1
    assert q.empty()


def test_a_timed_call_lasts_at_least_its_timeout(make: Make) -> None:
    q = make(maxsize=1)
    start = time.monotonic()
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(timeout=0.25)
    q.put(1)
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(2, timeout=0.25)
    assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize("timeout", [-1, -0.001])
def test_a_negative_timeout_is_refused_and_loses_nothing(make: Make, timeout: float) -> None:
    q = make()
    q.put("kept")
    for attempt in (lambda: q.get(timeout=timeout), lambda: q.put(1, timeout=timeout), lambda: q.join(timeout)):
        with pytest.raises(shmqueue.ShmQueueValueError, match="'timeout' must be a non-negative number"):
            attempt()
    assert q.get() == "kept"


def test_timeout_is_ignored_unless_blocking(make: Make) -> None:
    q = make()
    q.put("item", block=False, timeout=-1)
    assert q.get(False, -1) == "item"


@pytest.mark.parametrize("timeout", ["1", [], object()])
def test_a_timeout_that_is_no_number_is_refused(make: Make, timeout: object) -> None:
    q = make()
    with pytest.raises(shmqueue.ShmQueueTypeError, match="timeout must be a number"):
        q.get(timeout=timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 10**30])
def test_a_timeout_without_end_waits(make: Make, timeout: float) -> None:
    q = make()
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(q.get(timeout=timeout)))
    waiter.start()
    wait_until(lambda: q.statistics().waiting, "the getter sleeps") if _is_native(q) else None
    q.put(1)
    waiter.join()
    assert got == [1]


def test_a_blocked_get_is_woken_by_a_put(make: Make) -> None:
    q = make()
    got: list[str] = []
    waiter = threading.Thread(target=lambda: got.append(q.get()))
    waiter.start()
    q.put("item")
    waiter.join()
    assert got == ["item"]


def test_a_blocked_put_is_woken_by_a_get(make: Make) -> None:
    q = make(maxsize=1)
    q.put(1)
    waiter = threading.Thread(target=lambda: q.put(2))
    waiter.start()
    assert q.get() == 1
    waiter.join()
    assert q.get() == 2


def test_clear_drops_everything_and_join_does_not_wait_for_it(make: Make) -> None:
    q = make()
    q.put(1)
    q.get()
    for item in range(10):
        q.put(item)
    q.clear()
    assert q.empty()
    assert q.unfinished_tasks == 1
    q.task_done()
    assert q.join(timeout=0)
    q.put("next")
    assert q.get() == "next"
    assert q.statistics().gets == 2


def test_clear_wakes_a_blocked_put(make: Make) -> None:
    q = make(maxsize=1)
    q.put(1)
    waiter = threading.Thread(target=lambda: q.put(2))
    waiter.start()
    q.clear()
    waiter.join()
    assert q.get() == 2


def test_snapshot_tells_positions_within_the_buffer(make: Make) -> None:
    q = make(buffer_size=SYSTEM_PAGESIZE)
    assert q.snapshot() == (1, 0, 0, SYSTEM_PAGESIZE, 0, 1)
    q.put(b"x" * 3000)
    position = 8 + 3 + 3000
    assert q.snapshot() == q.debug_ref_data == (1, position, 0, SYSTEM_PAGESIZE, 1, 1)
    q.get()
    q.put(b"x" * 3000)
    snap = q.snapshot()
    assert (snap.put_pos, snap.get_pos, snap.same_lap) == (2 * position - SYSTEM_PAGESIZE, position, 0)
    assert snap._fields == ("ref_count", "put_pos", "get_pos", "buffer_size", "qsize", "same_lap")


def test_maxsize_limits_the_items(make: Make) -> None:
    q = make(maxsize=3)
    for item in range(3):
        q.put(item)
    assert q.full()
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(3, block=False)
    q.get()
    assert not q.full()
    q.put(3)
    assert [q.get() for _ in range(3)] == [1, 2, 3]


def test_a_maxsize_of_zero_or_less_means_no_limit(make: Make) -> None:
    q = make(maxsize=-5)
    assert q.maxsize == 0
    for item in range(100):
        q.put(item)


def test_put_many_puts_all_or_nothing(make: Make) -> None:
    q = make(maxsize=5)
    q.put_many([])
    q.put_many(iter([1, 2, 3]))
    with pytest.raises(shmqueue.ShmQueueFull, match="no room for 3 items together") as caught:
        q.put_many([4, 5, 6], timeout=0.01)
    assert caught.value.items_put == 0
    assert q.qsize() == 3
    q.put_many([4, 5], block=False)
    assert q.get_many(100) == [1, 2, 3, 4, 5]


def test_put_many_of_more_than_the_buffer_goes_in_pieces(make: Make) -> None:
    q = make(buffer_size=SYSTEM_PAGESIZE)
    batch = [bytes([i]) * 1000 for i in range(50)]
    with pytest.raises(shmqueue.ShmQueueFull) as caught:
        q.put_many(batch, timeout=0.01)
    assert caught.value.items_put == q.qsize() == 4
    q.clear()
    putter = threading.Thread(target=lambda: q.put_many(batch))
    putter.start()
    assert [q.get() for _ in batch] == batch
    putter.join()


def test_put_many_with_one_bad_item_puts_nothing(make: Make) -> None:
    q = make(buffer_size=SYSTEM_PAGESIZE)
    with pytest.raises(shmqueue.ShmQueueSerializationError):
        q.put_many([1, threading.Lock(), 2])
    with pytest.raises(shmqueue.ShmQueueValueError, match="can never fit"):
        q.put_many([1, b"x" * 5000, 2])
    assert q.empty()


def test_get_many_takes_what_is_there(make: Make) -> None:
    q = make()
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get_many(10, timeout=0)
    q.put_many(range(5))
    assert q.get_many(3) == [0, 1, 2]
    assert q.get_many(3) == [3, 4]
    for bad in (0, -1):
        with pytest.raises(shmqueue.ShmQueueValueError, match="max_items must be at least 1"):
            q.get_many(bad)


def test_get_many_takes_what_is_there_also_where_no_list_could_be_as_long_as_it_may(make: Make) -> None:
    q = make()
    q.put_many([1, 2, 3])
    assert q.get_many(1 << 61) == [1, 2, 3]


def test_get_many_waits_for_the_first_item_only(make: Make) -> None:
    q = make()
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.extend(q.get_many(100)))
    waiter.start()
    q.put(7)
    waiter.join()
    assert got == [7]


def test_iteration_until_a_sentinel(make: Make) -> None:
    q = make()
    q.put_many([1, 2, 3, None, 4])
    assert list(iter(q.get, None)) == [1, 2, 3]
    assert q.qsize() == 1


def test_join_waits_for_task_done(make: Make) -> None:
    q = make()
    assert q.join(timeout=0)
    q.put_many([1, 2])
    assert q.unfinished_tasks == 2
    assert not q.join(timeout=0.01)
    q.get_many(2)
    assert not q.join(timeout=0)
    q.task_done()
    joined = threading.Event()
    waiter = threading.Thread(target=lambda: q.join() and joined.set())  # type: ignore[func-returns-value]
    waiter.start()
    q.task_done()
    waiter.join()
    assert joined.is_set()
    assert q.unfinished_tasks == 0


def test_task_done_too_often_is_an_error(make: Make) -> None:
    q = make()
    with pytest.raises(shmqueue.ShmQueueValueError, match=r"task_done\(\) called too many times"):
        q.task_done()
    q.put(1)
    q.get()
    q.task_done()
    with pytest.raises(ValueError, match=r"task_done\(\) called too many times"):
        q.task_done()


def test_statistics_count_what_went_through(make: Make) -> None:
    q = make()
    q.put_many([1, 2, 3])
    q.get()
    q.put("x")
    statistics = q.statistics()
    assert (statistics.puts, statistics.gets, statistics.high_water, statistics.recoveries) == (4, 1, 3, 0)
    assert statistics.bytes == 3 * 9 + 10
    with pytest.raises(AttributeError):
        statistics.puts = 0  # type: ignore[misc]


def test_the_high_water_mark_of_many_items_is_right_to_within_two_percent(make: Make, engine: str) -> None:
    q = make(buffer_size=1 << 18)
    for most in (1000, 1500, 5000, 9000):
        q.put_many([0] * 10)
        for _ in range(most - 10):
            q.put(0)
        assert q.statistics().high_water == most
        assert len(q.get_many(most)) == most
        assert 0.98 * most <= q.statistics().high_water <= most


def test_threads_of_one_process_share_a_handle(make: Make) -> None:
    q = make()
    count = 500
    got: list[tuple[int, int]] = []

    def consume() -> None:
        got.extend((producer, number) for producer, number in iter(q.get, None))

    def produce(producer: int) -> None:
        for number in range(count):
            q.put((producer, number))

    consumers = [threading.Thread(target=consume) for _ in range(3)]
    producers = [threading.Thread(target=produce, args=(i,)) for i in range(3)]
    for thread in consumers + producers:
        thread.start()
    for thread in producers:
        thread.join()
    q.put_many([None] * 3)
    for thread in consumers:
        thread.join()
    assert sorted(got) == [(producer, number) for producer in range(3) for number in range(count)]


def test_the_next_record_wraps_around_the_end_of_the_buffer(make: Make) -> None:
    q = make()
    for size in range(0, 1500, 7):
        q.put_many([b"a" * size, b"b" * size])
        assert q.get() == b"a" * size
        assert q.get() == b"b" * size


def test_large_items_pass(make: Make) -> None:
    q = make(buffer_size=3 << 20)
    items = [bytes([i]) * (1 << 20) for i in range(6)]
    putter = threading.Thread(target=lambda: [q.put(item) for item in items])
    putter.start()
    assert [q.get() for _ in items] == items
    putter.join()


def test_mutating_an_item_after_put_changes_nothing(make: Make) -> None:
    q = make()
    item = [1]
    q.put(item)
    item.append(2)
    assert q.get() == [1]


def _is_native(q: ShmQueue) -> bool:
    return q._segment.header.shape.engine == "native"
