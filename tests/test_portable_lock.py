"""The portable engine's lock: no death of its owner wedges the others, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from portable_lines import at_line
from portable_support import OPEN, Open, Opened, kill, lock_held_elsewhere
from safety.busy import at_least
from support import PATIENCE, exit_status, in_child, python, run_python, wait_until

from shmqueue import segment
from shmqueue.exceptions import (
    ShmQueueClosedError,
    ShmQueueCorruptedError,
    ShmQueueError,
    ShmQueueFull,
    ShmQueueNotInitializedError,
)

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
            waiter.join(5.0)
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


class TestFork:
    def test_parent_and_child_both_go_on(self, open_portable: Open) -> None:
        queue = open_portable()
        queue.engine.put(1, b"parent", True, None)

        def use() -> None:
            for _ in range(200):
                assert queue.engine.put(2, b"child", True, 5.0)
                assert queue.engine.get(True, 5.0) is not None
            queue.close()

        pid = in_child(use)
        for _ in range(200):
            assert queue.engine.put(3, b"parent", True, 5.0)
            assert queue.engine.get(True, 5.0) is not None
        assert exit_status(pid) == 0
        assert queue.engine.qsize() == 1

    def test_a_child_forked_while_another_thread_owns_the_lock_waits_for_it(self, open_portable: Open) -> None:
        queue = open_portable()
        owned, may_go = threading.Event(), threading.Event()

        def hold(state: object, hold: object) -> tuple[None, None, bytes]:
            owned.set()
            may_go.wait(20)
            return None, None, b""

        holder = threading.Thread(target=queue.engine._locked, args=(hold, None))
        holder.start()
        assert owned.wait(20)

        def use() -> None:
            with pytest.raises(ShmQueueFull, match="lock was not released in time"):
                queue.engine.put(2, b"too early", True, 0.02)
            os.write(write_end, b".")
            assert queue.engine.put(2, b"child", True, 20.0)
            queue.close()

        read_end, write_end = os.pipe()
        pid = in_child(use)
        assert os.read(read_end, 1) == b"."
        may_go.set()
        holder.join()
        assert exit_status(pid) == 0
        os.close(read_end)
        os.close(write_end)
        assert queue.engine.get(True, 1.0) == (2, b"child")
        assert queue.figures().recoveries == 0

    def test_a_child_does_not_keep_its_dead_parents_lock(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        code = (
            OPEN
            + """
import threading
owned = threading.Event()
def hold(state, hold):
    owned.set()
    time.sleep(100)
threading.Thread(target=e._locked, args=(hold, None), daemon=True).start()
owned.wait()
read_end, write_end = os.pipe()
pid = os.fork()
if pid == 0:
    os.write(write_end, b".")
    time.sleep(100)
