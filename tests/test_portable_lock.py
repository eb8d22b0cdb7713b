"""The portable engine's lock: no death of its owner wedges the others, and nothing is left behind."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest
from portable_lines import at_line
from portable_support import OPEN, Open, Opened, kill, lock_held_elsewhere
from safety.busy import at_least
from support import PATIENCE, python

from shmqueue import segment
from shmqueue.engine.portable_lock import Owner
from shmqueue.exceptions import ShmQueueFull

PUT_NUMBERED = (
    OPEN
    + """
me, count = int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
for number in range(count):
    e.put(me, struct.pack("=Q", number) * (1 + number % 40), True, None)
e.close(); s.close()
"""
)

EVERYTHING = (
    OPEN
    + """
me = int(sys.argv[2])
theirs = {}
for number in range(2000):
    e.put(me, struct.pack("=Q", number), True, None)
    method, payload = e.get(True, None)
    theirs.setdefault(method, []).append(struct.unpack("=Q", payload)[0])
assert all(numbers == sorted(numbers) for numbers in theirs.values())
print(*(f"{method}:{number}" for method, numbers in theirs.items() for number in numbers))
e.close(); s.close()
"""
)


class TestDeath:
    def test_a_killed_owner_delays_nobody(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        with lock_held_elsewhere(name) as process:
            with pytest.raises(ShmQueueFull, match="lock was not released in time"):
                queue.engine.put(0, b"too early", True, 0.02)
            kill(process)
            started = time.monotonic()
            assert queue.engine.put(7, b"at once", True, PATIENCE)
            assert time.monotonic() - started < at_least(1.0)
        assert queue.engine.get(False, None) == (7, b"at once")
        assert queue.figures().recoveries == 1

    def test_who_waits_while_the_owner_is_killed_goes_on(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        with lock_held_elsewhere(name) as process:
            waiter = threading.Thread(target=queue.engine.put, args=(7, b"patient", True, None))
            waiter.start()
            kill(process)
            waiter.join(PATIENCE)
            assert not waiter.is_alive()
        assert queue.engine.get(False, None) == (7, b"patient")

    def test_an_owner_that_died_before_its_commit_has_changed_nothing(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        queue.engine.put(1, b"first", True, None)
        code = (
            OPEN
            + """
