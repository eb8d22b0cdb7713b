"""A pickled queue arrives although its sender has closed it or ended; one that cannot arrive says so when used."""

from __future__ import annotations

import concurrent.futures
import errno
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
from queue_kinds import KINDS, make_queue, send_queue, take_one, unpickled
from support import PATIENCE, Opener, running, succeed, wait_until

import shmqueue
from shmqueue import ShmQueue, clock
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue
from shmqueue.segment import removal, transit


@pytest.fixture(params=list(KINDS))
def kind(engine: str, request: pytest.FixtureRequest) -> str:
    """Each kind of queue, on each engine."""
    return str(request.param)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Lets more time pass than a pickled queue is waited for."""
    monotonic, passed = clock.monotonic, [0.0]
    monkeypatch.setattr(clock, "monotonic", lambda: monotonic() + passed[0])

    def pass_time() -> None:
        passed[0] += transit.PATIENCE + 1

    yield pass_time
    pass_time()
    ShmQueue("sweeper").close()


def settings() -> dict[str, str]:
    """What a child of a fork server does not find in its environment: the server was started by another test."""
    return {name: os.environ[name] for name in ("SHMQUEUE_DIR", "SHMQUEUE_ENGINE") if name in os.environ}


def segment_of(q: Any) -> Any:
    return q._segment if isinstance(q, ShmQueue) else q._channel.handle.segment


def unlinked(q: Any) -> bytes:
    """The pickle of a queue that is gone."""
    pickled = bytes(ForkingPickler.dumps(q))
    segment_of(q).unlink()
    q.close()
    return pickled


@contextmanager
def pool_of(method: str, **options: Any) -> Iterator[Any]:
    """A pool with one worker, whose queues are closed at the end."""
    pool: Any = our_multiprocessing.get_context(method).Pool(1, **options)
    try:
        yield pool
        pool.close()
        pool.join()
    finally:
        pool.terminate()
        pool.join()
        pool._inqueue.close()
        pool._outqueue.close()
        pool._change_notifier.close()


# ---- arrival ----


def test_a_queue_arrives_that_its_sender_has_closed(kind: str) -> None:
    q = KINDS[kind]()
    q.put("item")
    pickled = bytes(ForkingPickler.dumps(q))
    q.close()
    arrived = pickle.loads(pickled)
    try:
        assert arrived.get() == "item"
        arrived.put("another")
        assert arrived.get() == "another"
    finally:
        arrived.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["multiprocessing.Queue", "queue.Queue", "ShmQueue"])
def test_a_queue_arrives_whose_sender_has_ended(engine: str, kind: str, method: str) -> None:
    context: Any = our_multiprocessing.get_context(method)
    carrier = context.Queue()
    child = context.Process(target=send_queue, args=(carrier, kind, settings()))
    with running(child):
        succeed(child)
    arrived = carrier.get()
    try:
        assert arrived.get() == "item"
    finally:
        arrived.close()
        carrier.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["multiprocessing.Queue", "queue.Queue", "ShmQueue"])
def test_a_pool_returns_a_queue_that_a_worker_made(engine: str, kind: str, method: str) -> None:
    with pool_of(method, maxtasksperchild=1) as pool:
        for _ in range(2):
            q = pool.apply_async(make_queue, (kind, settings())).get(PATIENCE)
            assert q.get() == "item"
            q.close()
        pool.close()
        pool.join()


def test_an_executor_returns_a_queue_that_a_worker_made(kind: str) -> None:
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as executor:
        q = executor.submit(make_queue, kind, settings()).result(PATIENCE)
        assert q.get() == "item"
        q.close()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["multiprocessing.Queue", "queue.Queue", "ShmQueue"])
def test_a_pool_gets_a_queue_that_its_sender_has_closed(engine: str, kind: str, method: str) -> None:
    with pool_of(method) as pool:
        q = make_queue(kind, {})
        result = pool.apply_async(take_one, (q,))
        segment = segment_of(q)
        wait_until(
            lambda: transit.is_awaited(segment.fileno()) or len(segment.holders()) > 1 or result.ready(),
            "the task is pickled",
        )
        q.close()
        assert result.get(PATIENCE) == "item"


def test_each_pickle_of_a_queue_arrives(kind: str) -> None:
    q = KINDS[kind]()
    pickles = [bytes(ForkingPickler.dumps(q)) for _ in range(3)]
    q.put("item")
    q.close()
    for pickled in pickles:
        arrived = pickle.loads(pickled)
        assert arrived.get() == "item"
        arrived.put("item")
        arrived.close()


def test_a_queue_in_transit_is_not_swept(kind: str) -> None:
    q = KINDS[kind]()
    pickled = bytes(ForkingPickler.dumps(q))
    q.close()
    ShmQueue("another").close()
    pickle.loads(pickled).close()


def test_a_pickle_that_arrives_twice_does_not_end_the_wait_for_another(kind: str) -> None:
    q = KINDS[kind]()
    twice, once = bytes(ForkingPickler.dumps(q)), bytes(ForkingPickler.dumps(q))
    for _ in range(2):
        pickle.loads(twice).close()
    q.put("item")
    q.close()
    arrived = pickle.loads(once)
    assert arrived.get() == "item"
    arrived.close()


def test_queues_pickled_at_once_do_not_share_a_note(engine: str, later: Callable[[], None]) -> None:
    q = our_queue.Queue[int]()
    copies = [pickle.loads(pickle.dumps(q)) for _ in range(6)]  # a description of its own each, as in other processes
    notes: list[Any] = []
    start = threading.Barrier(len(copies))

    def pickle_several(copy: Any) -> None:
        start.wait()
        notes.extend(copy._channel.handle.travel()[4] for _ in range(5))

    threads = [threading.Thread(target=pickle_several, args=(copy,)) for copy in copies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        taken = [note for note in notes if note is not None]  # a slot that is being written to is skipped
        assert len({slot for slot, _ in taken}) == len(taken) > 0
        assert len(notes) == 30
        for note in notes:
            segment_of(q).arrived(note)
    finally:
        for open_queue in (*copies, q):
            open_queue.close()


# ---- what does not arrive ----


def test_a_queue_that_never_arrives_is_removed_when_its_time_is_over(
    kind: str, later: Callable[[], None], segment_directory: str
) -> None:
    q = KINDS[kind]()
    bytes(ForkingPickler.dumps(q))
    q.close()
    assert os.listdir(segment_directory)
    later()
    ShmQueue("another").close()
    assert os.listdir(segment_directory) == []


@pytest.mark.parametrize("way", ["by its pickle", "by its name"])
def test_a_queue_whose_later_user_was_killed_keeps_its_items(
    engine: str, name: str, way: str, later: Callable[[], None], segment_directory: str
) -> None:
    q = ShmQueue(name)
    pickled = pickle.dumps(q)
    q.close()
    child = os.fork()
    if child == 0:
        signal.alarm(int(PATIENCE))
        arrived = pickle.loads(pickled) if way == "by its pickle" else ShmQueue(name, create=False)
        arrived.put("item")
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    later()
    ShmQueue("another").close()
    with ShmQueue(name, create=False) as found:
        assert found.get(False) == "item"


def test_a_queue_that_is_opened_while_it_is_removed_as_not_arrived_stays(
    engine: str, name: str, later: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    q = ShmQueue(name)
    pickle.dumps(q)
    q.close()
    later()
    lock_alone, opened = removal.lock_alone, []  # type: ignore[attr-defined]

    def open_and_lock(fd: int) -> bool:
        monkeypatch.setattr(removal, "lock_alone", lock_alone)
        with ShmQueue(name, create=False, keep=True) as other:
            other.put("item")
        opened.append(other)
        return lock_alone(fd)

    monkeypatch.setattr(removal, "lock_alone", open_and_lock)
    removal.remove_unarrived()
    assert opened
    with ShmQueue(name, create=False) as found:
        assert found.get(False) == "item"
        found.unlink()


def test_a_thousand_pickles_cost_no_descriptors(engine: str, later: Callable[[], None], segment_directory: str) -> None:
    q = our_queue.Queue[str]()
    q.put("item")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    pickles = [pickle.dumps(q) for _ in range(1000)]
    assert before == 0 or len(os.listdir("/proc/self/fd")) == before
    q.close()
    for pickled in pickles:
        arrived = pickle.loads(pickled)
        assert arrived.get() == "item"
        arrived.put("item")
        arrived.close()


def test_a_note_from_before_a_reboot_is_no_reason_to_wait(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    q = our_queue.Queue[str]()
    monotonic = clock.monotonic
    with monkeypatch.context() as patched:
        patched.setattr(clock, "monotonic", lambda: monotonic() + 1e6)
        pickle.dumps(q)
    q.close()  # nothing is left, or the fixture complains


def test_a_descriptor_that_is_another_file_now_is_not_written_to(engine: str, tmp_path: Any) -> None:
    q = our_queue.Queue[str]()
    log = tmp_path / "log"
    log.write_bytes(bytes(5000))
    fd = segment_of(q).fileno()
    with open(log, "r+b") as file:
        os.dup2(file.fileno(), fd)
    try:
        pickled = pickle.dumps(q)
        assert log.read_bytes() == bytes(5000)
        pickle.loads(pickled).close()
    finally:
        q.close()
        os.close(fd)


# ---- a queue that has vanished ----


def test_a_vanished_queue_can_be_unpickled_and_says_so_when_used(kind: str) -> None:
    q = KINDS[kind]()
    name = segment_of(q).name
    vanished = pickle.loads(unlinked(q))
    calls = [vanished.get, lambda: vanished.put("item"), vanished.empty]
    calls += [getattr(vanished, call) for call in ("qsize", "full", "task_done", "join") if hasattr(vanished, call)]
    for call in calls:
        with pytest.raises(shmqueue.ShmQueueNotFoundError, match=f"queue '{name}' vanished") as raised:
            call()
        assert raised.value.errno == errno.ENOENT
    assert "vanished" in repr(vanished)
    for attribute in dir(vanished):
        getattr(vanished, attribute)
    again = pickle.loads(pickle.dumps(vanished))
    assert "vanished" in repr(again)
    assert again.closed
    again.close()
    vanished.close()
    vanished.close()


def test_the_ends_of_a_vanished_queue_say_so(engine: str) -> None:
    vanished = pickle.loads(unlinked(our_multiprocessing.SimpleQueue()))
    for use in (vanished._reader.recv, vanished._reader.poll, lambda: vanished._writer.send(1)):
        with pytest.raises(shmqueue.ShmQueueNotFoundError, match="vanished"):
            use()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("kind", ["multiprocessing.Queue", "queue.Queue", "ShmQueue"])
def test_a_pool_outlives_queues_that_vanish_on_either_way(engine: str, kind: str, method: str) -> None:
    pickled = unlinked(KINDS[kind]())
    with pool_of(method) as pool:
        argument = pool.apply_async(take_one, (pickle.loads(pickled),))
        with pytest.raises(shmqueue.ShmQueueNotFoundError, match="vanished"):
            argument.get(PATIENCE)
        result = pool.apply_async(unpickled, (pickled,)).get(PATIENCE)
        assert "vanished" in repr(result)
        assert pool.apply_async(abs, (-1,)).get(PATIENCE) == 1


def test_an_item_that_holds_a_vanished_queue_is_taken(our_mp: Opener) -> None:
    pickled = unlinked(our_multiprocessing.Queue())
    carrier = our_mp.Queue()
    carrier.put({"queue": pickle.loads(pickled), "other": 1})
    item = carrier.get()
    assert item["other"] == 1
    with pytest.raises(shmqueue.ShmQueueNotFoundError):
        item["queue"].get_nowait()


def test_a_queue_that_is_refused_on_arrival_says_why_when_used(engine: str, segment_directory: str) -> None:
    q = our_queue.Queue[int]()
    pickled = pickle.dumps(q)
    (entry,) = [entry for entry in os.listdir(segment_directory) if "lock" not in entry]
    path = os.path.join(segment_directory, entry)
    os.chmod(path, 0o666)
    refused = pickle.loads(pickled)
    os.chmod(path, 0o600)
    with pytest.raises(shmqueue.ShmQueueRefusedError, match="others may access it"):
        refused.get()
    pickle.loads(pickle.dumps(refused)).close()  # it can be had now
    q.close()


def test_an_arrival_leaves_a_note_alone_that_another_process_is_just_writing(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = ShmQueue(f"test-{os.getpid()}-arrival")
    try:
        opened = queue._segment
        note = opened.depart()
        assert note is not None
        with monkeypatch.context() as patch:
            patch.setattr(transit, "_lock", lambda fd, slot, wanted: False)
            opened.arrived(note)
        assert transit.is_awaited(opened.fileno())
        opened.arrived(note)
        assert not transit.is_awaited(opened.fileno())
    finally:
        queue.close()
