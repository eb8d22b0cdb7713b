"""When a process has closed one end of a queue's pipe, calls at the other end do not outlast the last process there."""

from __future__ import annotations

import multiprocessing.connection
import os
import pickle
import queue
import signal
from collections.abc import Callable
from typing import Any

import children
import pytest
from support import PATIENCE, Call, Opener, asleep, running, succeed, wait_until

from shmqueue import ShmQueue
from shmqueue.segment import roles


@pytest.fixture(params=["Queue", "JoinableQueue", "SimpleQueue"])
def q(context: Opener, request: pytest.FixtureRequest) -> Any:
    """A queue of each kind, the standard ones too."""
    return getattr(context, request.param)()


def test_gets_end_with_the_last_process_that_could_put(context: Opener, q: Any) -> None:
    producers = [context.Process(target=children.put_several, args=(q, 3)) for _ in range(2)]
    with running(*producers):
        q._writer.close()
        assert sorted(Call(children.all_items, q).result()) == [0, 0, 1, 1, 2, 2]
        succeed(*producers)


def test_gets_end_when_the_last_producer_was_killed(context: Opener, q: Any) -> None:
    producer = context.Process(target=children.put_and_be_killed, args=(q, 3))
    with running(producer):
        q._writer.close()
        assert Call(children.all_items, q).result() == [0, 1, 2]


def test_consumers_that_all_close_the_writer_do_not_wait_for_each_other(context: Opener, q: Any) -> None:
    report = context.SimpleQueue()
    consumers = [context.Process(target=children.read_to_the_end, args=(q, report)) for _ in range(2)]
    producer = context.Process(target=children.put_several, args=(q, 5))
    with running(*consumers, producer):
        q._writer.close()
        items = [*Call(report.get).result(), *Call(report.get).result()]
        assert sorted(items) == [0, 1, 2, 3, 4]
        succeed(*consumers, producer)


def test_a_producer_that_is_being_started_is_waited_for(our_context: Opener) -> None:
    for _ in range(3):
        q = our_context.Queue()
        producer = our_context.Process(target=children.put_several, args=(q, 1))
        with running(producer):
            q._writer.close()
            assert Call(children.all_items, q).result() == [0]
            succeed(producer)
        q.close()


def test_gets_that_do_not_wait_end_too(mp: Opener) -> None:
    q = mp.Queue()
    q._writer.close()
    for get in (q.get_nowait, lambda: q.get(timeout=PATIENCE), q.get):
        with pytest.raises(EOFError):
            Call(get).result()


def test_the_reader_sees_the_end(mp: Opener) -> None:
    q = mp.Queue()
    q._writer.close()
    assert multiprocessing.connection.wait([q._reader], timeout=PATIENCE) == [q._reader]
    assert q._reader.poll()
    assert q._reader.poll(PATIENCE)
    with pytest.raises(EOFError):
        q._reader.recv()


def test_a_descriptor_made_before_sees_the_end(mp: Opener) -> None:
    q = mp.SimpleQueue()
    assert multiprocessing.connection.wait([q._reader], timeout=0) == []
    q._writer.close()
    assert multiprocessing.connection.wait([q._reader], timeout=PATIENCE) == [q._reader]


def test_a_batch_ends_too(our_mp: Opener) -> None:
    q = our_mp.Queue()
    q.put_many([1, 2, 3])
    q._writer.close()
    with pytest.raises(OSError, match="is closed"):
        q.put_many([4])
    assert q.get_many(2) == [1, 2]
    assert q.get_many(2, timeout=PATIENCE) == [3]
    with pytest.raises(EOFError):
        q.get_many(2)


def test_a_process_that_closed_the_writer_cannot_put(our_mp: Opener) -> None:
    for q in (our_mp.Queue(), our_mp.SimpleQueue()):
        q.put("item")
        q._writer.close()
        put: Callable[[], object]
        for put in (lambda q=q: q.put("another"), lambda q=q: q._writer.send("another")):
            with pytest.raises(OSError, match="is closed"):
                put()
        q._writer.close()
        assert q.get() == "item"


def test_another_handle_in_the_same_process_can_still_put(our_mp: Opener) -> None:
    q = our_mp.Queue()
    copy = pickle.loads(pickle.dumps(q))
    q._writer.close()
    get = asleep(Call(q.get))
    copy.put("item")
    assert get.result() == "item"
    copy.close()
    with pytest.raises(EOFError):
        q.get()


