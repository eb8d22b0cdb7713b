"""What errors say: each state has a sentence of its own, with the values; on both engines."""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Call, Opener, asleep, wait_until

import shmqueue
from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

PUT_LOCK, GET_LOCK = 256, 512  # where layout.h has them


# ---- the lock could not be had ----


@contextmanager
def locked(q: Any, lock: int) -> Iterator[None]:
    """The lock of one side of a queue (of both, in the portable engine) is held by another thread."""
    go_on, is_held = threading.Event(), threading.Event()
    segment = q._segment if isinstance(q, ShmQueue) else q._channel.handle.segment
    engine: Any = q._engine if isinstance(q, ShmQueue) else q._channel.engine

    def hold_native() -> None:
        with open(segment.path, "r+b", buffering=0) as file:
            file.seek(lock)
            file.write(struct.pack("=I", threading.get_native_id()))
            is_held.set()
            go_on.wait()
            file.seek(lock)
            file.write(struct.pack("=I", 0))

    def hold_portable() -> None:
        hold = engine._lock.hold()
        assert hold.owner.acquire(hold, None, lambda: False)
        is_held.set()
        go_on.wait()
        hold.owner.release(hold)

    call = Call(hold_native if segment.header.shape.engine == "native" else hold_portable)
    try:
        assert is_held.wait(PATIENCE)
        yield
    finally:
        go_on.set()
        call.result()


@pytest.mark.parametrize("arguments", [(False, None), (True, 0), (True, 0.05)])
def test_a_lock_that_is_not_released_is_not_called_an_empty_queue(
    engine: str, make: Make, our_queues: Opener, our_mp: Opener, arguments: tuple[bool, float | None]
) -> None:
    for q in (make(), our_queues.Queue(), our_mp.Queue()):
        q.put("item")
        with locked(q, GET_LOCK):
            calls: list[Callable[[], Any]] = [lambda q=q: q.get(*arguments)]  # type: ignore[misc]
            if arguments[0]:
                calls.append(lambda q=q: q.get_many(5, arguments[1]))  # type: ignore[misc]
            for call in calls:
                with pytest.raises(
                    shmqueue.ShmQueueEmpty,
                    match=r"^queue '.*': its consumers' lock was not released in time, nothing was taken: ",
                ):
                    call()
        assert q.get() == "item"


@pytest.mark.parametrize("arguments", [(False, None), (True, 0), (True, 0.05)])
def test_a_lock_that_is_not_released_is_not_called_a_full_queue(
    engine: str, make: Make, our_queues: Opener, our_mp: Opener, arguments: tuple[bool, float | None]
) -> None:
    for q in (make(), our_queues.Queue(), our_mp.Queue()):
        with locked(q, PUT_LOCK):
            call: Callable[[], object]
            for call in (lambda q=q: q.put(1, *arguments), lambda q=q: q.put_many([1, 2], *arguments)):
                with pytest.raises(
                    shmqueue.ShmQueueFull,
                    match=r"^queue '.*': its producers' lock was not released in time, nothing was put: ",
                ):
                    call()
        assert q.empty()
        q.put("item", False)
        assert q.get(False) == "item"


def test_an_empty_and_a_full_queue_are_called_so(engine: str, make: Make, name: str) -> None:
    q = make(maxsize=1)
    with pytest.raises(shmqueue.ShmQueueEmpty, match=f"^queue '{name}' is empty after 0.01 s$"):
        q.get(timeout=0.01)
    q.put(1)
    with pytest.raises(shmqueue.ShmQueueFull, match=f"^queue '{name}' has no room for another item after 0.01 s$"):
        q.put(2, timeout=0.01)


# ---- a part of a batch was put ----


def blocked_batch(make: Make, our_queues: Opener) -> Iterator[tuple[Any, Any]]:
    """Queues in which a batch of 5 is blocked when 2 of it are put, and the calls."""
    for q in (make(maxsize=2), our_queues.Queue(2)):
        call = Call(q.put_many, [1, 2, 3, 4, 5])
        wait_until(lambda q=q: q.qsize() == 2, "the first two are put")  # type: ignore[misc]
        yield q, asleep(call)


def test_a_batch_that_times_out_says_how_many_were_put(engine: str, make: Make, our_queues: Opener) -> None:
    for q in (make(maxsize=2), our_queues.Queue(2)):
        with pytest.raises(
            shmqueue.ShmQueueFull, match=r"no room for 3 items together.*; 2 of 5 items were put$"
        ) as caught:
            q.put_many([1, 2, 3, 4, 5], timeout=0.01)
        assert caught.value.items_put == q.qsize() == 2
        with pytest.raises(shmqueue.ShmQueueFull, match="no room for 2 items together") as caught:
            q.put_many([1, 2], timeout=0.01)
        assert caught.value.items_put == 0
        assert "were put" not in str(caught.value)


def test_a_batch_that_a_shutdown_ends_says_how_many_were_put(engine: str, make: Make, our_queues: Opener) -> None:
    for q, call in blocked_batch(make, our_queues):
        (q.shutdown_all if isinstance(q, ShmQueue) else q.shutdown)()
        with pytest.raises(
            shmqueue.ShmQueueShutDown, match=r"was shut down for all processes; 2 of 5 items were put$"
        ) as caught:
            call.result()
        assert caught.value.items_put == 2


def test_a_batch_that_a_close_ends_says_how_many_were_put(engine: str, make: Make, our_queues: Opener) -> None:
    for q, call in blocked_batch(make, our_queues):
        with ShmQueue(q.identifier if isinstance(q, ShmQueue) else q._channel.name) as other:
            q.close()
            with pytest.raises(
                shmqueue.ShmQueueNotInitializedError, match=r"is closed; 2 of 5 items were put$"
            ) as caught:
                call.result()
            assert caught.value.items_put == 2
            assert other.get_many(5) == [1, 2]


def test_a_batch_whose_lock_is_not_released_says_how_many_were_put(engine: str, make: Make) -> None:
    q = make(maxsize=2)
    call = Call(q.put_many, [1, 2, 3, 4, 5], True, 1.0)
    wait_until(lambda: q.qsize() == 2, "the first two are put")
    with locked(q, PUT_LOCK):
        if q.qsize() == 2 and engine == "native":
            assert q.get() == 1
        with pytest.raises(shmqueue.ShmQueueFull, match=r"; 2 of 5 items were put$"):
            call.result()


# ---- every message ----


def test_no_hint_installs_another_project() -> None:
    root = Path(__file__).parent.parent
    files = [path for part in ("shmqueue", "compat", "conformance") for path in (root / part).rglob("*.py")]
    assert files
    for path in [*files, root / "pyproject.toml"]:
        assert not re.search(r"pip install ['\"]?shmqueue", path.read_text()), path