os.read(read_end, 1)
print(pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
        )
        with python(code, name) as process:
            assert process.stdout is not None
            child = int(process.stdout.readline())
            try:
                process.wait()
                assert queue.engine.put(7, b"x", True, 5.0)
            finally:
                os.kill(child, signal.SIGKILL)
            wait_until(lambda: len(queue.segment.holders()) == 1, "the child is gone")
        assert queue.figures().recoveries == 1

    def test_a_child_counts_as_a_holder_once_and_in_its_own_name(self, open_portable: Open) -> None:
        queue, other = open_portable(), open_portable()
        read_end, write_end = os.pipe()
        pid = in_child(lambda: os.read(read_end, 1))
        queue.close()
        try:  # what the child inherited counts as its own, not as its parent's
            expected = sorted([os.getpid(), pid, pid])
            wait_until(lambda: other.segment.holders() == expected, "one holder here, two in the child")
        finally:
            os.write(write_end, b".")
            assert exit_status(pid) == 0
            os.close(read_end)
            os.close(write_end)

    def test_after_a_fork_in_the_middle_of_a_put_both_have_put(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        code = (
            OPEN
            + """
looks = []
def room(state):
    looks.append(1)
    if len(looks) == 2:  # the first look is without the lock, the second with it
        looks.append(os.fork())
    return True
e._room_for = lambda data, count: room
assert e.put(7, b"x", True, 5.0)
if 0 not in looks:
    assert os.waitstatus_to_exitcode(os.waitpid(looks[2], 0)[1]) == 0
"""
        )
        assert run_python(code, name) == ""
        assert queue.engine.get_many(3, True, 1.0) == [(7, b"x")] * 2
        assert queue.figures().recoveries == 0

    def test_a_child_that_forgets_the_queue_says_nothing(self, open_portable: Open, name: str) -> None:
        open_portable()
        code = (
            OPEN
            + """
e.put(1, b"x", True, None)
pid = os.fork()
if pid:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""
        )
        with python(code, name) as process:
            assert process.communicate(timeout=30) == ("", "")


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


class TestInterruption:
    def test_an_exception_at_any_line_leaves_the_queue_usable_and_no_item_lost(self, open_portable: Open) -> None:
        queue = open_portable(capacity=64)
        records: list[tuple[int, bytes] | None] = []
        lost = []

        def interrupt() -> None:
            raise KeyboardInterrupt

        for line in range(1, 1000):
            expected = (line % 7, str(line).encode())
            assert queue.engine.put(*expected, True, 1.0)
            records.clear()
            try:
                reached = at_line(line, lambda: records.append(queue.engine.get(True, 1.0)), interrupt)
            except KeyboardInterrupt:
                reached = True
                records.append(queue.engine.get(False, None))
            if records == [None]:
                lost.append(line)
            else:
                assert records == [expected]
            if not reached:
                break
        else:
            pytest.fail("the call never came to its end")
        assert line > 50
        assert lost == [] or lost[0] >= line - 15, "an item was lost before the lock was released"
        assert queue.figures().recoveries == 0

    def test_an_exception_at_any_line_leaves_no_lease_that_nobody_has(
        self, open_portable: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue, other = open_portable(), open_portable()
        monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)  # what is raised in a finalizer
        has_raised = False

        def interrupt() -> None:
            nonlocal has_raised
            has_raised = True
            raise KeyboardInterrupt

        def lease() -> None:
            loan = queue.engine.lend(True, 1.0, False)
            assert loan is not None
            loan.give_back()
            del loan
            loan = queue.engine.lend(True, 1.0, False)
            del loan  # which gives it back

        for line in range(1, 2000):
            expected = (line % 7, str(line).encode())
            assert queue.engine.put(*expected, True, 1.0)
            has_raised = False
            try:
                at_line(line, lease, interrupt)
            except KeyboardInterrupt:
                pass
            assert not queue.engine.wait(False, 0)  # any call that may wait
            assert other.engine.get(False, None) == expected
            assert other.engine.lease_figures()[:2] == (0, 0)
            if not has_raised:
                break
        else:
            pytest.fail("the calls never came to their end")
        assert line > 200
        assert not queue.engine.lent
        assert not queue.engine.lost

    def test_a_finalizer_that_is_interrupted_before_its_first_line(
        self, open_portable: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = open_portable()
        assert queue.engine.put(1, b"x", True, 1.0)

        def interrupted(loan: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
        with monkeypatch.context() as patch:
            patch.setattr("shmqueue.engine.portable_loan.PortableLoan.__del__", interrupted)
            loan = queue.engine.lend(True, 1.0, False)
            del loan
        assert queue.engine.get(False, None) == (1, b"x")

    def test_a_signal_handler_that_closes_at_any_line_of_a_lease_leaves_none(self, open_portable: Open) -> None:
        other = open_portable()
        assert other.engine.put(1, b"x", True, 1.0)
        for line in range(1, 1000):
            queue = open_portable()
            loans = []
            try:
                reached = at_line(line, lambda: loans.append(queue.engine.lend(True, 1.0, False)), queue.close)  # noqa: B023
            except ShmQueueError:
                reached = True
            assert other.engine.lease_figures()[0] == (not reached)
            assert queue.engine._memory.closed == reached
            if not reached:
                queue.close()
                break
        else:
            pytest.fail("the call never came to its end")
        assert line > 100

    def test_an_exception_at_any_line_of_close_leaves_no_lease(self, open_portable: Open) -> None:
        other = open_portable()
        assert other.engine.put(1, b"x", True, 1.0)

        def interrupt() -> None:
            raise KeyboardInterrupt

        for line in range(1, 1000):
            queue = open_portable()
            loan = queue.engine.lend(True, 1.0, False)
            assert loan is not None
            try:
                reached = at_line(line, queue.engine.close, interrupt)
            except KeyboardInterrupt:
                reached = True
            queue.close()
            assert other.engine.lease_figures()[0] == 0
            assert queue.engine._memory.closed
            if not reached:
                break
        else:
            pytest.fail("the call never came to its end")
        assert line > 100

    def test_ctrl_c_ends_a_waiting_get_at_once(self, name: str, open_portable: Open) -> None:
        queue = open_portable()
        with python(OPEN + "print('ready', flush=True)\ne.get(True, None)", name) as process:
            assert process.stdout is not None
            process.stdout.readline()
            wait_until(lambda: queue.figures().getters_waiting, "the getter sleeps")
            process.send_signal(signal.SIGINT)
            process.wait(5.0)
            assert process.returncode not in (0, None)
        assert queue.engine.put(1, b"x", True, 1.0)

    def test_close_ends_calls_that_wait_in_other_threads(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        with lock_held_elsewhere(name) as process:
            ends: list[type[BaseException]] = []

            def call(action: Callable[[], object]) -> None:
                try:
                    action()
                except BaseException as error:
                    ends.append(type(error))

            actions = [lambda: queue.engine.get(True, None), lambda: queue.engine.put(1, b"x", True, None)]
            threads = [threading.Thread(target=call, args=(action,)) for action in actions]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(queue.engine._calls) == 2, "both calls wait")
            queue.close()
            for thread in threads:
                thread.join()
            assert ends == [ShmQueueClosedError] * 2
            kill(process)
        segment.sweep_orphans()

    def test_close_in_a_signal_handler_that_interrupts_a_get(self, open_portable: Open) -> None:
        queue = open_portable()
        before = signal.signal(signal.SIGUSR1, lambda *_: queue.close())
        try:
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1))
            timer.start()
            with pytest.raises(ShmQueueNotInitializedError):
                queue.engine.get(True, None)
            timer.join()
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert queue.engine._memory.closed


class TestDamage:
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
