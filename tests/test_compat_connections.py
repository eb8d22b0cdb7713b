"""The ends of ``multiprocessing``'s queues, ``_reader`` and ``_writer``, which programs wait for, read and close.

Fixtures as in ``test_compat_multiprocessing.py``.

Fails if: a program that uses the ends of a queue would behave differently on ours.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
from multiprocessing.reduction import ForkingPickler

import children
import pytest
from support import PATIENCE, Opener, running, succeed


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_connection_wait_waits_for_an_item_or_a_process(context: Opener, kind: str) -> None:
    q, go = getattr(context, kind)(), context.SimpleQueue()
    child = context.Process(target=children.answer, args=(go, q))
    with running(child):
        sources = [q._reader, child.sentinel]
        assert multiprocessing.connection.wait(sources, timeout=0) == []
        go.put("item")
        assert multiprocessing.connection.wait(sources, timeout=PATIENCE) == [q._reader]
        assert q.get() == "item"
        assert multiprocessing.connection.wait(sources, timeout=0) == []
        go.put(None)
        assert multiprocessing.connection.wait(sources, timeout=PATIENCE) == [child.sentinel]
        succeed(child)


def test_a_child_waits_on_the_reader(context: Opener) -> None:
    q, ready, report = context.Queue(), context.Queue(), context.Queue()
    child = context.Process(target=children.poll_reader, args=(q, ready, report))
    with running(child):
        assert ready.get(timeout=PATIENCE) == "waiting"
        q.put("item")
        assert report.get(timeout=PATIENCE) == (1, "item", False)
        succeed(child)


def test_the_ends_of_a_simple_queue_send_and_receive(mp: Opener) -> None:
    q = mp.SimpleQueue()
    items = [None, 1, "two", (3, [4]), {5: {6}}, b"x" * 20_000]
    for item in items:
        q._writer.send(item)
        assert q._reader.poll(PATIENCE)
        assert q.get() == item
        q.put(item)
        assert q._reader.recv() == item
        q._writer.send_bytes(ForkingPickler.dumps(item))
        assert ForkingPickler.loads(q._reader.recv_bytes()) == item
        assert not q._reader.poll()
        assert not q._reader.poll(0.01)
    assert (q._reader.closed, q._writer.closed) == (False, False)
    with q._rlock:
        pass
    assert q._rlock.acquire()
    q._rlock.release()


def test_the_ends_of_a_queue_are_closed_one_by_one(mp: Opener) -> None:
    q = mp.SimpleQueue()
    q.put(1)
    q._writer.close()
    assert q._writer.closed
    with pytest.raises(OSError, match="is closed"):
        q._writer.send(2)
    assert not q._reader.closed
    assert q.get() == 1
    q._reader.close()
    assert q._reader.closed
    for use in (q._reader.recv, q._reader.recv_bytes, q._reader.poll, q._reader.fileno):
        with pytest.raises(OSError, match="is closed"):
            use()


def test_a_worker_that_closes_its_reader_goes_on_writing(context: Opener) -> None:
    q = context.SimpleQueue()
    child = context.Process(target=children.close_reader_and_write, args=(q,))
    with running(child):
        assert [q.get(), q.get()] == ["put", "sent"]
        succeed(child)
    q.put("here")
    assert q.get() == "here"
