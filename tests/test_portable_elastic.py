"""The portable engine's ring grows and shrinks, whichever process dies or is interrupted in the middle of it."""

from __future__ import annotations

import errno
import random
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from portable_support import (
    Open,
    Opened,
    at_line,
    exit_status,
    in_child,
    kill,
    kill_myself,
    portable_handles,
)
from support import PATIENCE, Call, asleep, python, wait_until

from shmqueue import segment
from shmqueue.engine import RECORD_HEADER_SIZE, portable_memory
from shmqueue.engine.portable import PortableEngine
from shmqueue.engine.portable_state import Room, State, unpack
from shmqueue.exceptions import ShmQueueCorruptedError, ShmQueueNoSpaceError, ShmQueueShutDown

PAGE = segment.SYSTEM_PAGESIZE
HEADER = segment.HEADER_SIZE
WHOLE = 64 * PAGE

Record = tuple[int, bytes]


@pytest.fixture
def opened(name: str) -> Iterator[Open]:
    with portable_handles(name) as open_handle:
        yield open_handle


@pytest.fixture
def elastic(opened: Open) -> Opened:
    return opened(capacity=WHOLE, initial=PAGE)


@pytest.fixture
def thrifty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings shrink whenever they can."""
    monkeypatch.setattr(portable_memory, "_KEPT", 0)
    monkeypatch.setattr(portable_memory, "_KEPT_TIMES", 1)


def state_of(queue: Opened) -> State:
    state = queue.engine._peek()
    assert state is not None
    return state


def has_its_memory(queue: Opened) -> bool:
    """Whether there is memory for every page of the ring, so that nothing that is written to it can fail."""
    return queue.memory() >= HEADER + state_of(queue).size


def drained(queue: Opened) -> list[Record]:
    records = []
    while (record := queue.engine.get(False, None)) is not None:
        records.append(record)
    return records


def numbered(number: int, size: int) -> Record:
    return number, random.Random(number).randbytes(size)


def roll(queue: Opened, records: list[Record]) -> None:
    """Put the records so that they wrap, with the oldest at the middle of the ring."""
    half = state_of(queue).size // 2 - RECORD_HEADER_SIZE
    for record in (numbered(0, half), numbered(1, 0), *records):
        assert queue.engine.put(*record, False, None)
        if record[0] == 1:
            assert queue.engine.get(False, None) is not None
    assert queue.engine.get(False, None) is not None
    assert state_of(queue).end > state_of(queue).size


class TestRing:
    @pytest.mark.parametrize("keeps", ["much", "little"])
    @pytest.mark.parametrize(("capacity", "initial"), [(64, 1), (21, 2), (5, 3), (4, 3)])
    def test_it_keeps_records_of_all_sizes_in_order(
        self, opened: Open, keeps: str, capacity: int, initial: int, request: pytest.FixtureRequest
    ) -> None:
        if keeps == "little":
            request.getfixturevalue("thrifty")
        queue = opened(capacity=capacity * PAGE, initial=initial * PAGE)
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

    def test_handles_that_were_there_before_it_grew_go_on(self, opened: Open, thrifty: None) -> None:
        one, two = opened(capacity=WHOLE, initial=PAGE), opened()
        for number in range(5):
            record = numbered(number, 10 * PAGE)
            assert one.engine.put(*record, False, None)
            assert two.engine.get(False, None) == record
            assert two.engine.put(*record, False, None)
            assert one.engine.get(False, None) == record
        assert one.memory() == HEADER + PAGE

    @pytest.mark.parametrize("initial", [0, PAGE])
    def test_a_threshold_lets_in_whatever_comes_below_it(self, opened: Open, initial: int) -> None:
        queue = opened(capacity=WHOLE, initial=initial, threshold=1000)
        assert queue.engine.put(1, bytes(1000 - RECORD_HEADER_SIZE - 1), False, None)
        assert queue.engine.put(2, bytes(10 * PAGE), False, None)
        assert not queue.engine.put(3, b"", False, None)
        assert queue.engine.get(False, None) is not None
        assert not queue.engine.put(3, b"", False, None)
        waiting = asleep(Call(queue.engine.put, 3, b"", True, PATIENCE))
        assert queue.engine.get(False, None) is not None
        assert waiting.result()

    def test_closing_a_handle_gives_back_what_an_empty_queue_does_not_need(self, opened: Open) -> None:
        one, two = opened(capacity=WHOLE, initial=PAGE), opened()
        two.engine.put(1, bytes(10 * PAGE), False, None)
        two.engine.get(False, None)
        assert one.memory() > 10 * PAGE
        two.close()
        assert one.memory() == HEADER + PAGE


class TestShutDown:
    @pytest.mark.parametrize("immediate", [False, True])
    def test_calls_that_wait_end(self, opened: Open, immediate: bool) -> None:
        queue, other = opened(maxsize=1), opened()
        queue.engine.put(1, b"x", True, None)
        put, join = (asleep(Call(*call)) for call in ((queue.engine.put, 2, b"y", True, None), (queue.engine.join, 20)))
        other.engine.shut_down(immediate)
        with pytest.raises(ShmQueueShutDown, match=f"queue '{queue.segment.name}' was shut down for all"):
            put.result()
        if not immediate:
            assert queue.engine.get(True, None) == (1, b"x")
            assert queue.engine.task_done()
        assert join.result()
        with pytest.raises(ShmQueueShutDown):
            queue.engine.get(False, None)

    def test_a_getter_that_waits_ends(self, opened: Open) -> None:
        queue, other = opened(), opened()
        get, wait = asleep(Call(queue.engine.get, True, PATIENCE)), asleep(Call(queue.engine.wait, True, None))
        other.engine.shut_down(False)
        with pytest.raises(ShmQueueShutDown):
            get.result()
        assert wait.result()

    def test_again_and_from_plain_to_immediate(self, elastic: Opened) -> None:
        elastic.engine.put(1, bytes(3 * PAGE), False, None)
        for immediate, items in ((False, 1), (False, 1), (True, 0), (True, 0), (False, 0)):
            elastic.engine.shut_down(immediate)
            assert elastic.figures().is_shut_down
            assert elastic.engine.qsize() == items
        assert elastic.figures().unfinished == 0

    def test_waiting_for_records_takes_none(self, opened: Open) -> None:
        queue, other = opened(), opened()
        for wanted, action in ((True, lambda: other.engine.put(1, b"", True, None)), (False, other.engine.clear)):
            assert not queue.engine.wait(wanted, 0)
            assert not queue.engine.wait(wanted, 0.01)
            waiting = asleep(Call(queue.engine.wait, wanted, None))
            action()
            assert waiting.result()
            assert queue.engine.wait(wanted, 0)


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


class Case:
    """A call that grows or shrinks the ring, on a queue that is ready for it."""

    def __init__(self, queue: Opened, kind: str) -> None:
        self.queue, self.kind = queue, kind
        self.got: list[Record] = []
        self.records = [numbered(number, 600) for number in range(2, 7)]
        self.large = numbered(100, 5 * PAGE)
        if kind == "grow":
            roll(queue, self.records)
        elif kind == "drain":
            queue.engine.put(*self.large, False, None)
            self.records = [self.large]
        elif kind == "trim":
            queue.engine.put(*self.large, False, None)
            queue.engine.put(*self.records[0], False, None)
            self.records = [self.large, self.records[0]]
        elif kind == "clear":
            queue.engine.put(*self.large, False, None)
            self.records = [self.large]
        self.size_before = state_of(queue).size

    def call(self) -> None:
        if self.kind == "grow":
            assert self.queue.engine.put(*self.large, True, PATIENCE)
        elif self.kind == "clear":
            self.queue.engine.clear()
        else:
            record = self.queue.engine.get(True, PATIENCE)
            assert record is not None
            self.got.append(record)

    @property
    def after(self) -> list[Record]:
        """What is in the queue after the call."""
        return {"grow": [*self.records, self.large], "clear": []}.get(self.kind, self.records[1:])


KINDS = ["grow", "drain", "trim", "clear"]


@pytest.fixture
def cases(opened: Open, thrifty: None) -> Callable[[str], Case]:
    """Prepares a queue, which was used before, for one more case."""
    queue = opened(capacity=WHOLE, initial=PAGE)

    def prepare(kind: str) -> Case:
        drained(queue)
        queue.engine._give_back()
        assert state_of(queue).size == PAGE
        return Case(queue, kind)

    return prepare


def each_line(most: int = 1000) -> Iterator[int]:
    yield from range(1, most)
    pytest.fail("the call never came to its end")


@pytest.mark.thorough
class TestInTheMiddle:
    @pytest.mark.parametrize("kind", KINDS)
    def test_what_is_killed_at_any_line_has_done_all_or_nothing(self, cases: Callable[[str], Case], kind: str) -> None:
        outcomes = set()
        for line in each_line():
            case = cases(kind)
            pid = in_child(lambda line=line, case=case: at_line(line, case.call, kill_myself, everywhere=True))  # type: ignore[misc]
            status = exit_status(pid)
            assert has_its_memory(case.queue)
            left = drained(case.queue)
            assert left in (case.records, case.after)
            outcomes.add(left == case.after)
            if status == 0:
                assert left == case.after
                break
            assert status == -signal.SIGKILL
        assert line > 50
        assert outcomes == {False, True}

    @pytest.mark.parametrize("kind", KINDS)
    def test_memory_that_the_dead_left_is_used_or_given_back(self, cases: Callable[[str], Case], kind: str) -> None:
        for line in each_line():
            case = cases(kind)
            status = exit_status(
                in_child(lambda line=line, case=case: at_line(line, case.call, kill_myself, everywhere=True))  # type: ignore[misc]
            )
            case.queue.engine.put(9, bytes(20 * PAGE), True, PATIENCE)
            drained(case.queue)
            assert case.queue.memory() == HEADER + PAGE
            if status == 0:
                break

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("inner", ["puts", "takes", "clears", "puts and takes", "takes and puts"])
    def test_a_handler_may_do_the_same_at_any_line(self, cases: Callable[[str], Case], kind: str, inner: str) -> None:
        steps = inner.split(" and ")
        for line in each_line():
            case = cases(kind)
            taken: list[Record] = []
            added: list[Record] = []

            def handle(case: Case = case, taken: list[Record] = taken, added: list[Record] = added) -> None:
                engine = case.queue.engine
                waits = kind in ("drain", "trim") and steps[-1] != "puts"  # the call that is interrupted, for a record
                for step in [*steps, "puts"] if waits else steps:
                    if step == "puts":
                        records = [numbered(200 + len(added), 9 * PAGE), numbered(201 + len(added), 10)]
                        assert engine.put_many(records, True, PATIENCE)
                        added += records
                    elif step == "takes":
                        taken += engine.get_many(100, False, None)
                    else:
                        engine.clear()

            reached = at_line(line, case.call, handle)
            assert has_its_memory(case.queue)
            seen = case.got + taken + drained(case.queue)
            assert len({number for number, _ in seen}) == len(seen), "a record came twice"
            everything = {*case.records, *case.after, *added}
            assert set(seen) <= everything, "a record is corrupted"
            if "clear" not in kind + inner:
                assert set(seen) == everything
            if not reached:
                break
        assert line > 50
        assert case.queue.figures().recoveries == 0

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_exception_at_any_line_loses_no_record(self, cases: Callable[[str], Case], kind: str) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        lost = []
        for line in each_line():
            case = cases(kind)
            try:
                reached = at_line(line, case.call, interrupt)
            except KeyboardInterrupt:
                reached = True
            assert has_its_memory(case.queue)
            left = drained(case.queue)
            assert left in (case.records, case.after)
            if not reached:
                break
            if kind != "clear" and case.got + left != case.records and left != [*case.after, case.large]:
                lost.append(line)
        assert line > 50
        if kind == "grow":  # put, and the caller was not told
            assert all(number >= line - 15 for number in lost)
        elif kind != "clear":
            assert lost == [] or lost[0] >= line - 15, "a record was lost before the lock was released"
        assert case.queue.figures().recoveries == 0

    def test_the_next_owner_gives_back_what_one_reserved_and_did_not_live_to_use(self, elastic: Opened) -> None:
        def reserve_and_die() -> None:
            reserve = elastic.segment.reserve
            elastic.segment.reserve = lambda *given: (reserve(*given), kill_myself())  # type: ignore[method-assign, assignment, func-returns-value]
            elastic.engine.put(1, bytes(5 * PAGE), True, None)

        assert exit_status(in_child(reserve_and_die)) == -signal.SIGKILL
        assert elastic.memory() > 5 * PAGE
        assert elastic.engine.put(2, b"x", True, PATIENCE)
        assert elastic.memory() == HEADER + PAGE
        assert drained(elastic) == [(2, b"x")]
        assert elastic.figures().recoveries == 1


SHOVEL = """
import os, random, signal, struct, sys
from shmqueue import segment
from shmqueue.engine import data_size, portable_memory
from shmqueue.engine.portable import PortableEngine
portable_memory._KEPT, portable_memory._KEPT_TIMES = 0, 1
shape = segment.Shape("portable", 4096, 0, 0, 0, data_size("portable", 4096, 0))
s = segment.open_segment(sys.argv[1], shape, create=False)
e = PortableEngine(s, lambda error: None)
me, chance = int(sys.argv[2]), random.Random(int(sys.argv[2]))
print("up", flush=True)
number = 0
while True:
    for _ in range(chance.randrange(1, 12)):
        e.put(me, struct.pack("=Q", number) * chance.choice([1, 20, 700, 3000]), True, None)
        number += 1
    for method, payload in e.get_many(chance.randrange(1, 12), True, None):
        assert payload == payload[:8] * (len(payload) // 8)
"""


@pytest.mark.thorough
class TestProcesses:
    def test_those_killed_at_any_moment_leave_whole_records(self, opened: Open) -> None:
        queue = opened(capacity=WHOLE, initial=PAGE)
        chance = random.Random(3)
        for victim in range(12):
            with python(SHOVEL, queue.segment.name, victim) as one, python(SHOVEL, queue.segment.name, 99) as two:
                for process in (one, two):
                    assert process.stdout is not None
                    process.stdout.readline()
                threading.Event().wait(chance.uniform(0, 0.1))  # the moment of death is what varies
                kill(one)
                before = queue.figures().put_count

                def goes_on(before: int = before, queue: Opened = queue) -> bool:
                    queue.engine.get(False, None)  # two may be stuck at the limit
                    queue.engine.put(50, b"12345678", False, None)
                    return queue.figures().put_count > before + 10

                wait_until(goes_on, "the other goes on")
                assert two.poll() is None
                kill(two)
            for _, payload in drained(queue):
                assert payload == payload[:8] * (len(payload) // 8)
            queue.engine.put(1, bytes(30 * PAGE), True, PATIENCE)
            assert queue.engine.get(True, PATIENCE) == (1, bytes(30 * PAGE))

    def test_signals_at_any_moment_break_nothing(self, opened: Open, thrifty: None) -> None:
        queue = opened(capacity=WHOLE, initial=PAGE)
        seen: list[Record] = []
        numbers = iter(range(10**9))

        def put() -> None:
            number = next(numbers)
            if queue.engine.put(number, struct.pack("=Q", number) * (number % 7 * 200), False, None):
                kept.append(number)

        kept: list[int] = []
        chance = random.Random(5)

        def handle(*_signal: object) -> None:
            for _ in range(chance.randrange(3)):
                put()
            seen.extend(queue.engine.get_many(chance.randrange(1, 20), False, None))

        before = signal.signal(signal.SIGALRM, handle)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0007, 0.0013)
            for _ in range(1500):
                put()
                if chance.random() < 0.5:
                    seen.extend(queue.engine.get_many(chance.randrange(1, 9), False, None))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        seen += drained(queue)
        assert sorted(number for number, _ in seen) == sorted(kept)
        assert all(payload == struct.pack("=Q", number) * (number % 7 * 200) for number, payload in seen)
        assert has_its_memory(queue)


class TestDamage:
    def test_any_state_is_used_soundly_or_refused(self, name: str, opened: Open) -> None:
        chance = random.Random(11)
        numbers = [0, 1, 8, 9, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 5 * PAGE, 5 * PAGE + 1, 1 << 40, 1 << 63]
        opened(capacity=5 * PAGE, initial=3 * PAGE)
        refused = used = 0
        for _ in range(400):
            handle = opened()
            fields = [0, 216, 2, 8, 1, 0, 0, 2, 0, 0, 3 * PAGE, 0]
            for _ in range(chance.randrange(1, 4)):
                fields[chance.randrange(1, len(fields))] = chance.choice(numbers)
            state = State(*fields)
            handle.engine._memory[192 : 192 + len(state.pack())] = state.pack()
            handle.engine._memory[128] = 0
            calls = (
                lambda engine: engine.get(False, None), lambda engine: engine.put(1, b"x" * 200, False, None),
                lambda engine: engine.put(1, b"x" * 2 * PAGE, False, None),
                lambda engine: engine.get_many(3, False, None), PortableEngine.clear, PortableEngine.counters,
            )  # fmt: skip
            try:
                for call in chance.sample(calls, len(calls)):
                    try:
                        call(handle.engine)
                    except ShmQueueShutDown:
                        assert 1 <= state.shut <= 2
                used += 1
            except ShmQueueCorruptedError:
                refused += 1
            handle.close()
        assert min(used, refused) > 20

    def test_a_state_survives_packing(self) -> None:
        room = Room(PAGE, WHOLE)
        state = State(*range(1, 11), 2 * PAGE, 3)  # type: ignore[call-arg]
        assert unpack(state.pack(), room) == state
        zeros = bytes(len(state.pack()))
        assert unpack(zeros, room) == State(*[0] * 10, PAGE, 0)  # type: ignore[call-arg]
        for offset in range(len(zeros)):
            assert unpack(zeros[:offset] + b"\1" + zeros[offset + 1 :], room) is None
