"""Reading an item where it lies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

import pytest
from support import PATIENCE, python

import shmqueue
from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


def test_the_item_is_seen_and_then_taken(make: Make) -> None:
    q = make()
    q.put(b"first")
    q.put(bytearray(b"second"))
    for expected in (b"first", b"second"):
        with q.get_view() as view:
            assert bytes(view) == expected
            assert view.readonly
        with pytest.raises(ValueError, match="released"):
            bytes(view)
    assert q.empty()
    assert q.buffer_occupancy() == 0


@pytest.mark.parametrize("size", [0, 1, 31, 32, 255, 256, 65535, 65536, 200_000])
def test_items_of_all_sizes_are_seen(make: Make, size: int) -> None:
    q = make(buffer_size=1 << 18)
    item = os.urandom(size)
    for _ in range(4):  # the larger ones wrap
        q.put(item)
        with q.get_view() as view:
            assert view == item


def test_an_elastic_queue_lends_too(make: Make) -> None:
    q = make(max_bytes=1 << 24)
    items = [os.urandom(5000 * i) for i in range(40)]
    for item in items:
        q.put(item)
    for item in items:
        with q.get_view() as view:
            assert view == item
    assert q.empty()


def test_when_the_block_raises_the_item_stays(make: Make) -> None:
    q = make()
    q.put(b"item")
    with pytest.raises(ZeroDivisionError), q.get_view():
        raise ZeroDivisionError
    assert q.qsize() == 1
    assert q.get() == b"item"


def test_a_view_whose_queue_was_closed_before_its_block_says_so(make: Make, name: str) -> None:
    q, other = make(), make()
    q.put(b"item")
    view = q.get_view()
    q.close()
    with pytest.raises(shmqueue.ShmQueueClosedError, match="before the block"):
        view.__enter__()
    assert other.get(timeout=PATIENCE) == b"item"


def test_what_still_looks_at_an_item_that_was_not_done_keeps_its_bytes(make: Make, engine: str) -> None:
    if engine == "portable":
        pytest.skip("there a view is a copy")
    q = make(buffer_size=4096)
    q.put(b"a" * 1000)
    looking: list[memoryview] = []

    def fail() -> None:
        with q.get_view() as view:
            looking.append(view[:4])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for letter in b"bcd":
        q.put(bytes([letter]) * 1000)
        assert q.get(block=False) == bytes([letter]) * 1000
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(b"e" * 1000, block=False)
    assert bytes(looking[0]) == b"aaaa"
    looking[0].release()
    assert q.get(block=False) == b"a" * 1000
    q.put(b"e" * 1000, block=False)


def test_a_view_that_is_dropped_leaves_the_item(make: Make) -> None:
    q = make()
    q.put(b"item")
    q.get_view()
    assert q.get(timeout=PATIENCE) == b"item"


def test_without_an_item_it_is_empty(make: Make) -> None:
    q = make()
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get_view(block=False)
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get_view(timeout=0.01)
    q.shutdown_all()
    with pytest.raises(shmqueue.ShmQueueShutDown):
        q.get_view()


def test_it_waits_for_an_item(make: Make) -> None:
    q = make()
    threading.Timer(0.05, q.put, [b"late"]).start()
    with q.get_view(timeout=PATIENCE) as view:
        assert bytes(view) == b"late"


@pytest.mark.parametrize("item", [1, "text", None, {"a": 1}, (1, 2), object])
def test_what_is_not_bytes_is_refused_and_stays(make: Make, item: object) -> None:
    q = make()
    q.put(item)
    with pytest.raises(shmqueue.ShmQueueTypeError, match="not bytes"):
        q.get_view()
    assert q.get() == item


def test_views_of_several_queues_are_nested(make: Make, name: str) -> None:
    a, b = make(name + "-a"), make(name + "-b")
    a.put(b"a")
    b.put(b"b")
    with a.get_view() as one, b.get_view() as two:
        a.put(bytes(two))
        b.put(bytes(one))
    assert (a.get(), b.get()) == (b"b", b"a")


def test_a_process_killed_meanwhile_leaves_the_item(make: Make, name: str) -> None:
    q, other = make(), make(name + "-other")
    q.put(b"lent")
    code = """if True:
        import sys, shmqueue
        q, other = shmqueue.ShmQueue(sys.argv[1]), shmqueue.ShmQueue(sys.argv[1] + "-other")
        with q.get_view() as view:
            other.put(bytes(view))
            sys.stdin.read()
    """
    with python(code, name) as child:
        assert other.get(timeout=PATIENCE) == b"lent"
        child.send_signal(signal.SIGKILL)
        assert q.get(timeout=PATIENCE) == b"lent"


def test_a_forked_child_has_no_part_in_its_parents_view(make: Make) -> None:
    q = make()
    q.put(b"lent")
    with q.get_view() as view:
        pid = os.fork()
        if pid == 0:
            try:
                view.release()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert bytes(view) == b"lent"
    assert q.empty()


def test_what_still_looks_at_the_item_sees_it_after_the_queue_is_gone(make: Make) -> None:
    for block_raises in (False, True):
        q = make()
        q.put(b"item")
        try:
            with q.get_view() as view:
                part = view[1:3]
                if block_raises:
                    raise ZeroDivisionError
        except (BufferError, ZeroDivisionError):
            pass
        q.shutdown()
        assert bytes(part) == b"te"


def test_a_view_entered_and_dropped_gives_the_queue_back(make: Make) -> None:
    q = make()
    q.put(b"item")
    q.get_view().__enter__()
    assert q.get(timeout=PATIENCE) == b"item"


def test_views_may_end_in_any_order(make: Make, name: str) -> None:
    queues = [make(f"{name}-{number}") for number in range(10)]
    for q in queues:
        q.put(b"item")
    managers = [q.get_view() for q in queues]
    for manager in managers:
        manager.__enter__()
    for manager in managers[::2] + managers[1::2]:
        manager.__exit__(None, None, None)
    assert all(q.empty() for q in queues)


def test_the_queue_is_shut_down_for_all_within_ones_own_view(make: Make) -> None:
    q = make()
    q.put(b"item")
    q.put(b"next")
    with q.get_view() as view:
        q.shutdown_all(immediate=True)
        assert bytes(view) == b"item"
    with pytest.raises(shmqueue.ShmQueueShutDown):
        q.get()
    assert q.qsize() == 0


def test_what_still_looks_at_the_item_keeps_its_bytes(make: Make, native: None) -> None:
    q = make(buffer_size=4096)
    for number in range(4):
        q.put(bytes([number]) * 1000)
    with q.get_view() as view:
        part = view[1:999]
    assert q.unfinished_tasks == 3
    for number in range(1, 4):
        assert q.get() == bytes([number]) * 1000
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(bytes(4000), block=False)
    assert bytes(part) == bytes(998)
    del part
    q.put(bytes(4000), block=False)


def test_a_view_of_an_item_that_wraps_is_read_where_it_lies(make: Make, native: None) -> None:
    q = make(buffer_size=shmqueue.SYSTEM_PAGESIZE)
    size = shmqueue.SYSTEM_PAGESIZE * 3 // 4
    q.put(bytes(size))
    q.get()
    item = os.urandom(size)
    q.put(item)
    with q.get_view() as view:
        assert view == item
        part = view[:]
    with pytest.raises(shmqueue.ShmQueueFull):
        q.put(bytes(size), block=False)  # it is finished, and its bytes are still looked at
    assert part == item
    del part
    q.put(bytes(size), block=False)


def test_an_array_over_a_view_may_be_bound_at_the_blocks_end(make: Make) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    q = make(buffer_size=1 << 16)
    seen = []
    for number in range(100):
        q.put(bytes([number]) * 1000)
        with q.get_view() as view:
            array = numpy.frombuffer(view, dtype=numpy.uint8)
        seen.append(int(array[999]))
    assert seen == list(range(100))
    assert q.empty()


def test_views_of_different_items_do_not_wait_for_each_other(make: Make, name: str) -> None:
    q, other = make(), make()
    for number in range(4):
        q.put(b"%d" % number)
    with q.get_view() as first, other.get_view() as second:
        assert (bytes(first), bytes(second)) == (b"0", b"1")
        assert q.get(block=False) == b"2"
        assert q.qsize() == 1
        with q.get_view() as third:
            assert bytes(third) == b"3"
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get_view(block=False)
        q.shutdown_all()


def test_a_view_ends_in_any_thread(make: Make) -> None:
    q = make()
    q.put(b"item")
    manager = q.get_view()
    assert bytes(manager.__enter__()) == b"item"
    thread = threading.Thread(target=manager.__exit__, args=(None, None, None))
    thread.start()
    thread.join(PATIENCE)
    assert q.empty()
    assert q.unfinished_tasks == 0


def test_a_view_outlives_the_thread_that_took_it(make: Make) -> None:
    q = make()
    q.put(b"item")
    managers = []
    thread = threading.Thread(target=lambda: managers.append(q.get_view()))
    thread.start()
    thread.join(PATIENCE)
    with managers[0] as view:
        assert bytes(view) == b"item"
    assert q.empty()


def test_closing_the_handle_gives_the_item_back(make: Make) -> None:
    q, other = make(), make()
    q.put(b"item")
    with q.get_view() as view:
        q.close()
        assert bytes(view) == b"item"
    assert other.get(block=False) == b"item"


def test_a_view_is_entered_once(make: Make) -> None:
    q = make()
    q.put(b"item")
    manager = q.get_view()
    with manager, pytest.raises(RuntimeError, match="entered once"):
        manager.__enter__()
    with pytest.raises(RuntimeError, match="entered once"):
        manager.__enter__()
