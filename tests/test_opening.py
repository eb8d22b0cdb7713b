"""Opening a ShmQueue and shutting its handle down, as one process sees it, on both engines."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

import shmqueue
from shmqueue import SYSTEM_PAGESIZE, ShmQueue

pytestmark = pytest.mark.usefixtures("engine")

Make = Callable[..., ShmQueue]


def test_buffer_size_is_rounded_up_to_whole_pages(make: Make) -> None:
    first = make(buffer_size=1)
    assert first.max_buffer_size() == SYSTEM_PAGESIZE
    other = make("other-" + first.identifier, buffer_size=SYSTEM_PAGESIZE + 1)
    assert other.max_buffer_size() == 2 * SYSTEM_PAGESIZE


@pytest.mark.parametrize("size", [0, -1])
def test_a_buffer_size_below_one_is_refused(name: str, size: int) -> None:
    with pytest.raises(shmqueue.ShmQueueValueError, match=f"buffer_size must be at least 1, not {size}"):
        ShmQueue(name, buffer_size=size)


@pytest.mark.parametrize("size", ["4096", 4096.0, True])
def test_a_buffer_size_that_is_no_int_is_refused(name: str, size: object) -> None:
    with pytest.raises(shmqueue.ShmQueueTypeError, match="buffer_size must be an int"):
        ShmQueue(name, buffer_size=size)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [7, None, b"name"])
def test_a_name_that_is_no_str_is_refused(bad: object) -> None:
    with pytest.raises(shmqueue.ShmQueueTypeError, match="queue_name must be a str"):
        ShmQueue(bad)  # type: ignore[arg-type]


def test_the_first_creators_sizes_hold_for_all(make: Make) -> None:
    make(buffer_size=3 * SYSTEM_PAGESIZE, maxsize=7)
    with pytest.warns(shmqueue.ShmQueueShapeWarning):
        second = make(buffer_size=SYSTEM_PAGESIZE, maxsize=1)
    assert second.max_buffer_size() == 3 * SYSTEM_PAGESIZE
    assert second.maxsize == 7


def test_a_process_that_opens_a_name_twice_counts_twice(make: Make) -> None:
    first, second = make(), make()
    assert first.refs == second.refs == 2
    second.shutdown()
    assert first.refs == 1


def test_deleting_a_handle_closes_it(make: Make, name: str) -> None:
    kept = make()
    other = ShmQueue(name)
    assert kept.refs == 2
    del other
    assert kept.refs == 1


def test_shutdown_twice_is_harmless_and_everything_else_then_raises(make: Make, name: str) -> None:
    q = make()
    q.shutdown()
    q.shutdown()
    for attempt in (
        lambda: q.put(1), q.get, q.get_nowait, q.qsize, q.empty, q.full, q.buffer_occupancy, q.max_buffer_size,
        q.clear, q.snapshot, lambda: q.refs, lambda: q.debug_ref_data, q.task_done, q.join, q.statistics, q.unlink,
        lambda: q.put_many([1]), lambda: q.get_many(1), q.__reduce__, q.__enter__,
        q.set_console_handlers, lambda: q.add_ref_manually(1), q.reduce_ref_counter,
    ):  # fmt: skip
        with pytest.raises(shmqueue.ShmQueueNotInitializedError, match=f"queue '{name}' is closed"):
            attempt()
    assert q.identifier == name
    assert "closed" in repr(q)


def test_shutdown_ends_calls_that_wait_in_the_same_handle(make: Make) -> None:
    q = make(maxsize=1)
    ended: list[str] = []

    def waits(call: Callable[[], object]) -> None:
        try:
            call()
        except shmqueue.ShmQueueNotInitializedError:
            ended.append("ended")

    other = make("full-" + q.identifier, maxsize=1)
    other.put(1)
    threads = [threading.Thread(target=waits, args=(call,)) for call in (q.get, lambda: other.put(2), other.join)]
    for thread in threads:
        thread.start()
    q.shutdown()
    other.shutdown()
    for thread in threads:
        thread.join()
    assert ended == ["ended"] * 3


def test_a_with_block_shuts_down(name: str) -> None:
    with ShmQueue(name) as q:
        q.put(1)
        assert q.get() == 1
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        q.qsize()


def test_create_says_whether_the_queue_may_or_must_exist(make: Make, name: str) -> None:
    with pytest.raises(shmqueue.ShmQueueNotFoundError, match=f"there is no queue called '{name}'"):
        make(create=False)
    with pytest.raises(FileNotFoundError):
        make(create=False)
    first = make(create=True)
    with pytest.raises(shmqueue.ShmQueueExistsError, match=f"a queue called '{name}' is in use"):
        make(create=True)
    with pytest.raises(FileExistsError):
        make(create=True)
    first.put(1)
    assert make(create=False).get() == 1


def test_unlink_takes_the_name_away_and_holders_go_on(make: Make) -> None:
    old = make()
    old.put("old")
    old.unlink()
    new = make(create=True)
    new.put("new")
    assert (old.get(), new.get()) == ("old", "new")
    old.unlink()  # not its name any more: the new queue keeps it
    assert make(create=False).qsize() == 0
