"""Any sequence of puts, gets, leases and their ends, against a model, on both engines and both kinds of ring."""

from __future__ import annotations

import uuid
from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support import repeats

import shmqueue
from shmqueue import ShmQueue, engine

CAPACITY = 4096


class LeaseMachine(RuleBasedStateMachine):
    """The model: items that wait, oldest first, and those that are leased, with how often they were handed out."""

    options: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        self.q = ShmQueue(f"test-{uuid.uuid4().hex}", **self.options)
        self.number = 0
        self.new: deque[tuple[int, bytes]] = deque()
        self.returned: list[tuple[int, bytes, int]] = []
        self.leases: list[tuple[shmqueue.Lease[Any], int, bytes, int]] = []
        self.unfinished = 0

    def teardown(self) -> None:
        self.leases.clear()
        self.q.clear()
        self.q.close()

    def there_is_no_window(self) -> bool:
        """Whether the portable engine, which moves each leased record out of the ring, has no place for the next one.

        It needs one piece of as many bytes as the queue can hold, between those that are in use.
        """
        if engine.chosen() != "portable" or self.returned:  # a requeued item has its place
            return False
        used = [len(item) for _, _, item, _ in self.leases]
        free: int = self.options.get("max_bytes", CAPACITY) - sum(used)
        return free < (len(used) + 1) * (len(self.new[0][1]) + 3)  # bytes that its header takes

    def next_item(self) -> tuple[int, bytes, int]:
        if self.returned:
            self.returned.sort()
            return self.returned.pop(0)
        number, item = self.new.popleft()
        return number, item, 0

    @rule(size=st.integers(0, 700))
    def put(self, size: int) -> None:
        item = self.number.to_bytes(4, "big") + bytes(size)
        try:
            self.q.put(item, block=False)
        except shmqueue.ShmQueueFull:
            return
        self.new.append((self.number, item))
        self.number += 1
        self.unfinished += 1

    @rule()
    def get(self) -> None:
        if not self.new and not self.returned:
            with pytest.raises(shmqueue.ShmQueueEmpty):
                self.q.get(block=False)
            return
        assert self.q.get(block=False) == self.next_item()[1]
        self.q.task_done()
        self.unfinished -= 1

    @precondition(lambda self: self.new or self.returned)
    @rule(most=st.integers(1, 5))
    def get_many(self, most: int) -> None:
        items = self.q.get_many(most, timeout=0)
        assert 1 <= len(items) <= most
        for item in items:
            assert item == self.next_item()[1]
            self.q.task_done()
            self.unfinished -= 1

    @precondition(lambda self: self.new or self.returned)
    @rule()
    def lease(self) -> None:
        try:
            lease = self.q.lease(block=False)
        except shmqueue.ShmQueueEmpty:
            assert self.there_is_no_window()
            return
        number, item, attempts = self.next_item()
        assert (lease.item, lease.attempt) == (item, attempts + 1)
        self.leases.append((lease, number, item, attempts + 1))

    @precondition(lambda self: self.new or self.returned)
    @rule(raises=st.booleans())
    def view(self, raises: bool) -> None:
        try:
            opened = self.q.get_view(block=False)
        except shmqueue.ShmQueueEmpty:
            assert self.there_is_no_window()
            return
        number, item, attempts = self.next_item()
        try:
            with opened as view:
                assert bytes(view) == item
                if raises:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            self.returned.append((number, item, attempts + 1))
        else:
            self.unfinished -= 1

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        lease, *_ = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        assert lease.ack()
        assert not lease.requeue()
        self.unfinished -= 1

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        lease, number, item, attempts = self.leases.pop(data.draw(st.integers(0, len(self.leases) - 1)))
        assert lease.requeue()
        assert not lease.ack()
        self.returned.append((number, item, attempts))

    @rule()
    def clear(self) -> None:
        self.q.clear()
        self.unfinished -= len(self.new) + len(self.returned)
        self.new.clear()
        self.returned.clear()

    @rule()
    def peek(self) -> None:
        record = self.q._engine.peek(False, 0)
        assert (record is None) == (not self.new and not self.returned)

    @invariant()
    def counts_agree(self) -> None:
        figures = self.q.statistics()
        assert self.q.qsize() == len(self.new) + len(self.returned)
        assert self.q.unfinished_tasks == self.unfinished
        assert (figures.leased, figures.returned) == (len(self.leases), len(self.returned))

    @invariant()
    def nothing_is_used_by_nothing(self) -> None:
        if not self.new and not self.returned and not self.leases:
            assert self.q.buffer_occupancy() == 0


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    "options",
    [{}, {"max_bytes": 1 << 20}, {"maxsize": 5}],
    ids=["fixed", "elastic", "maxsize"],
)
def test_any_sequence_of_calls_agrees_with_the_model(options: dict[str, Any]) -> None:
    machine: Any = type("Machine", (LeaseMachine,), {"options": {"buffer_size": CAPACITY} | options})
    case = machine.TestCase
    case.settings = settings(max_examples=repeats(60), stateful_step_count=60)
    case().runTest()