def die(state, hold):
    memory = e._memory
    memory[4096 + state.put_position : 6096] = b"half" * ((2000 - state.put_position) // 4 + 1)
    memory[192:296] = b"prepared" * 13  # the state that is not current
    os.kill(os.getpid(), signal.SIGKILL)
e._locked(die, None)
"""
        )
        with python(code, name) as process:
            process.wait()
        assert queue.engine.put(2, b"second", True, 1.0)
        assert queue.engine.get_many(9, True, 1.0) == [(1, b"first"), (2, b"second")]

    @pytest.mark.thorough
    def test_producers_killed_at_any_moment_leave_whole_items_in_order(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        chance = random.Random(1)
        taken: dict[int, int] = {}

        def take(record: tuple[int, bytes] | None) -> bool:
            if record is None:
                return False
            producer, payload = record
            number = taken.get(producer, -1) + 1
            assert payload == number.to_bytes(8, sys.byteorder) * (1 + number % 40)
            taken[producer] = number
            return True

        for producer in range(30):
            with python(PUT_NUMBERED, name, producer, 1_000_000) as process:
                assert process.stdout is not None
                process.stdout.readline()
                until = time.monotonic() + chance.uniform(0, 0.05)
                while time.monotonic() < until:
                    take(queue.engine.get(True, 0.01))
                kill(process)
            while take(queue.engine.get(False, None)):
                pass
            assert queue.engine.put(99, b"", True, 1.0)
            assert queue.engine.get(True, 1.0) == (99, b"")
        assert len(taken) > 15, "hardly any producer got to put before it was killed"

    def test_a_consumer_killed_while_it_holds_the_lock_takes_nothing(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        queue.engine.put(1, b"stays", True, None)
        with lock_held_elsewhere(name) as process:
            kill(process)
        assert queue.engine.get(True, 1.0) == (1, b"stays")


class TestExclusion:
    def test_two_processes_that_put_and_get_lose_and_double_nothing(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        with python(EVERYTHING, name, 1) as one, python(EVERYTHING, name, 2) as two:
            outputs = [process.communicate(timeout=100) for process in (one, two)]
            assert (one.returncode, two.returncode) == (0, 0), outputs
        taken = Counter(word for output, _ in outputs for word in output.split())
        assert taken == Counter(f"{method}:{number}" for method in (1, 2) for number in range(2000))
        figures = queue.figures()
        assert (figures.put_count, figures.get_count, figures.recoveries) == (4000, 4000, 0)

    def test_it_holds_when_the_sidecar_is_swept_all_the_time(self, open_portable: Open) -> None:
        queue = open_portable()
        handles = [queue, open_portable()]
        queue.segment.unlink()  # now its sidecar looks like a stray to every sweep
        inside: list[int] = []
        stop = threading.Event()

        def work(handle: Opened) -> None:
            for _ in range(300):
                assert handle.engine._locked(alone, None)

        def alone(state: object, hold: object) -> tuple[None, bool, bytes]:
            inside.append(1)
            time.sleep(0)
            return None, len(inside) == 1 and inside.pop() == 1, b""

        def sweep() -> None:
            while not stop.is_set():
                segment.sweep_orphans()

        workers = [threading.Thread(target=work, args=(handle,)) for handle in handles]
        sweeper = threading.Thread(target=sweep)
        sweeper.start()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        stop.set()
        sweeper.join()
        assert inside == []
        assert queue.figures().recoveries == 0

    def test_a_thread_takes_the_lock_with_no_descriptor_that_is_being_closed(
        self, open_portable: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed, other = open_portable(), open_portable()
        has_used, is_closing, has_taken = threading.Event(), threading.Event(), threading.Event()
        close, acquire = Owner._close, Owner.acquire
        taken: list[bool] = []
        owners: list[Owner] = []

        def use() -> None:
            closed.engine.put(1, b"by the handle that is closed", True, None)
            owners.append(closed.engine._lock.owner())
            has_used.set()
            assert is_closing.wait(PATIENCE)
            other.engine.put(1, b"by the other one", True, None)

        def slow_close(owner: Owner) -> None:
            if owner in owners:
                is_closing.set()
                taken.append(has_taken.wait(0.2))  # that the thread does not go on is only seen by waiting for it
            close(owner)

        def acquire_and_tell(owner: Owner, *arguments: Any) -> bool:
            is_taken = acquire(owner, *arguments)
            if is_closing.is_set():
                has_taken.set()
            return is_taken

        thread = threading.Thread(target=use)
        thread.start()
        assert has_used.wait(PATIENCE)
        monkeypatch.setattr(Owner, "_close", slow_close)
        monkeypatch.setattr(Owner, "acquire", acquire_and_tell)
        closed.engine.close()
        thread.join()
        monkeypatch.undo()
        assert taken == [False]
        assert other.engine.get(False, None) == (1, b"by the handle that is closed")
        assert other.engine.get(False, None) == (1, b"by the other one")

    @pytest.mark.parametrize("same_handle", [True, False])
    def test_a_put_that_interrupts_a_put_does_not_wait_for_it(self, open_portable: Open, same_handle: bool) -> None:
        """As a signal handler does that runs while its thread owns the lock."""
        queue = open_portable()
        other = queue if same_handle else open_portable()
        looks = []

        def room(state: object) -> bool:
            looks.append(1)
            if len(looks) == 2:
                del queue.engine._room_for
                assert other.engine.put(2, b"from the handler", True, 5.0)
            return True

        queue.engine._room_for = lambda data, count: room  # type: ignore[method-assign, assignment]
        assert queue.engine.put(1, b"interrupted", True, 5.0)
        assert queue.engine.get_many(9, True, 1.0) == [(2, b"from the handler"), (1, b"interrupted")]
        assert queue.figures().recoveries == 0

    def test_puts_of_a_handler_that_interrupts_puts_at_any_line(self, open_portable: Open) -> None:
        queue = open_portable()
        for line in range(1, 1000):
            reached = at_line(
                line, lambda: queue.engine.put(1, b"outer", True, 5.0), lambda: queue.engine.put(2, b"inner", True, 5.0)
            )
            assert sorted(queue.engine.get_many(9, True, 1.0)) == [(1, b"outer"), (2, b"inner")][: 1 + reached]
            if not reached:
                break
        else:
            pytest.fail("the call never came to its end")
        assert line > 50
        assert queue.figures().recoveries == 0
