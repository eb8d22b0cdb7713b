"""A process that forks while it uses a portable queue: both go on, and neither keeps the other's lock."""

from __future__ import annotations

import os
import signal
import threading

import pytest
from portable_support import OPEN, Open
from support import exit_status, in_child, python, run_python, wait_until

from shmqueue.exceptions import ShmQueueFull


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
