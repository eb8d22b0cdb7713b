"""The state of a portable queue: shut down for all, waited for, and used soundly or refused when it is corrupted."""

from __future__ import annotations

import random

import pytest
from portable_support import PAGE, WHOLE, Open, Opened
from support import PATIENCE, Call, asleep

from shmqueue import segment
from shmqueue.engine.portable import PortableEngine
from shmqueue.engine.portable_state import Room, State, unpack
from shmqueue.exceptions import ShmQueueCorruptedError, ShmQueueShutDown


class TestShutDown:
    @pytest.mark.parametrize("immediate", [False, True])
    def test_calls_that_wait_end(self, open_portable: Open, immediate: bool) -> None:
        queue, other = open_portable(maxsize=1), open_portable()
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

    def test_a_getter_that_waits_ends(self, open_portable: Open) -> None:
        queue, other = open_portable(), open_portable()
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

    def test_waiting_for_records_takes_none(self, open_portable: Open) -> None:
        queue, other = open_portable(), open_portable()
        for wanted, action in ((True, lambda: other.engine.put(1, b"", True, None)), (False, other.engine.clear)):
            assert not queue.engine.wait(wanted, 0)
            assert not queue.engine.wait(wanted, 0.01)
            waiting = asleep(Call(queue.engine.wait, wanted, None))
            action()
            assert waiting.result()
            assert queue.engine.wait(wanted, 0)


class TestDamage:
    def test_any_state_is_used_soundly_or_refused(self, name: str, open_portable: Open) -> None:
        chance = random.Random(11)
        numbers = [0, 1, 8, 9, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 5 * PAGE, 5 * PAGE + 1, 1 << 40, 1 << 63]
        open_portable(capacity=5 * PAGE, initial=3 * PAGE)
        refused = used = 0
        for _ in range(400):
            handle = open_portable()
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

    @pytest.mark.parametrize("offset", [128, 192, 200, 232, 264, 272, 280, 288])
    def test_a_state_that_contradicts_itself_poisons_the_handle(self, open_portable: Open, offset: int) -> None:
        queue = open_portable()
        for number in range(2):
            queue.engine.put(number, b"x", True, None)
        queue.engine._memory[offset] ^= 0x50
        for _ in range(2):
            with pytest.raises(ShmQueueCorruptedError, match=r"is corrupted: .*; this handle does not touch it"):
                queue.engine.get(True, None)
        with pytest.raises(ShmQueueCorruptedError):
            queue.engine.qsize()

    def test_a_record_longer_than_the_bytes_in_the_queue_poisons_the_handle(self, open_portable: Open) -> None:
        queue = open_portable()
        queue.engine.put(1, b"x", True, None)
        queue.engine._memory[segment.HEADER_SIZE + 3] = 0x7F
        with pytest.raises(ShmQueueCorruptedError, match="a record of"):
            queue.engine.get(True, None)
