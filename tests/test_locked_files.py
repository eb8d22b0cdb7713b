"""A file that another process has locked exclusively: it looks at it, removes it, or was stopped in the middle."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import threading
from collections.abc import Callable, Iterator

import pytest
from support import PATIENCE

from shmqueue import ShmQueue, ShmQueueRefusedError, segment
from shmqueue.segment import lifecycle, locks

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def looker(name: str) -> Iterator[int]:
    """A descriptor that has the lock on a queue's file, which has an item and no holder."""
    with ShmQueue(name) as queue:
        queue.put(1)
        queue._segment.drops_items = False
    fd = os.open(segment.path_of(name), os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield fd
    os.close(fd)
    if os.path.exists(segment.path_of(name)):
        segment.remove_name(segment.path_of(name))


@pytest.mark.parametrize("action", [ShmQueue, lambda name: segment.remove_name(segment.path_of(name))])
def test_after_some_seconds_it_is_an_error(
    name: str, looker: int, monkeypatch: pytest.MonkeyPatch, action: Callable[[str], object]
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    with pytest.raises(ShmQueueRefusedError, match="another process has it locked") as caught:
        action(name)
    assert caught.value.errno == errno.EAGAIN
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_until_then_other_threads_open_and_close_queues(
    name: str, looker: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE", PATIENCE)

    def use_another_queue() -> None:
        ShmQueue(f"{name}-2").close()
        fcntl.flock(looker, fcntl.LOCK_UN)

    def sleep(_: float) -> None:
        thread = threading.Thread(target=use_another_queue, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive()

    monkeypatch.setattr(locks.time, "sleep", sleep)  # type: ignore[attr-defined]
    assert make().get() == 1


def test_when_the_process_has_gone_the_queue_is_adopted_as_any_other(
    name: str, looker: int, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes at the most awkward moment: after the first look at the lock and before the next one."""
    real = locks.lock_shared

    def lock_shared(fd: int, path: str) -> None:
        fcntl.flock(looker, fcntl.LOCK_UN)
        real(fd, path)

    monkeypatch.setattr(lifecycle, "lock_shared", lock_shared)
    queue = make(keep=True)
    assert queue.keep
    queue.unlink()


def test_a_name_that_is_being_taken_away_is_no_forked_childs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked meanwhile has the descriptor as well, and the lock must not stay with it."""
    first, second = make(), make()
    copies = []
    real = locks.same_file

    def same_file(fd: int, path: str) -> bool:
        copies.append(os.dup(fd))
        return real(fd, path)

    monkeypatch.setattr(locks, "same_file", same_file)
    monkeypatch.setattr(locks, "_PATIENCE", 0.01)
    try:
        first.unlink()
        second.unlink()
    finally:
        for copy in copies:
            os.close(copy)
    assert len(copies) == 2


def test_a_look_at_the_header_does_not_depend_on_where_another_thread_reads(make: Make) -> None:
    queue = make()
    fd = queue._segment.fileno()
    os.lseek(fd, 17, os.SEEK_SET)
    assert segment.judge(fd, True) == queue._segment.header
    assert os.lseek(fd, 0, os.SEEK_CUR) == 17
