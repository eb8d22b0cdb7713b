"""The file beside a portable segment that its lock needs: nothing is left of it, whatever ends and however."""

from __future__ import annotations

import os
import threading

import pytest
from portable_support import Open, kill, left_of, lock_held_elsewhere
from support import python

from shmqueue import segment


class TestLeftovers:
    def test_all_holders_killed_leaves_nothing_after_a_sweep(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        uuids = {queue.segment.header.uuid.hex()}
        with lock_held_elsewhere(name) as process:
            queue.close()
            kill(process)
        assert len(left_of(uuids)) == 1
        assert name in segment.sweep_orphans()
        assert left_of(uuids) == []

    def test_a_stray_sidecar_goes_unless_it_is_owned(self, open_portable: Open, name: str) -> None:
        queue = open_portable()
        uuids = {queue.segment.header.uuid.hex()}
        with lock_held_elsewhere(name) as process:
            queue.segment.unlink()
            queue.close()
            assert len(left_of(uuids)) == 1
            segment.sweep_orphans()
            assert len(left_of(uuids)) == 1, "swept a lock that is owned"
            kill(process)
        segment.sweep_orphans()
        assert left_of(uuids) == []

    def test_the_last_holder_of_an_unlinked_queue_removes_its_sidecar(self, open_portable: Open) -> None:
        queue = open_portable()
        queue.segment.unlink()
        assert queue.engine.put(1, b"x", True, None)
        assert len(left_of({queue.segment.header.uuid.hex()})) == 1

    @pytest.mark.parametrize("how", ["its remover was killed", "a stranger removed it"])
    def test_a_sidecar_that_is_none_any_more_keeps_nobody_out_or_in(self, open_portable: Open, how: str) -> None:
        queue, other = open_portable(), open_portable()
        queue.engine.put(1, b"x", True, None)
        path = segment.sidecar.sidecar_of(queue.segment)
        before = os.stat(path)
        if how == "a stranger removed it":
            os.unlink(path)
        else:
            os.truncate(path, 1)
        assert other.engine.get(True, 1.0) == (1, b"x")
        assert os.stat(path).st_ino != before.st_ino or os.stat(path).st_ctime_ns != before.st_ctime_ns
        assert os.stat(path).st_size == 0
        queue.engine.put(2, b"y", True, None)
        assert other.engine.get(True, 1.0) == (2, b"y")

    def test_a_remover_that_is_killed_half_way_leaves_nothing(self, open_portable: Open) -> None:
        queue = open_portable()
        queue.engine.put(1, b"x", True, None)
        os.truncate(segment.sidecar.sidecar_of(queue.segment), 1)
        queue.close()
        assert left_of({queue.segment.header.uuid.hex()}) == []

    def test_sidecars_in_use_are_not_swept(self, open_portable: Open) -> None:
        queue = open_portable()
        queue.engine.put(1, b"x", True, None)
        before = os.stat(segment.sidecar.sidecar_of(queue.segment)).st_ino
        segment.sweep_orphans()
        assert os.stat(segment.sidecar.sidecar_of(queue.segment)).st_ino == before

    def test_a_handle_closes_its_descriptors_whatever_else_refers_to_them(self, open_portable: Open) -> None:
        """Without a GIL the last reference may go with a collection only."""
        queue = open_portable()
        owners = []

        def put() -> None:
            queue.engine.put(1, b"item", True, None)
            owners.append(queue.engine._lock.owner())

        thread = threading.Thread(target=put)
        thread.start()
        thread.join()
        put()
        assert [len(owner._opened) for owner in owners] == [1, 1]
        queue.close()
        assert [len(owner._opened) for owner in owners] == [0, 0]

    def test_a_handle_that_is_closed_leaves_another_one_its_descriptor(self, open_portable: Open) -> None:
        first, second = open_portable(), open_portable()
        assert first.engine._lock.owner() is second.engine._lock.owner()
        first.engine.put(1, b"item", True, None)
        second.engine.put(1, b"item", True, None)
        (descriptor,) = second.engine._lock.owner()._opened
        first.close()
        assert list(second.engine._lock.owner()._opened) == [descriptor]
        assert descriptor.number >= 0

    def test_a_strict_umask_does_not_lock_others_out(self, open_portable: Open) -> None:
        old = os.umask(0o777)
        try:
            queue = open_portable()
            queue.engine.put(1, b"x", True, None)
        finally:
            os.umask(old)
        assert os.stat(segment.sidecar.sidecar_of(queue.segment)).st_mode & 0o777 == 0o600


AT_THE_END = """
import atexit, sys, threading
begin, end = threading.Event(), threading.Event()
atexit.register(lambda: (begin.set(), end.wait(0.5)))  # called when the package has given its queues up
import shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
def use():
    q.put(2)
    q.get()
"""

A_DAEMON_THREAD = """
def late():
    begin.wait()
    use()
    end.set()
threading.Thread(target=late, daemon=True).start()
"""

A_DAEMON_THREAD_UNDER_THE_LOCK = """
engine = q._engine
def late(state, hold):
    inside.set()
    begin.wait()
    return None, True, b""
inside = threading.Event()
threading.Thread(target=lambda: (engine._locked(late, None), end.set()), daemon=True).start()
inside.wait()
"""

A_DAEMON_THREAD_THAT_OPENS_THE_SIDECAR = """
from shmqueue.segment import sidecar
sidecar.remove_sidecar(sidecar.sidecar_of(q._segment))  # which root has open_portable already
make, opening = sidecar._make_sidecar, threading.Event()
def make_slowly(path):
    opening.set()
    late = begin.wait(0.3)
    make(path)
    if late:
        threading.Event().wait()
sidecar._make_sidecar = make_slowly
threading.Thread(target=lambda: (use(), end.set()), daemon=True).start()
opening.wait()
"""

THE_MAIN_THREAD = """
begin.set = use
end.set()
"""


class TestEndOfProcess:
    @pytest.mark.parametrize(
        "program",
        [
            pytest.param(A_DAEMON_THREAD, id="daemon thread, first use"),
            pytest.param("use()" + A_DAEMON_THREAD, id="daemon thread"),
            pytest.param(A_DAEMON_THREAD_UNDER_THE_LOCK, id="daemon thread under the lock"),
            pytest.param(A_DAEMON_THREAD_THAT_OPENS_THE_SIDECAR, id="daemon thread that opens the sidecar"),
            pytest.param(THE_MAIN_THREAD, id="main thread, first use"),
            pytest.param("use()" + THE_MAIN_THREAD, id="main thread"),
        ],
    )
    def test_who_still_uses_the_queue_leaves_no_sidecar(
        self, name: str, program: str, segment_directory: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
        with python(AT_THE_END + program, name) as process:
            output, errors = process.communicate(timeout=20.0)
        assert output == ""
        assert all("was closed by its last holder with" in line for line in errors.splitlines())
        assert process.returncode == 0
        assert os.listdir(segment_directory) == []


class TestWithoutSidecars:
    def test_shmlock_alone_excludes(self, open_portable: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segment.sidecar, "HAS_SIDECARS", False)
        queue = open_portable()
        other = open_portable()
        threads = [
            threading.Thread(target=lambda engine=handle.engine: [engine.put(1, b"x", True, None) for _ in range(20)])
            for handle in (queue, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert queue.engine.qsize() == 40
        assert not os.path.exists(segment.sidecar.sidecar_of(queue.segment))
