"""The end of a process: what was left open is closed, in silence, and nothing waits, or stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, is_asleep, python, run_program, run_python, wait_for_line, wait_until

from shmqueue import ShmQueue
from shmqueue.segment import path_of

pytestmark = pytest.mark.usefixtures("engine")

MODULES = {
    "compat": "from shmqueue.compat import multiprocessing as mp",
    "install": "import shmqueue.compat; shmqueue.compat.install(); import multiprocessing as mp",
}

POOL = """
ctx = mp.get_context(method)
pool = ctx.Pool(2)
assert pool.map(abs, range(-20, 0)) == list(range(20, 0, -1))
report([process.pid for process in pool._pool])
"""

POOL_COLLECTED = """
import gc
ctx = mp.get_context(method)
pools = [ctx.Pool(1)]
pools.append(pools)  # a cycle, which the end of the interpreter takes apart
assert pools[0].apply(abs, [-1]) == 1
report([process.pid for process in pools[0]._pool])
"""

EXECUTOR = """
import concurrent.futures
executor = concurrent.futures.ProcessPoolExecutor(2, mp.get_context(method))
assert list(executor.map(abs, range(-20, 0))) == list(range(20, 0, -1))
report(list(executor._processes))
"""

JOINABLE = """
import children
ctx = mp.get_context(method)
q = ctx.JoinableQueue()
processes = [ctx.Process(target=children.work_off, args=[q], daemon=True) for _ in range(2)]
for process in processes:
    process.start()
for number in range(20):
    q.put(number)
q.join()
report([process.pid for process in processes])
"""

PROGRAMS = {
    "a Pool": POOL,
    "a Pool in a cycle": POOL_COLLECTED,
    "a ProcessPoolExecutor": EXECUTOR,
    "a JoinableQueue and daemon processes": JOINABLE,
}

PROGRAM = """
import os, sys
sys.path.insert(0, os.getcwd())
{module}

def report(pids):
    print(*pids, flush=True)

if __name__ == "__main__":
    method = {method!r}
{body}
"""


def write(path: str, module: str, method: str, body: str) -> None:
    indented = "".join(f"    {line}\n" for line in body.strip().splitlines())
    with open(path, "w", encoding="utf-8") as file:
        file.write(PROGRAM.format(module=MODULES[module], method=method, body=indented))


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie, which it is until the process that adopted it waits for it."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def require_silent_end(path: str) -> None:
    done = subprocess.run(
        [sys.executable, path],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for pid in map(int, done.stdout.split()):
        wait_until(lambda pid=pid: not is_alive(pid), f"the worker {pid} ends")  # type: ignore[misc]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_ends_in_silence_that_leaves_open(tmp_path: Path, what: str, module: str, method: str) -> None:
    path = os.path.join(tmp_path, "program.py")
    write(path, module, method, PROGRAMS[what])
    require_silent_end(path)


LAST = """
import sys, types

class Last:
    def __init__(self, act, q):
        self.act, self.q = act, q
    def __del__(self):
        self.act(self.q)

sys.modules["last"] = types.ModuleType("last")
sys.modules["last"].last = Last(at_the_end, q)
"""


def what_it_says(program: str, directory: Path) -> str:
    """What a program prints whose ``at_the_end`` a finalizer calls with its ``q``, when the modules are cleared."""
    (directory / "program.py").write_text(program + LAST)
    done = run_program("program.py", within=directory)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


FROZEN = """
import os, threading
from shmqueue import ShmQueue
from shmqueue.compat import queue

q = queue.SimpleQueue()
q.fileno()
started = threading.Barrier(5)

def use():
    started.wait()
    while True:
        q.put(1)
        q.get()

def at_the_end(q, write=os.write):
    q.put(2)
    write(1, b"put")
    q.close()
    write(1, b" and closed")

for _ in range(4):
    threading.Thread(target=use, daemon=True).start()