def test_a_queue_in_transit_may_still_be_put_to(our_mp: Opener) -> None:
    q = our_mp.Queue()
    pickled = pickle.dumps(q)
    q._writer.close()
    with pytest.raises(queue.Empty):
        q.get_nowait()
    copy = pickle.loads(pickled)
    with pytest.raises(queue.Empty):
        q.get_nowait()
    copy.close()
    with pytest.raises(EOFError):
        q.get_nowait()


def test_a_queue_without_a_name_ends_too(our_mp: Opener) -> None:
    q = our_mp.Queue()
    q.put("item")
    q._channel.handle.segment.unlink()
    q._writer.close()
    assert Call(children.all_items, q).result() == ["item"]


def test_a_put_ends_with_the_last_process_that_could_get(context: Opener) -> None:
    q, ready = context.SimpleQueue(), context.SimpleQueue()
    consumer = context.Process(target=children.close_writer_and_be_killed, args=(q, ready))
    with running(consumer):
        assert ready.get()
        q._reader.close()

        def put_until_it_fails() -> type[Exception]:
            try:
                while True:
                    q.put(bytes(10_000))
            except OSError as error:
                return type(error)

        put = Call(put_until_it_fails)
        wait_until(lambda: not put.is_alive() or put.is_asleep(), "the queue is full")
        consumer.kill()
        assert put.result() is BrokenPipeError


def test_a_system_that_cannot_tell_refuses(our_mp: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roles, "mark", lambda fd, role: False)
    q = our_mp.Queue()
    with pytest.raises(NotImplementedError, match=r"_writer .* get\(\) could never raise EOFError; send an item"):
        q._writer.close()
    with pytest.raises(NotImplementedError, match=r"_reader .* put\(\) could never raise BrokenPipeError"):
        q._reader.close()
    q.put("item")
    assert q.get() == "item"


# ---- calls that were blocked before ----


def test_a_get_that_was_blocked_before_ends(our_context: Opener) -> None:
    for kind in ("Queue", "JoinableQueue", "SimpleQueue"):
        q = getattr(our_context, kind)()
        gets = [asleep(Call(q.get)) for _ in range(3)]
        q._writer.close()
        for get in gets:
            with pytest.raises(EOFError):
                get.result()


def test_every_kind_of_get_that_was_blocked_before_ends(our_mp: Opener) -> None:
    q = our_mp.Queue()
    reader = q._reader
    calls = [asleep(Call(call)) for call in (lambda: q.get(timeout=2 * PATIENCE), lambda: q.get_many(2), reader.recv)]
    poll = asleep(Call(reader.poll, None))
    q._writer.close()
    for call in calls:
        with pytest.raises(EOFError):
            call.result()
    assert poll.result()


def test_a_get_with_a_descriptor_that_was_blocked_before_ends(our_mp: Opener) -> None:
    q = our_mp.Queue()
    q._reader.fileno()
    get = asleep(Call(q.get))
    q._writer.close()
    with pytest.raises(EOFError):
        get.result()


def test_a_get_that_was_blocked_before_takes_what_still_comes(our_context: Opener) -> None:
    q, go = our_context.Queue(), our_context.SimpleQueue()
    producer = our_context.Process(target=children.put_when_told, args=(q, go, 3))
    with running(producer):
        got = asleep(Call(children.all_items, q))
        q._writer.close()
        go.put("go")
        assert got.result() == [0, 1, 2]
        succeed(producer)


def test_a_put_that_was_blocked_before_ends_when_nobody_can_get(our_mp: Opener) -> None:
    calls = (lambda q: q.put("x"), lambda q: q.put_many(["x"]), lambda q: q._writer.send("x"))
    for call in calls:
        q = our_mp.Queue(1)
        q.put("first")
        put = asleep(Call(call, q))
        q._reader.close()
        with pytest.raises(BrokenPipeError):
            put.result()
        q.close()


def test_a_put_that_was_blocked_before_goes_on_while_somebody_can_get(our_mp: Opener) -> None:
    q = our_mp.Queue(1)
    copy = pickle.loads(pickle.dumps(q))
    q.put("first")
    put = asleep(Call(q.put, "second"))
    q._reader.close()
    assert copy.get() == "first"
    put.result()
    assert copy.get() == "second"
    copy.close()


