"""Deadlines hold whatever the program does to its clocks: frozen for a test, set back, before 1970."""

from __future__ import annotations

import importlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from support import Call, Opener, asleep, run_python

import shmqueue
from shmqueue import ShmQueue, clock, segment
from shmqueue.engine import data_size
from shmqueue.segment.header import HEADER_SIZE, Header, Shape

Make = Callable[..., ShmQueue]

PAST = "1969-07-20 20:17:40"
NOT_LONG = 0.05  # seconds, until a deadline that must come


@pytest.fixture(params=["freezegun", "replaced functions"])
def frozen(request: pytest.FixtureRequest) -> Iterator[None]:
    """All clocks of the program stand, as far as they can be stopped from outside."""
    if request.param == "freezegun":
        freezegun = pytest.importorskip("freezegun", reason="freezegun is not installed")
        with freezegun.freeze_time(PAST):
            yield
        return
    patch = pytest.MonkeyPatch()
    fakes = {
        getattr(time, name): itertools.repeat(getattr(time, name)()).__next__
        for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
    }
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in ("shmqueue", "time")]:
        for attribute, value in list(vars(module).items()):
            if callable(value) and value.__hash__ is not None and value in fakes:
                patch.setattr(module, attribute, fakes[value])
    try:
        yield
    finally:
        patch.undo()


@pytest.mark.usefixtures("engine")
class TestFrozen:
    @pytest.fixture(autouse=True)
    def _imported_before(self) -> None:
        for module in ("engine.portable", "engine.portable_lock", "compat.queue", "compat.multiprocessing"):
            importlib.import_module(f"shmqueue.{module}")

    def test_timeouts_of_every_call_end(self, make: Make, frozen: None) -> None:
        q = make(buffer_size=4096)
        for call in (q.get, lambda timeout: q.get_many(2, timeout)):
            with pytest.raises(shmqueue.ShmQueueEmpty):
                call(timeout=NOT_LONG)
        q.put(b"x" * 3000)
        with pytest.raises(shmqueue.ShmQueueFull):
            q.put(b"x" * 3000, timeout=NOT_LONG)
        with pytest.raises(shmqueue.ShmQueueFull):
            q.put_many([b"x" * 3000], timeout=NOT_LONG)
        assert not q.join(timeout=NOT_LONG)
        assert len(q.get(timeout=NOT_LONG)) == 3000

    def test_a_waiting_call_is_woken_and_its_timeout_is_still_ahead(self, make: Make, frozen: None) -> None:
        q = make()
        waiting = asleep(Call(q.get, timeout=30))
        make().put("item")
        assert waiting.result() == "item"

    def test_an_adapter_of_queue_keeps_its_deadlines(self, our_queues: Opener, frozen: None) -> None:
        q = our_queues.Queue(1)
        with pytest.raises(our_queues.Empty):
            q.get(timeout=NOT_LONG)
        q.put(1)
        with pytest.raises(our_queues.Full):
            q.put(2, timeout=NOT_LONG)
        assert q.get(timeout=NOT_LONG) == 1

    def test_an_adapter_of_multiprocessing_keeps_its_deadlines(self, our_mp: Opener, frozen: None) -> None:
        from queue import Empty, Full

        for q in (our_mp.Queue(1), our_mp.JoinableQueue(1)):
            with pytest.raises(Empty):
                q.get(timeout=NOT_LONG)
            q.put(1)
            with pytest.raises(Full):
                q.put(2, timeout=NOT_LONG)
            assert q.get(timeout=NOT_LONG) == 1

    def test_a_queue_is_as_old_as_it_is(self, make: Make, name: str, frozen: None) -> None:
        earlier = clock.wall_ns()
        make()
        assert earlier <= segment.read_header(segment.path_of(name)).created <= clock.wall_ns()


@pytest.mark.usefixtures("engine")
def test_imported_while_time_is_frozen_it_has_the_real_clock(name: str) -> None:
    pytest.importorskip("freezegun", reason="freezegun is not installed")
    code = f"""
import sys, freezegun
with freezegun.freeze_time({PAST!r}):
    import shmqueue, shmqueue.compat.queue
    with shmqueue.ShmQueue(sys.argv[1]) as q:
        try:
            q.get(timeout={NOT_LONG})
        except shmqueue.ShmQueueEmpty:
            print("in time")
    earlier = shmqueue.clock.monotonic()
assert shmqueue.clock.monotonic() >= earlier
"""
    assert run_python(code, name) == "in time\n"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("now", [-(10**18), -1, 0, 1, 2**62])
def test_with_a_clock_before_1970_or_far_ahead_a_queue_is_made_found_and_used(
    make: Make, name: str, now: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(clock, "wall_ns", lambda: now)
        q = make()
    q.put("item")
    assert segment.read_header(segment.path_of(name)).created == now
    assert make(create=False).get() == "item"


def test_a_header_keeps_a_moment_before_1970() -> None:
    shape = Shape("native", 4096, 0, 0, 0, data_size("native", 4096, 0))
    header = Header(shape, 1, bytes(16), -5)
    packed = header.pack()
    assert Header.unpack(packed, HEADER_SIZE + shape.data_size, "a path") == header
