"""A ring of either engine against a plain list: every size of record, every position of the wrap."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shmqueue import segment
from shmqueue.engine import RECORD_HEADER_SIZE, Counters, Engine, open_engine
from shmqueue.exceptions import ShmQueueValueError

CAPACITY = segment.SYSTEM_PAGESIZE
LARGEST = CAPACITY - RECORD_HEADER_SIZE


@contextmanager
def fresh_engine(engine_name: str, maxsize: int = 0) -> Iterator[Engine]:
    memory = segment.open_segment(
        f"model-{uuid.uuid4().hex}", engine=engine_name, capacity=CAPACITY, maxsize=maxsize, create=True
    )
    engine = open_engine(memory)
    try:
        yield engine
    finally:
        engine.close()
        memory.close()


sizes = st.one_of(
    st.integers(0, 40), st.integers(LARGEST - 40, LARGEST), st.just(LARGEST // 2), st.integers(0, LARGEST)
)


class RingMachine(RuleBasedStateMachine):
    """Puts and takes at random; the model is a list of (method, payload)."""

    engine_name = ""
    engine: Engine

    @initialize(maxsize=st.sampled_from([0, 0, 1, 3]))
    def start(self, maxsize: int) -> None:
        self.scope = fresh_engine(self.engine_name, maxsize)
        self.engine = self.scope.__enter__()
        self.model: list[tuple[int, bytes]] = []
        self.maxsize = maxsize
        self.put_ever = self.dropped = self.done = 0

    def teardown(self) -> None:
        if hasattr(self, "scope"):
            self.scope.__exit__(None, None, None)

    def used(self) -> int:
        return sum(RECORD_HEADER_SIZE + len(payload) for _, payload in self.model)

    def has_room(self, records: list[tuple[int, bytes]]) -> bool:
        needed = sum(RECORD_HEADER_SIZE + len(payload) for _, payload in records)
        return self.used() + needed <= CAPACITY and (not self.maxsize or len(self.model) + len(records) <= self.maxsize)

    @rule(size=sizes, method=st.integers(0, 2**32 - 1), kind=st.sampled_from([bytes, bytearray, memoryview]))
    def put(self, size: int, method: int, kind: type) -> None:
        payload = os.urandom(size)
        record = (method, payload)
        room = self.has_room([record])
        assert self.engine.put(method, kind(payload), False, None) == room
        if room:
            self.model.append(record)
            self.put_ever += 1

    @rule(batch=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1500)), min_size=1, max_size=5))
    def put_many(self, batch: list[tuple[int, int]]) -> None:
        records = [(method, os.urandom(size)) for method, size in batch]
        fitting: list[tuple[int, bytes]] = []
        for record in records:
            total = sum(RECORD_HEADER_SIZE + len(payload) for _, payload in [*fitting, record])
            if total > CAPACITY or (self.maxsize and len(fitting) == self.maxsize):
                break
            fitting.append(record)
        expected = len(fitting) if self.has_room(fitting) else 0
        assert self.engine.put_many(records, False, None) == expected
        self.model += fitting[:expected]
        self.put_ever += expected

    @rule(size=st.integers(LARGEST + 1, 2 * CAPACITY))
    def put_too_large(self, size: int) -> None:
        with pytest.raises(ShmQueueValueError, match=f"item of {size} bytes can never fit"):
            self.engine.put(0, bytes(size), False, None)
        with pytest.raises(ShmQueueValueError, match="can never fit"):
            self.engine.put_many([(0, b""), (0, bytes(size))], False, None)

    @rule()
    def get(self) -> None:
        expected = self.model.pop(0) if self.model else None
        assert self.engine.get(False, None) == expected

    @rule(most=st.integers(1, 6))
    def get_many(self, most: int) -> None:
        got = self.engine.get_many(most, False, None)
        assert got == self.model[:most]
        del self.model[:most]

    @rule()
    def drain(self) -> None:
        while self.model:
            assert self.engine.get(False, None) == self.model.pop(0)

    @precondition(lambda self: hasattr(self, "model") and self.has_room([(0, b"")]))
    @rule()
    def fill_to_the_last_byte(self) -> None:
        payload = os.urandom(CAPACITY - self.used() - RECORD_HEADER_SIZE)
        assert self.engine.put(1, payload, False, None)
        self.model.append((1, payload))
        self.put_ever += 1

    @rule()
    def clear(self) -> None:
        assert self.engine.clear() == len(self.model)
        self.dropped += min(len(self.model), self.put_ever - self.dropped - self.done)
        self.model.clear()

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
        assert counters.put_count == self.put_ever
        assert counters.unfinished == max(0, self.put_ever - self.dropped - self.done)
        assert self.engine.join(0) == (counters.unfinished == 0)


@pytest.mark.parametrize("engine_name", ["native", "portable"])
def test_a_ring_behaves_like_a_list(engine_name: str) -> None:
    machine = type("Machine", (RingMachine,), {"engine_name": engine_name})
    case = machine.TestCase
    case.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
    case().runTest()


@pytest.mark.parametrize("engine_name", ["native", "portable"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, LARGEST))
def test_a_record_of_any_size_fits_from_any_offset(engine_name: str, start: int) -> None:
    with fresh_engine(engine_name) as engine:
        engine.put(0, bytes(start), False, None)
        engine.get(False, None)
        for size in (0, 1, 7, 8, 9, LARGEST - 1, LARGEST):
            payload = os.urandom(size)
            assert engine.put(size, payload, False, None)
            assert engine.get(False, None) == (size, payload)
            assert engine.qsize() == 0