def test_calls_that_were_blocked_at_an_end_itself_are_refused_when_it_is_closed(our_mp: Opener) -> None:
    q = our_mp.Queue(1)
    calls = [asleep(Call(call)) for call in (q.get, lambda: q.get_many(2), lambda: q._reader.poll(None))]
    q._reader.close()
    for call in calls:
        with pytest.raises(OSError, match="is closed"):
            call.result()
    q = our_mp.Queue(1)
    q.put("item")
    put = asleep(Call(q.put, "another"))
    q._writer.close()
    with pytest.raises(OSError, match="is closed"):
        put.result()
    assert q.get() == "item"


# ---- the end itself ----


def test_a_process_that_closed_the_reader_cannot_get(q: Any) -> None:
    q.put("item")
    q._reader.close()
    calls = [q.get, q.empty]
    if hasattr(q, "get_nowait"):
        calls += [q.get_nowait, lambda: q.get(timeout=PATIENCE)]
    if hasattr(q, "get_many"):
        calls += [lambda: q.get_many(1)]
    for call in calls:
        with pytest.raises(OSError, match="is closed"):
            Call(call).result()


def test_both_ends_may_be_closed(our_mp: Opener) -> None:
    for ends in ("_reader", "_writer"), ("_writer", "_reader"):
        q = our_mp.Queue()
        q.put("item")
        for end in ends:
            getattr(q, end).close()
        for call in (q.get, lambda q=q: q.put("another")):
            with pytest.raises(OSError, match="is closed"):
                Call(call).result()


def test_what_a_reader_reserved_is_put_back_after_the_writer_was_closed(our_mp: Opener) -> None:
    q = our_mp.Queue(1)
    q._rlock.acquire()
    q.put("first")
    assert q._reader.poll()
    q.put("second")
    q._writer.close()
    release = Call(q._rlock.release)
    wait_until(lambda: not q._reader.reserves, "the record is being put back")
    assert Call(q.get).result() == "second"
    release.result()
    assert Call(q.get).result() == "first"


# ---- what a reader reserves ----


def reserve(q: Any) -> None:
    """Have the reader reserve the oldest item."""
    assert q._rlock.acquire()
    assert q._reader.poll(PATIENCE)


def test_a_forked_child_does_not_get_what_its_parent_reserved(our_mp: Opener) -> None:
    q = our_mp.Queue()
    q.put("item")
    reserve(q)
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))
        os._exit(3 + q._reader.poll() + q._reader.reserves)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    assert q._reader.recv() == "item"
    q._rlock.release()


def test_the_lock_of_the_readers_can_be_released_while_the_queue_is_full(our_mp: Opener) -> None:
    q = our_mp.Queue(1)
    q.put("first")
    reserve(q)
    q.put("second")
    Call(q._rlock.release).result()
    assert Call(q.get).result() == "second"
    assert Call(q.get).result() == "first"


def test_what_is_reserved_is_there_for_others_when_the_queue_is_closed(our_mp: Opener, name: str) -> None:
    q, other = our_mp.Queue(name=name), our_mp.Queue(name=name)
    q.put("item")
    reserve(q)
    q.close()
    assert other.get(timeout=PATIENCE) == "item"
    q._rlock.release()
    other.close()


def test_what_is_reserved_can_be_received_after_the_queue_was_shut_down(our_mp: Opener, name: str) -> None:
    q, other = our_mp.Queue(name=name), ShmQueue(name, create=False)
    q.put("item")
    reserve(q)
    other.shutdown_all()
    other.close()
    q._rlock.release()
    assert q._rlock.acquire(False)
    assert q._reader.poll()
    assert q._reader.recv() == "item"
    q._rlock.release()


def test_what_goes_back_is_still_one_task(our_mp: Opener) -> None:
    q = our_mp.of("fork").JoinableQueue()
    q.put("job")
    with q._rlock:
        assert q._reader.poll()
    assert q.get(timeout=PATIENCE) == "job"
    joining = asleep(Call(q.join))
    q.task_done()
    joining.result()
    with pytest.raises(ValueError, match="too many"):
        q.task_done()
