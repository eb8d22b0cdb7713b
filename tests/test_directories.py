"""Where the segments of queues are: a relative directory, one that is gone, and what cannot be one.

The error names the directory and SHMQUEUE_DIR.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE

import shmqueue
import shmqueue.compat.queue
from shmqueue import ShmQueue, segment

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def relative(segment_directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """``SHMQUEUE_DIR`` is relative, and the working directory is the one that makes it the test's own."""
    parent, base = os.path.split(segment_directory)
    monkeypatch.chdir(parent)
    monkeypatch.setenv("SHMQUEUE_DIR", base)
    return segment_directory


class TestRelative:
    def test_a_queue_stays_where_it_was_opened(self, relative: str, name: str, tmp_path: Path) -> None:
        q = ShmQueue(name, buffer_size=4096, max_bytes=1 << 22)
        q.put("before")
        os.chdir(tmp_path)
        q.put(b"x" * 100_000)  # grows, and in the portable engine opens a sidecar in another thread
        assert (q.get(), len(q.get())) == ("before", 100_000)
        assert q.refs == 1
        copy = pickle.loads(pickle.dumps(q))
        copy.put("through the copy")
        assert q.get() == "through the copy"
        copy.shutdown()
        q.shutdown()
        assert os.listdir(relative) == []
        assert os.listdir(tmp_path) == []

    def test_a_forked_child_and_another_thread_find_it(self, relative: str, make: Make, tmp_path: Path) -> None:
        q = make(buffer_size=4096, max_bytes=1 << 22)
        os.chdir(tmp_path)
        pid = os.fork()
        if pid == 0:
            try:
                q.put("from the child")
                q.shutdown()
                os._exit(0)
            finally:
                os._exit(1)
        assert q.get(timeout=PATIENCE) == "from the child"
        assert os.waitpid(pid, 0)[1] == 0

    def test_unlink_and_the_sweep_of_leftovers_go_to_the_right_place(
        self, relative: str, make: Make, name: str, tmp_path: Path
    ) -> None:
        q = make()
        os.chdir(tmp_path)
        q.unlink()
        assert segment.path_of(name) != q._segment.path
        assert not os.path.exists(q._segment.path)
        q.put("still there")
        assert q.get() == "still there"

    def test_children_of_every_method_get_it(self, relative: str, make: Make, tmp_path: Path) -> None:
        os.chdir(tmp_path)
        os.environ["SHMQUEUE_DIR"] = os.path.relpath(relative)
        code = """
import os, sys
from support import answer
import shmqueue
from shmqueue.compat import multiprocessing as mp
if __name__ == "__main__":
    q, answers = shmqueue.ShmQueue(sys.argv[1] + "q"), shmqueue.ShmQueue(sys.argv[1] + "a")
    os.chdir("/")
    for method in ("fork", "spawn", "forkserver"):
        child = mp.get_context(method).Process(target=answer, args=(q, answers))
        child.start()
        q.put(method)
        print(*answers.get())
        q.put(None)
        child.join()
"""
        file = tmp_path / "program.py"
        file.write_text(code)
        ran = subprocess.run(
            [sys.executable, str(file), "relative"],
            env={**os.environ, "PYTHONPATH": os.path.dirname(__file__)},
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
        )
        assert ran.stdout.split() == [
            word for method in ("fork", "spawn", "forkserver") for word in (method, method * 2)
        ], ran

    def test_a_working_directory_that_is_gone_is_told(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = tmp_path / "gone"
        gone.mkdir()
        monkeypatch.chdir(gone)
        gone.rmdir()
        monkeypatch.setenv("SHMQUEUE_DIR", "queues")
        with pytest.raises(shmqueue.ShmQueueRefusedError, match=r"SHMQUEUE_DIR.*'queues'"):
            ShmQueue(name)
        assert "SHMQUEUE_DIR" in str(segment.probe_directory().problem)


# ---- no place for a queue ----


def no_such_directory(place: Path) -> Path:
    return place / "missing"


def a_file(place: Path) -> Path:
    (place / "file").write_text("")
    return place / "file"


def below_a_file(place: Path) -> Path:
    return a_file(place) / "queues"


@pytest.mark.parametrize("place", [no_such_directory, a_file, below_a_file])
@pytest.mark.parametrize("options", [{}, {"buffer_size": 4096}, {"max_bytes": 0}, {"create": True}])
def test_where_no_file_can_be_made_the_error_names_the_directory_and_the_variable(
    place: Callable[[Path], Path], options: dict[str, Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = str(place(tmp_path))
    monkeypatch.setenv("SHMQUEUE_DIR", directory)
    with pytest.raises(shmqueue.ShmQueueRefusedError) as caught:
        ShmQueue(name, **options)
    assert directory in str(caught.value)
    assert "SHMQUEUE_DIR" in str(caught.value)
    with pytest.raises(shmqueue.ShmQueueError, match="SHMQUEUE_DIR"):
        shmqueue.compat.queue.Queue()
    probe = segment.probe_directory()
    assert directory in str(probe.problem)
    assert not probe.locks
