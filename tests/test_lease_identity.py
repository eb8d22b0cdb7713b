"""Which process has a lease: not the program that follows by exec, nor one that has its id in another namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support import PATIENCE, python, wait_for_line, wait_until

import shmqueue
from shmqueue import ShmQueue

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


BEFORE_EXEC = """
import os, sys
from shmqueue import ShmQueue
q = ShmQueue(sys.argv[1], create=False)
lease = q.lease()
print(lease.item, flush=True)
sys.stdin.readline()
os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], sys.argv[1]])
"""


AFTER_EXEC = """
import sys
from shmqueue import ShmQueue
with ShmQueue(sys.argv[1], create=False) as q:
    lease = q.lease(timeout=30)
    print(lease.item, lease.attempt, flush=True)
    sys.stdin.readline()
    lease.ack()
"""


def test_a_program_gives_back_what_the_one_before_it_in_its_process_had(make: Make, name: str) -> None:
    q = make()
    q.put("first")
    with python(BEFORE_EXEC, name, AFTER_EXEC) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "first\n"
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "first 2\n"
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0.5)  # what the living program has stays in its hands
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.wait(PATIENCE) == 0
    assert q.qsize() == 0
    assert q.statistics().redelivered == 1


SAME_AGAIN = """if True:
    import os, sys
    from shmqueue import ShmQueue
    q = ShmQueue(sys.argv[1], create=False)
    lease = q.lease(timeout=30)
    print(lease.item, lease.attempt, flush=True)
    if lease.attempt == 1:
        os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], *sys.argv[1:]])
    lease.ack()
"""


@pytest.mark.skipif(shutil.which("setarch") is None, reason="there is no setarch")
def test_so_does_the_same_program_where_addresses_are_not_random(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    command = ["setarch", "-R", sys.executable, "-c", SAME_AGAIN, name, SAME_AGAIN]
    done = subprocess.run(
        command, cwd=os.path.dirname(__file__), capture_output=True, text=True, timeout=2 * PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, "job 1\njob 2\n"), done.stderr
    assert q.unfinished_tasks == 0


EXECUTE = """if True:
    import os, sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    lease = q.lease()
    print("holds", flush=True)
    sys.stdin.readline()
    os.execvp("cat", ["cat"])
"""


def test_a_program_that_follows_by_exec_and_has_no_queue_holds_nothing(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    with python(EXECUTE, name) as holder:
        wait_for_line(holder, "holds")
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0.5)  # it has the queue still
        assert holder.stdin is not None
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert q.lease(timeout=PATIENCE).attempt == 2
        assert holder.poll() is None


def in_a_pid_namespace(*command: object, sees_its_own: bool) -> str:
    """What a program prints that runs in a pid namespace of its own, with that one's /proc or with ours."""
    return in_a_namespace("-p", *(["--mount-proc"] if sees_its_own else []), command=command)


def in_a_namespace(*options: str, command: Sequence[object]) -> str:
    rights = [] if os.geteuid() == 0 else ["-r"]
    unshare = ["unshare", *rights, *options, "-f"]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True, timeout=PATIENCE)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"such a namespace cannot be made: {error}")
    done = subprocess.run(
        [*unshare, sys.executable, *map(str, command)],
        cwd=os.path.dirname(__file__),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_look_from_another_pid_namespace_takes_no_lease(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    lease = q.lease()
    program = "import sys; from shmqueue.cli.inspection import look_at; print(look_at(sys.argv[1]).counters.put_count)"
    assert in_a_pid_namespace("-c", program, name, sees_its_own=True) == "1\n"
    assert q.qsize() == 0
    assert lease.ack()


BESIDE = """if True:
    import os, sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    q.put("job")
    ended, end = os.pipe()
    held, hold = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end)
        lease = q.lease()
        os.write(hold, b"h")
        os.read(ended, 1)
        os._exit(0 if lease.ack() else 1)
    os.read(held, 1)
    try:
        print(q.get(timeout=0.5))
    except shmqueue.ShmQueueEmpty:
        print("nothing")
    os.close(end)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("sees_its_own", [True, False])
def test_a_living_process_keeps_its_items_in_a_pid_namespace(name: str, sees_its_own: bool) -> None:
    assert in_a_pid_namespace("-c", BESIDE, name, sees_its_own=sees_its_own) == "nothing\n0\n"


KILLED = """if True:
    import os, signal, sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    q.put("job")
    held, hold = os.pipe()
    while True:  # until it has an id that another process outside has, too, as most of the kernel's first ones
        child = os.fork()
        if child == 0:
            if os.getpid() < 10:
                os._exit(0)
            lease = q.lease()
            os.write(hold, b"h")
            signal.pause()
        if child >= 10:
            break
        os.waitpid(child, 0)
    os.read(held, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(q.get(timeout=10))
"""


@pytest.mark.parametrize("sees_its_own", [True, False])
def test_a_killed_process_holds_nothing_in_a_pid_namespace(name: str, sees_its_own: bool) -> None:
    assert in_a_pid_namespace("-c", KILLED, name, sees_its_own=sees_its_own) == "job\n"


TAKE = """if True:
    import os, sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    print(q.get(timeout=10), flush=True)
    try:
        print(q.get(timeout=0.5), flush=True)
    except shmqueue.ShmQueueEmpty:
        print("nothing", flush=True)
    q.put("from there")
    lease = q.lease()
    print(lease.item, flush=True)
    sys.stdin.read()
    print(lease.ack(), flush=True)
"""


def test_living_processes_keep_their_items_where_time_namespaces_differ(make: Make, name: str) -> None:
    shifted = ["-T", "--boottime", "100000"]
    in_a_namespace(*shifted, command=("-c", ""))
    q = make()
    q.put("job")
    lease = q.lease()
    q.put("another")
    rights = [] if os.geteuid() == 0 else ["-r"]
    with subprocess.Popen(
        ["unshare", *rights, *shifted, "-f", sys.executable, "-c", TAKE, name],
        cwd=os.path.dirname(__file__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as there:
        assert there.stdin is not None
        assert there.stdout is not None
        try:
            assert [there.stdout.readline() for _ in range(3)] == ["another\n", "nothing\n", "from there\n"]
            with pytest.raises(shmqueue.ShmQueueEmpty):
                q.get(timeout=0.5)
            there.stdin.close()
            assert there.stdout.readline() == "True\n"
        finally:
            there.kill()
    assert lease.ack()


LIVES_ON = """if True:
    import ctypes, sys, threading, time, shmqueue
    def hold():
        q = shmqueue.ShmQueue(sys.argv[1])
        lease = q.lease()
        print("holds", flush=True)
        while True:
            time.sleep(60)
    threading.Thread(target=hold).start()
    ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_lives_on_when_its_first_thread_ends(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    with python(LIVES_ON, name) as holder:
        wait_for_line(holder, "holds")

        def state() -> str:
            return Path(f"/proc/{holder.pid}/stat").read_text().rpartition(")")[2].split()[0]

        wait_until(lambda: state() == "Z", "the first thread has ended")
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0.5)
        holder.kill()
        assert q.get(timeout=PATIENCE) == "job"
