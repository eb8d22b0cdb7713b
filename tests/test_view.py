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

pytestmark = pytest.mark.usefixtures("native")


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
        assert view == b"late"


@pytest.mark.parametrize("item", [1, "text", None, {"a": 1}, (1, 2), object])
def test_what_is_not_bytes_is_refused_and_stays(make: Make, item: object) -> None:
    q = make()
    q.put(item)
    with pytest.raises(shmqueue.ShmQueueTypeError, match="not bytes"):
        q.get_view()
    assert q.get() == item


def test_what_still_looks_at_the_item_keeps_it_in_the_queue(make: Make) -> None:
    q = make()
    q.put(b"item")
    with pytest.raises(BufferError, match="still looks"), q.get_view() as view:
        part = view[1:3]
    assert bytes(part) == b"te"
    assert q.get() == b"item"


def test_meanwhile_others_wait_and_puts_go_on(make: Make) -> None:
    q, other = make(), make()
    q.put(b"lent")
    taken: list[object] = []
    getter = threading.Thread(target=lambda: taken.append(other.get()))
    with q.get_view() as view:
        getter.start()
        q.put("next")
        other.put("last")
        assert q.qsize() == 3
        assert view == b"lent"
        assert taken == []
    getter.join(PATIENCE)
    assert taken == ["next"]


def test_timeouts_of_others_hold_meanwhile(make: Make, name: str) -> None:
    q = make()
    q.put(b"lent")
    code = """if True:
        import sys, shmqueue
        try:
            shmqueue.ShmQueue(sys.argv[1]).get(timeout=0.2)
        except shmqueue.ShmQueueEmpty:
            print("empty")
    """
    with q.get_view(), python(code, name) as child:
        assert child.communicate(timeout=PATIENCE)[0] == "empty\n"


def test_the_same_thread_cannot_take_meanwhile(make: Make) -> None:
    q = make()
    q.put(b"lent")
    q.put(b"next")
    with q.get_view():
        for call in (q.get, q.get_view, q.clear, lambda: q.get_many(2)):
            with pytest.raises(shmqueue.ShmQueueError, match="this thread reads an item of it in place"):
                call()
    assert q.get() == b"next"


def test_views_of_several_queues_are_nested(make: Make, name: str) -> None:
    a, b = make(name + "-a"), make(name + "-b")
    a.put(b"a")
    b.put(b"b")
    with a.get_view() as one, b.get_view() as two:
        a.put(bytes(two))
        b.put(bytes(one))
    assert (a.get(), b.get()) == (b"b", b"a")


def test_the_handle_may_be_shut_down_meanwhile(make: Make, name: str) -> None:
    q, other = make(), make()
    q.put(b"lent")
    with q.get_view() as view:
        q.shutdown()
        assert view == b"lent"
    assert other.empty()


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
        assert view == b"lent"
    assert q.empty()


def test_a_view_ends_in_its_own_thread(make: Make) -> None:
    q = make()
    q.put(b"lent")
    manager = q.get_view()
    manager.__enter__()
    errors: list[BaseException] = []

    def leave() -> None:
        try:
            manager.__exit__(None, None, None)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join(PATIENCE)
    assert "in the thread that began it" in str(errors[0])
    manager.__exit__(None, None, None)
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


def test_a_view_left_without_being_entered_or_twice_says_so(make: Make) -> None:
    q = make()
    q.put(b"item")
    with pytest.raises(RuntimeError, match="entered"):
        q.get_view().__exit__(None, None, None)
    manager = q.get_view()
    with manager:
        pass
    with pytest.raises(RuntimeError, match="entered"):
        manager.__exit__(None, None, None)


def test_a_view_entered_and_dropped_gives_the_queue_back(make: Make) -> None:
    q = make()
    q.put(b"item")
    q.get_view().__enter__()
    assert q.get(timeout=PATIENCE) == b"item"


def test_the_view_of_a_thread_that_has_ended_is_not_taken_for_ones_own(make: Make) -> None:
    q, other = make(), make()
    managers: list[object] = []
    seen: list[bytes] = []
    reads, may_end = threading.Barrier(2), threading.Barrier(2)

    def begin() -> None:
        managers.append(q.get_view())

    def read() -> None:  # perhaps where the other thread has been in memory
        with q.get_view() as view:
            managers.clear()
            reads.wait(PATIENCE)
            may_end.wait(PATIENCE)
            seen.append(bytes(view))

    for number in range(10):
        q.put(b"%d" % number)
        first = threading.Thread(target=begin)
        first.start()
        first.join(PATIENCE)
        second = threading.Thread(target=read)
        second.start()
        reads.wait(PATIENCE)
        with pytest.raises(shmqueue.ShmQueueEmpty):
            other.get(timeout=0.01)
        may_end.wait(PATIENCE)
        second.join(PATIENCE)
    assert seen == [b"%d" % number for number in range(10)]
    assert q.empty()


def test_views_may_end_in_any_order(make: Make, name: str) -> None:
    queues = [make(f"{name}-{number}") for number in range(10)]  # more than are announced to the kernel
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
        assert view == b"item"
    with pytest.raises(shmqueue.ShmQueueShutDown):
        q.get()
    assert q.qsize() == 0


def test_a_thread_that_ends_meanwhile_leaves_the_item(make: Make) -> None:
    q = make()
    q.put(b"lent")
    managers = []
    thread = threading.Thread(target=lambda: managers.append(q.get_view()))
    thread.start()
    thread.join(PATIENCE)
    assert q.get(timeout=PATIENCE) == b"lent"


def test_the_portable_engine_says_that_it_cannot(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
    q = make()
    q.put(b"item")
    with pytest.raises(shmqueue.ShmQueueError, match="native"):
        q.get_view()
