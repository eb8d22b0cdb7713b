"""A program that closes descriptors which it did not open, as daemons do, loses no item, and no file of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import run_python

from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")

CLOSE_AND_LOG = """
import os, sys
from shmqueue import ShmQueue

name, directory = sys.argv[1:3]

def close_all_and_open_logs():
    os.closerange(3, 256)
    return [open(os.path.join(directory, f"{os.getpid()}-{number}.log"), "w+b", buffering=0) for number in range(12)]

def require_intact(logs):
    for log in logs:
        assert log.seek(0, os.SEEK_END) == 0, "something was written into it"
        log.write(b"logged")
        log.seek(0)
        assert log.read() == b"logged"

q = ShmQueue(name, max_bytes=1 << 24)
"""


def run(code: str, name: str, tmp_path: Path) -> str:
    return run_python(CLOSE_AND_LOG + code, name, tmp_path)


def test_closing_a_queue_closes_nobody_elses_file(name: str, tmp_path: Path) -> None:
    run("q.put(1); logs = close_all_and_open_logs(); q.shutdown(); require_intact(logs)", name, tmp_path)


def test_the_end_of_the_process_closes_nobody_elses_file(name: str, tmp_path: Path) -> None:
    code = """
import atexit
q.put(1)
logs = close_all_and_open_logs()
atexit.register(require_intact, logs)
"""
    run(code, name, tmp_path)


def test_it_goes_on_and_loses_no_item(make: Make, name: str, tmp_path: Path) -> None:
    q = make(max_bytes=1 << 24)
    code = """
q.put("before")
logs = close_all_and_open_logs()
for number in range(100):
    q.put((number, bytes(20_000)))
assert q.get() == "before"
assert q.refs == 2
require_intact(logs)
"""
    run(code, name, tmp_path)
    assert [q.get(False)[0] for _ in range(100)] == list(range(100))
    assert q.empty()
    assert q.refs == 1


def test_it_still_is_a_holder(name: str, tmp_path: Path) -> None:
    code = """
import subprocess
q.put("kept")
logs = close_all_and_open_logs()
code = "import sys; from shmqueue import ShmQueue; q = ShmQueue(sys.argv[1]); q.put('another'); q.shutdown()"
subprocess.run([sys.executable, "-c", code, name], check=True)
assert [q.get(False), q.get(False)] == ["kept", "another"]
assert ShmQueue(name, create=False).refs == 2
require_intact(logs)
"""
    run(code, name, tmp_path)


def test_a_forked_child_goes_on_too(name: str, tmp_path: Path) -> None:
    code = """
logs = close_all_and_open_logs()
child = os.fork()
if child == 0:
    q.put("from the child")
    assert q.refs == 2
    require_intact(logs)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert q.get(False) == "from the child"
assert q.refs == 1
"""
    run(code, name, tmp_path)


def test_a_daemon_goes_on_when_its_parents_have_ended(make: Make, name: str, tmp_path: Path) -> None:
    """Fork, a new session, fork again, close all: each parent ends at once."""
    answers = make(f"{name}-answers")
    code = """
answers = ShmQueue(f"{name}-answers", create=False)
q.put("before")
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid() if os.getsid(0) != os.getpid() else None
logs = close_all_and_open_logs()
while os.getppid() != 1 and q.refs != 1:
    pass
for number in range(100):
    q.put((number, bytes(20_000)))
answers.put(q.get())
ShmQueue(name, create=False).put("opened again")
q.shutdown()
require_intact(logs)
with ShmQueue(name) as again:
    answers.put(again.qsize())
"""
    run(code, name, tmp_path)
    assert answers.get(timeout=30) == "before"
    assert answers.get(timeout=30) == 0  # the last one has closed it


def test_a_handle_that_was_opened_since_keeps_its_descriptor(name: str, tmp_path: Path) -> None:
    """The new one has the old one's number, and is open on the same file."""
    code = """
import gc
q.put("one")
os.closerange(3, 256)
again = ShmQueue(name)
number = again._segment.fileno()
q.shutdown()
del q
gc.collect()
assert again._segment.fileno() == number
os.fstat(number)
assert again.refs == 1
assert again.get(False) == "one"
"""
    run(code, name, tmp_path)


def test_two_processes_never_own_one_lock(make: Make, name: str, tmp_path: Path) -> None:
    """Empty files at the numbers of what was locked are no locks."""
    q = make(max_bytes=1 << 24)
    code = """
import threading
q.put(-1)
children = [os.fork() for _ in range(1)]
logs = close_all_and_open_logs()
me = 0 if children[0] == 0 else 1

def put(thread):
    for number in range(500):
        q.put((me, thread, number))

threads = [threading.Thread(target=put, args=[thread]) for thread in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
require_intact(logs)
if me == 0:
    sys.exit()
assert os.waitpid(children[0], 0)[1] == 0
"""
    run(code, name, tmp_path)
    assert q.get(False) == -1
    items = [q.get(False) for _ in range(2000)]
    assert sorted(items) == [(me, thread, number) for me in range(2) for thread in range(2) for number in range(500)]
    for me in range(2):
        for thread in range(2):
            assert [item[2] for item in items if item[:2] == (me, thread)] == list(range(500))


def test_a_watched_queue_writes_into_nobody_elses_file(name: str, tmp_path: Path) -> None:
    code = """
import select
from shmqueue.compat import queue
q = queue.Queue(name=name + "-watched")
before = q.fileno()
logs = close_all_and_open_logs()
q.put(1)
assert select.select([q.fileno()], [], [], 30)[0]
assert q.get() == 1
assert not select.select([q.fileno()], [], [], 0)[0]
q.close()
require_intact(logs)
"""
    run(code, name, tmp_path)


def test_what_needs_the_file_says_that_it_is_out_of_reach(name: str, tmp_path: Path) -> None:
    """Nothing leads back to a file without a descriptor and without a name. What needs neither goes on."""
    code = """
from shmqueue import ShmQueueError, ShmQueueFull
q.put("small")
q.unlink()
logs = close_all_and_open_logs()
assert q.get() == "small"
try:
    q.put(bytes(1 << 23))
except ShmQueueFull:
    raise
except ShmQueueError as error:
    assert "closed descriptors" in str(error), error
else:
    raise AssertionError("it has grown")
require_intact(logs)
"""
    run(code, name, tmp_path)


def test_the_portable_engine_does_without_help_of_the_native_one(
    monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    """Where there is no compiled module the lock is taken again at the next call."""
    if os.environ["SHMQUEUE_ENGINE"] == "native":
        pytest.skip("it is the portable engine's")
    code = """
from shmqueue import engine
q.put("one")
q.shutdown()
engine._native = None
q = ShmQueue(name, max_bytes=1 << 24)
q.put("one")
logs = close_all_and_open_logs()
assert q.get() == "one"
q.put("two")
assert q.refs == 1
require_intact(logs)
"""
    run(code, name, tmp_path)