started.wait()
"""


@pytest.mark.parametrize("turn", range(5))
def test_a_finalizer_does_not_wait_for_daemon_threads_that_have_stopped(tmp_path: Path, turn: int) -> None:
    """Those may have stopped with any lock held, of the watched queue and of the engine."""
    assert what_it_says(FROZEN, tmp_path) == "put and closed"


STOPPED = """
import os, threading
from shmqueue.compat import queue

q = queue.SimpleQueue()
q.fileno()
watcher = q._channel._descriptor._watcher
stopped = threading.Event()

class Engine:
    \"\"\"The engine, but that a daemon thread never comes back from its look at it, which is under a lock.\"\"\"
    def __init__(self, engine):
        self.engine = engine
    def __getattr__(self, name):
        return getattr(self.engine, name)
    def wait(self, records, timeout):
        if threading.current_thread().name == "stopped":
            stopped.set()
            while True:
                pass
        return self.engine.wait(records, timeout)

def at_the_end(q, write=os.write):
    q.put(2)
    write(1, b"put")
    q.close()
    write(1, b" and closed")

watcher._engine = Engine(watcher._engine)
threading.Thread(target=watcher.look, daemon=True, name="stopped").start()
stopped.wait()
"""


def test_a_finalizer_does_not_wait_for_the_lock_of_a_daemon_thread(tmp_path: Path) -> None:
    assert what_it_says(STOPPED, tmp_path) == "put and closed"


FROZEN_OWNER = """
import os, threading, time
from shmqueue import ShmQueue

q = ShmQueue("owned")
started = threading.Event()

def own():
    hold = q._engine._lock.hold()
    assert hold.owner.acquire(hold, None, lambda: False)
    started.set()
    while True:
        time.sleep(0.001)

def at_the_end(q, write=os.write):
    q.put("item")
    assert q.get() == "item"
    write(1, b"put and got")

threading.Thread(target=own, daemon=True).start()
started.wait()
"""


def test_a_finalizer_takes_the_portable_lock_from_a_daemon_thread_that_has_stopped(tmp_path: Path, engine: str) -> None:
    if engine == "native":
        pytest.skip("there no thread stops with the lock")
    assert what_it_says(FROZEN_OWNER, tmp_path) == "put and got"


def test_a_queue_that_is_collected_after_the_finalizers_of_weakref_is_closed(name: str) -> None:
    code = """
import atexit, logging, multiprocessing.util, sys
held = []
atexit.register(held.clear)  # runs before the finalizers of multiprocessing, and after those of weakref
from shmqueue import ShmQueue
logging.basicConfig(format="%(message)s", stream=sys.stdout)
held.append(ShmQueue(sys.argv[1]))
held[0].put("an item")
"""
    assert f"queue {name!r} was closed by its last holder with 1 item in it" in run_python(code, name)
    assert not os.path.exists(path_of(name))


@pytest.mark.parametrize(("ending", "stays"), [(signal.SIGINT, False), (signal.SIGTERM, True), (signal.SIGKILL, True)])
def test_the_signal_that_ends_the_last_process_decides_whether_the_queue_stays(
    ending: signal.Signals, stays: bool, name: str
) -> None:
    code = (
        "import sys, time, shmqueue\nq = shmqueue.ShmQueue(sys.argv[1])\nq.put(7)\nprint(flush=True)\ntime.sleep(600)"
    )
    with python(code, name) as process:
        wait_for_line(process, "")
        wait_until(lambda: is_asleep(process.pid), "it sleeps")  # on its way there it could miss a signal
        process.send_signal(ending)
        process.wait(PATIENCE)
    assert os.path.exists(path_of(name)) is stays
    with ShmQueue(name) as queue:
        assert queue.qsize() == stays
        queue.clear()


def test_a_descriptor_can_be_made_when_no_thread_can_be_started_any_more() -> None:
    code = """
import atexit, select
from shmqueue.compat.multiprocessing import Queue
q = Queue()
q.put("an item")

@atexit.register  # from Python 3.12 on
def at_the_end():
    print(len(select.select([q._reader], [], [], 30)[0]), q.get())
"""
    assert run_python(code) == "1 an item\n"
