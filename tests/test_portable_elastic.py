"""The portable engine's ring grows and shrinks, and goes on where there is no memory to grow."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from portable_support import HEADER, PAGE, WHOLE, Open, Opened, Record, drained, has_its_memory, numbered, state_of
from support import PATIENCE, Call, asleep, wait_until

from shmqueue.engine import RECORD_HEADER_SIZE, portable_memory
from shmqueue.exceptions import ShmQueueNoSpaceError


class TestRing:
    @pytest.mark.parametrize("keeps", ["much", "little"])
    @pytest.mark.parametrize(("capacity", "initial"), [(64, 1), (21, 2), (5, 3), (4, 3)])
    def test_it_keeps_records_of_all_sizes_in_order(
        self, open_portable: Open, keeps: str, capacity: int, initial: int, request: pytest.FixtureRequest
    ) -> None:
        if keeps == "little":
            request.getfixturevalue("thrifty")
        queue = open_portable(capacity=capacity * PAGE, initial=initial * PAGE)
        chance = random.Random(capacity)
        model: list[Record] = []
        moved = {"grown": 0, "grown while it wraps": 0, "shrunk": 0, "shrunk with records": 0}
        for number in range(3000):
            before, filling = state_of(queue), number // 100 % 2
            if chance.random() < 0.4 + 0.2 * filling:
                most = chance.choice([1, 300, PAGE // 2, capacity * PAGE // 4])
                record = numbered(number, chance.randrange(most))
                room = before.used + RECORD_HEADER_SIZE + len(record[1]) <= capacity * PAGE
                assert queue.engine.put(*record, False, None) == room
                model += [record] * room
            else:
                taken = queue.engine.get_many(chance.choice([1, 1, 1, 5]), False, None)
                assert taken == model[: len(taken)]
                del model[: len(taken)]
            after = state_of(queue)
            moved["grown"] += after.size > before.size
            moved["grown while it wraps"] += after.size > before.size and before.end > before.size
            moved["shrunk"] += after.size < before.size
            moved["shrunk with records"] += after.size < before.size and after.used > 0
            assert has_its_memory(queue)
        assert drained(queue) == model
        assert moved["grown"] > 0
        if keeps == "little":
            assert moved["shrunk"] > 3, moved
            assert moved["grown"] > 3, moved
            if capacity > 20:
                assert min(moved.values()) > 0, moved

    def test_an_empty_ring_starts_again_where_its_memory_is(self, elastic: Opened) -> None:
        for number in range(20):
            assert elastic.engine.put(number, bytes(PAGE - RECORD_HEADER_SIZE), False, None)
            assert elastic.engine.get(False, None) == (number, bytes(PAGE - RECORD_HEADER_SIZE))
        assert state_of(elastic).size == PAGE
        assert elastic.memory() == HEADER + PAGE

    def test_one_record_as_large_as_the_whole(self, elastic: Opened) -> None:
        record = numbered(1, WHOLE - RECORD_HEADER_SIZE)
        for _ in range(3):
            assert elastic.engine.put(*record, False, None)
            assert not elastic.engine.put(0, b"", False, None)
            assert elastic.engine.get(False, None) == record

    def test_handles_that_were_there_before_it_grew_go_on(self, open_portable: Open, thrifty: None) -> None:
        one, two = open_portable(capacity=WHOLE, initial=PAGE), open_portable()
        for number in range(5):
            record = numbered(number, 10 * PAGE)
            assert one.engine.put(*record, False, None)
            assert two.engine.get(False, None) == record
            assert two.engine.put(*record, False, None)
            assert one.engine.get(False, None) == record
        assert one.memory() == HEADER + PAGE

    @pytest.mark.parametrize("initial", [0, PAGE])
    def test_a_threshold_lets_in_whatever_comes_below_it(self, open_portable: Open, initial: int) -> None:
        queue = open_portable(capacity=WHOLE, initial=initial, threshold=1000)
        assert queue.engine.put(1, bytes(1000 - RECORD_HEADER_SIZE - 1), False, None)
        assert queue.engine.put(2, bytes(10 * PAGE), False, None)
        assert not queue.engine.put(3, b"", False, None)
        assert queue.engine.get(False, None) is not None
        assert not queue.engine.put(3, b"", False, None)
        waiting = asleep(Call(queue.engine.put, 3, b"", True, PATIENCE))
        assert queue.engine.get(False, None) is not None
        assert waiting.result()

    def test_closing_a_handle_gives_back_what_an_empty_queue_does_not_need(self, open_portable: Open) -> None:
        one, two = open_portable(capacity=WHOLE, initial=PAGE), open_portable()
        two.engine.put(1, bytes(10 * PAGE), False, None)
        two.engine.get(False, None)
        assert one.memory() > 10 * PAGE
        two.close()
        assert one.memory() == HEADER + PAGE


class TestWithoutMemory:
    @pytest.fixture
    def poor(self, elastic: Opened, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
        """There is no memory any more; calling it with False or True changes that."""
        reserve = elastic.segment.reserve
        is_poor = True

        def reserve_if_rich(size: int, *rest: Any) -> None:
            if is_poor:
                raise ShmQueueNoSpaceError(errno.ENOSPC, "not enough")
            reserve(size, *rest)

        def set_poor(value: bool) -> None:
            nonlocal is_poor
            is_poor = value

        monkeypatch.setattr(elastic.segment, "reserve", reserve_if_rich)
        yield set_poor
        monkeypatch.undo()

    def test_it_is_like_a_full_queue_and_said_once(self, elastic: Opened, poor: Callable[[bool], None]) -> None:
        for count in (1, 2):
            records = [numbered(number, 1000) for number in range(4)]
            for record in records:
                assert elastic.engine.put(*record, False, None)
            for _ in range(3):
                assert not elastic.engine.put(9, bytes(1000), False, None)
                assert not elastic.engine.put(9, bytes(1000), True, 0.01)
                assert elastic.engine.put_many([(9, bytes(1000))] * 2, False, None) == 0
            assert elastic.reports == [errno.ENOSPC, 0] * (count - 1) + [errno.ENOSPC]
            assert drained(elastic) == records
            poor(False)
            assert elastic.engine.put(9, bytes(3 * PAGE), False, None)
            assert elastic.engine.get(False, None) == (9, bytes(3 * PAGE))
            elastic.engine._give_back()
            poor(True)

    def test_a_put_that_waits_goes_on_when_there_is_memory(self, elastic: Opened, poor: Callable[[bool], None]) -> None:
        record = numbered(1, 3 * PAGE)
        waiting = asleep(Call(elastic.engine.put, *record, True, PATIENCE))
        wait_until(lambda: elastic.reports, "the shortage is reported")
        poor(False)
        assert waiting.result()
        assert drained(elastic) == [record]

    def test_what_is_told_of_it_may_use_the_queue(
        self, elastic: Opened, poor: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[object] = []

        def tell(error: int) -> None:
            told.append(elastic.engine.put(2, bytes(3 * PAGE), False, None))
            told.append(elastic.engine.put(2, b"small", False, None))

        monkeypatch.setattr(elastic.engine, "_report", tell)
        assert not elastic.engine.put(1, bytes(3 * PAGE), False, None)
        assert told == [False, True]
        assert drained(elastic) == [(2, b"small")]

    def test_what_a_signal_handler_raises_is_no_shortage(
        self, elastic: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def reserve(size: int, *rest: Any) -> None:
            raise TimeoutError("a handler's")

        monkeypatch.setattr(elastic.segment, "reserve", reserve)
        with pytest.raises(TimeoutError, match="a handler's"):
            elastic.engine.put(1, bytes(3 * PAGE), False, None)
        monkeypatch.undo()
        assert elastic.reports == []
        assert elastic.engine.put(1, bytes(3 * PAGE), False, None)

    def test_a_ring_that_cannot_grow_by_much_grows_by_little(
        self, elastic: Opened, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = 6 * PAGE
        monkeypatch.setattr(portable_memory, "_allocated_and_free", lambda fd: (elastic.memory(), free))
        assert elastic.engine.put(1, bytes(PAGE), False, None)
        assert state_of(elastic).size == 2 * PAGE
        free = 2 * PAGE
        assert elastic.engine.put(2, bytes(2 * PAGE), False, None)
        assert state_of(elastic).size == 4 * PAGE
        free = PAGE
        assert not elastic.engine.put(3, bytes(2 * PAGE), False, None)
        assert elastic.reports == [errno.ENOSPC]
        assert drained(elastic) == [(1, bytes(PAGE)), (2, bytes(2 * PAGE))]
