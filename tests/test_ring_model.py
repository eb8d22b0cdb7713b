"""A ring of either engine against a plain list: every size of record, every position of the wrap, every growth."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import repeats

from shmqueue import segment
from shmqueue.engine import RECORD_HEADER_SIZE, Counters, Engine, data_size, open_engine, portable_memory
from shmqueue.exceptions import ShmQueueShutDown, ShmQueueValueError

PAGE = segment.SYSTEM_PAGESIZE
LARGEST = PAGE - RECORD_HEADER_SIZE

BATCH_ENDS_AT = 32768  # bytes of a record with which get_many may end early

FIXED = (PAGE, 0)
ELASTIC = [(16 * PAGE, PAGE), (13 * PAGE, 2 * PAGE), (5 * PAGE, 3 * PAGE)]
"""Capacity and initial size; the last one can grow by less than it has already."""


def must_not_fail(error: int) -> None:
    raise AssertionError(f"no memory: {os.strerror(error)}")


@contextmanager
def fresh_engine(
    engine_name: str, maxsize: int = 0, shape: tuple[int, int] = FIXED, threshold: int = 0
) -> Iterator[Engine]:
    capacity, initial = shape
    whole = segment.Shape(engine_name, capacity, maxsize, initial, threshold, data_size(engine_name, capacity, initial))
    memory = segment.open_segment(f"model-{uuid.uuid4().hex}", whole, create=True)
    engine = open_engine(memory, must_not_fail)
    try:
        yield engine
    finally:
        engine.close()
        memory.close()


sizes = st.one_of(
    st.integers(0, 40),
    st.integers(LARGEST - 40, LARGEST),
    st.just(LARGEST // 2),
    st.integers(0, LARGEST),
    st.integers(0, 8 * PAGE),
    st.integers(-40, -1),
)
"""Negative ones count from the largest that fits, others are cut to it."""


class RingMachine(RuleBasedStateMachine):
    """Puts and takes at random; the model is a list of (method, payload)."""

    engine_name = ""
    engine: Engine

    @initialize(
        maxsize=st.sampled_from([0, 0, 0, 1, 3]),
        shape=st.sampled_from([FIXED, *ELASTIC]),
        threshold=st.sampled_from([0, 0, 0, 1, 1000, PAGE]),
        may_shut_down=st.sampled_from([False, False, True]),
    )
    def start(self, maxsize: int, shape: tuple[int, int], threshold: int, may_shut_down: bool) -> None:
        self.scope = fresh_engine(self.engine_name, maxsize, shape, threshold)
        self.engine = self.scope.__enter__()
        self.model: list[tuple[int, bytes]] = []
        self.maxsize, self.threshold, self.capacity = maxsize, threshold, shape[0]
        self.largest = self.capacity - RECORD_HEADER_SIZE
        self.may_shut_down, self.is_shut_down = may_shut_down, False
        self.put_ever = self.dropped = self.done = 0

    def teardown(self) -> None:
        if hasattr(self, "scope"):
            self.scope.__exit__(None, None, None)

    def used(self) -> int:
        return sum(RECORD_HEADER_SIZE + len(payload) for _, payload in self.model)

    def has_room(self, records: list[tuple[int, bytes]]) -> bool:
        needed = sum(RECORD_HEADER_SIZE + len(payload) for _, payload in records)
        return (
            self.used() + needed <= self.capacity
            and (not self.threshold or self.used() < self.threshold)
            and (not self.maxsize or len(self.model) + len(records) <= self.maxsize)
        )

    @precondition(lambda self: not self.is_shut_down)
    @rule(size=sizes, method=st.integers(0, 2**32 - 1), kind=st.sampled_from([bytes, bytearray, memoryview]))
    def put(self, size: int, method: int, kind: type) -> None:
        payload = os.urandom(size % (self.largest + 1) if size < 0 else min(size, self.largest))
        record = (method, payload)
        room = self.has_room([record])
        assert self.engine.put(method, kind(payload), False, None) == room
        if room:
            self.model.append(record)
            self.put_ever += 1

    @precondition(lambda self: not self.is_shut_down)
    @rule(batch=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1500)), min_size=1, max_size=5))
    def put_many(self, batch: list[tuple[int, int]]) -> None:
        records = [(method, os.urandom(size)) for method, size in batch]
        fitting: list[tuple[int, bytes]] = []
        for record in records:
            total = sum(RECORD_HEADER_SIZE + len(payload) for _, payload in [*fitting, record])
            if total > self.capacity or (self.maxsize and len(fitting) == self.maxsize):
                break
            fitting.append(record)
        expected = len(fitting) if self.has_room(fitting) else 0
        assert self.engine.put_many(records, False, None) == expected
        self.model += fitting[:expected]
        self.put_ever += expected

    @precondition(lambda self: not self.is_shut_down)
    @rule(excess=st.integers(1, 2 * PAGE))
    def put_too_large(self, excess: int) -> None:
        size = self.largest + excess
        with pytest.raises(ShmQueueValueError, match=f"item of {size} bytes can never fit"):
            self.engine.put(0, bytes(size), False, None)
        with pytest.raises(ShmQueueValueError, match="can never fit"):
            self.engine.put_many([(0, b""), (0, bytes(size))], False, None)

    @rule()
    def get(self) -> None:
        if self.is_shut_down and not self.model:
            with pytest.raises(ShmQueueShutDown, match="was shut down for all"):
                self.engine.get(False, None)
            return
        expected = self.model.pop(0) if self.model else None
        assert self.engine.get(False, None) == expected

    @rule(most=st.integers(1, 6))
    def get_many(self, most: int) -> None:
        if self.is_shut_down and not self.model:
            with pytest.raises(ShmQueueShutDown, match="was shut down for all"):
                self.engine.get_many(most, True, 20.0)
            return
        got = self.engine.get_many(most, False, None)
        expected = self.model[:most]
        if any(len(payload) >= BATCH_ENDS_AT for _, payload in expected):
            assert bool(got) == bool(expected)
            expected = expected[: len(got)]
        assert got == expected
        del self.model[: len(got)]

    @precondition(lambda self: not self.is_shut_down)
    @rule(size=st.integers(0, PAGE // 2), times=st.integers(1, 12))
    def roll(self, size: int, times: int) -> None:
        """Go round the ring without running empty."""
        for _ in range(times):
            self.put(size, 1, bytes)
            if len(self.model) > 1:
                self.get()

    @rule()
    def drain(self) -> None:
        while self.model:
            assert self.engine.get(False, None) == self.model.pop(0)

    @precondition(lambda self: not self.is_shut_down and self.has_room([(0, b"")]))
    @rule()
    def fill_to_the_last_byte(self) -> None:
        payload = os.urandom(self.capacity - self.used() - RECORD_HEADER_SIZE)
        assert self.engine.put(1, payload, False, None)
        self.model.append((1, payload))
        self.put_ever += 1

    @rule()
    def clear(self) -> None:
        assert self.engine.clear() == len(self.model)
        self.dropped += min(len(self.model), self.put_ever - self.dropped - self.done)
        self.model.clear()

    @precondition(lambda self: self.may_shut_down and self.put_ever > 2)
    @rule(immediate=st.booleans())
    def shut_down(self, immediate: bool) -> None:
        self.engine.shut_down(immediate)
        self.is_shut_down = True
        if immediate:
            self.dropped += min(len(self.model), self.put_ever - self.dropped - self.done)
            self.model.clear()

    @precondition(lambda self: self.is_shut_down)
    @rule(size=st.integers(0, 40), block=st.booleans())
    def put_after_it(self, size: int, block: bool) -> None:
        with pytest.raises(ShmQueueShutDown, match="was shut down for all"):
            self.engine.put(0, bytes(size), block, 20.0)
        with pytest.raises(ShmQueueShutDown, match="was shut down for all"):
            self.engine.put_many([(0, bytes(size))], block, 20.0)

    @rule(maxsize=st.sampled_from([0, 1, 2, 3, 7, (1 << 62) - 1]))
    def set_maxsize(self, maxsize: int) -> None:
        self.engine.set_maxsize(maxsize)
        self.maxsize = maxsize
        assert self.engine.maxsize() == maxsize

    @rule(records=st.booleans())
    def wait(self, records: bool) -> None:
        expected = self.is_shut_down or bool(self.model) == records
        assert self.engine.wait(records, 20.0 if expected else 0) == expected

    @rule()
    def task_done(self) -> None:
        possible = self.put_ever - self.dropped - self.done > 0
        assert self.engine.task_done() == possible
        self.done += possible

    @invariant()
    def counters_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        counters = Counters(*self.engine.counters())
        assert counters.qsize == self.engine.qsize() == len(self.model)
        assert counters.occupancy == self.used()
        assert counters.is_shut_down == self.is_shut_down
        assert counters.put_count == self.put_ever
        assert counters.unfinished == max(0, self.put_ever - self.dropped - self.done)
        assert self.engine.join(0) == (counters.unfinished == 0)


@pytest.mark.thorough
@pytest.mark.parametrize("engine_name", ["native", "portable", "portable that keeps no memory"])
def test_a_ring_behaves_like_a_list(engine_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine_name, _, thrifty = engine_name.partition(" ")
    if thrifty:
        monkeypatch.setattr(portable_memory, "_KEPT", 0)
        monkeypatch.setattr(portable_memory, "_KEPT_TIMES", 1)
    machine: Any = type("Machine", (RingMachine,), {"engine_name": engine_name})
    case = machine.TestCase
    case.settings = settings(max_examples=150, stateful_step_count=40)
    case().runTest()


@pytest.mark.parametrize("engine_name", ["native", "portable"])
@settings(max_examples=repeats(30))
@given(start=st.integers(0, LARGEST), shape=st.sampled_from([FIXED, *ELASTIC]))
def test_a_record_of_any_size_fits_from_any_offset(engine_name: str, start: int, shape: tuple[int, int]) -> None:
    largest = shape[0] - RECORD_HEADER_SIZE
    with fresh_engine(engine_name, shape=shape) as engine:
        engine.put(0, bytes(start), False, None)
        engine.get(False, None)
        for size in (0, 1, 7, 8, 9, largest - 1, largest):
            payload = os.urandom(size)
            assert engine.put(size, payload, False, None)
            assert engine.get(False, None) == (size, payload)
            assert engine.qsize() == 0
