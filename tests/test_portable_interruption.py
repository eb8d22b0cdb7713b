"""A call of the portable engine that is interrupted at any line: no item, lease or lock is lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable

import pytest
from portable_lines import at_line
from portable_support import OPEN, Open, kill, lock_held_elsewhere
from support import PATIENCE, python, wait_until

from shmqueue import segment
from shmqueue.exceptions import ShmQueueClosedError, ShmQueueError, ShmQueueNotInitializedError


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
            process.wait(PATIENCE)
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
