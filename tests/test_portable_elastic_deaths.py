"""The portable engine's ring is whole, whichever process dies or is interrupted while it grows or shrinks."""

from __future__ import annotations

import random
import signal
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from portable_lines import at_line
from portable_support import (
    HEADER,
    PAGE,
    WHOLE,
    Open,
    Opened,
    Record,
    drained,
    has_its_memory,
    kill,
    numbered,
    state_of,
)
from support import PATIENCE, exit_status, in_child, kill_myself, python, wait_until

from shmqueue.engine import RECORD_HEADER_SIZE


def roll(queue: Opened, records: list[Record]) -> None:
    """Put the records so that they wrap, with the oldest at the middle of the ring."""
    half = state_of(queue).size // 2 - RECORD_HEADER_SIZE
    for record in (numbered(0, half), numbered(1, 0), *records):
        assert queue.engine.put(*record, False, None)
        if record[0] == 1:
            assert queue.engine.get(False, None) is not None
    assert queue.engine.get(False, None) is not None
    assert state_of(queue).end > state_of(queue).size


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
def cases(open_portable: Open, thrifty: None) -> Callable[[str], Case]:
    """Prepares a queue, which was used before, for one more case."""
    queue = open_portable(capacity=WHOLE, initial=PAGE)

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
    def test_those_killed_at_any_moment_leave_whole_records(self, open_portable: Open) -> None:
        queue = open_portable(capacity=WHOLE, initial=PAGE)
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

    def test_signals_at_any_moment_break_nothing(self, open_portable: Open, thrifty: None) -> None:
        queue = open_portable(capacity=WHOLE, initial=PAGE)
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
