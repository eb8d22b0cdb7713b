"""What a holder had comes back when it ends: a handle that is closed, a process that ends, execs or is killed."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support import PATIENCE, Call, asleep, milliseconds_not_running, python, wait_for_line, wait_until

import shmqueue
from shmqueue import ShmQueue
from shmqueue.segment import path_of

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(params=[{"buffer_size": 1 << 16}, {"max_bytes": 1 << 24}], ids=["fixed", "elastic"])
def q(make: Make, request: pytest.FixtureRequest) -> ShmQueue:
    return make(**request.param)


def test_a_handle_that_is_closed_gives_its_items_back(make: Make) -> None:
    q, other = make(), make()
    for number in range(3):
        q.put(number)
    leases = [q.lease() for _ in range(2)]
    q.close()
    assert not any(lease.is_held for lease in leases)
    with pytest.raises(shmqueue.ShmQueueNotInitializedError):
        leases[0].ack()
    assert [other.get(block=False) for _ in range(3)] == [0, 1, 2]


def test_all_that_a_closed_handle_had_comes_back_in_its_order(make: Make) -> None:
    other, q = make(max_bytes=1 << 24), make()
    other.put_many(range(200))
    leases = [q.lease() for _ in range(200)]
    leases[7].ack()
    q.close()
    assert [other.get(timeout=0) for _ in range(199)] == [*range(7), *range(8, 200)]
    assert other.empty()


def test_what_a_handle_had_that_is_closed_after_an_immediate_shutdown_is_dropped(make: Make) -> None:
    other, q = make(), make()
    other.put_many(range(5))
    leases = [q.lease() for _ in range(5)]
    leases[1].ack()
    other.shutdown_all(immediate=True)
    assert other.unfinished_tasks == 4
    q.close()
    assert other.unfinished_tasks == 0
    assert other.statistics().used_bytes == 0


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


HOLD = """if True:
    import sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    leases = [q.lease() for _ in range(int(sys.argv[2]))]
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_had_goes_to_others_in_order(make: Make, name: str) -> None:
    q = make()
    for number in range(4):
        q.put(number)
    with python(HOLD, name, 3) as holder:
        wait_for_line(holder, "holds")
        assert q.get() == 3
        waiting = [asleep(Call(q.get)) for _ in range(2)]
        holder.send_signal(signal.SIGKILL)
        assert {call.result() for call in waiting} == {0, 1}
        assert q.get(timeout=PATIENCE) == 2


def test_a_getter_with_a_backlog_takes_what_a_killed_process_had_first(make: Make, name: str) -> None:
    q = make()
    for number in range(2000):
        q.put(number)
    with python(HOLD, name, 2) as holder:
        wait_for_line(holder, "holds")
        holder.kill()
        holder.wait(PATIENCE)
    taken: list[int] = []
    wait_until(lambda: taken.append(q.get(timeout=PATIENCE)) or taken[-1] == 0, "the oldest item comes")  # type: ignore[func-returns-value]
    assert not q.empty()
    assert taken == [*range(2, len(taken) + 1), 0]
    assert [q.get(timeout=PATIENCE) for _ in range(2)] == [1, len(taken) + 1]


@pytest.mark.parametrize("look", ["qsize", "empty", "statistics", "counters"])
def test_what_a_killed_process_had_counts_without_a_getter(make: Make, name: str, look: str) -> None:
    q = make()
    for number in range(3):
        q.put(number)
    with python(HOLD, name, 2) as holder:
        wait_for_line(holder, "holds")
        assert (q.qsize(), q.statistics().leased) == (1, 2)
        holder.kill()
        holder.wait(PATIENCE)
    looks = {
        "qsize": lambda: q.qsize() == 3,
        "empty": lambda: q.get_nowait() in range(3) or not q.empty(),
        "statistics": lambda: q.statistics().leased == 0,
        "counters": lambda: q.unfinished_tasks == 3 and q.qsize() == 3,
    }
    wait_until(looks[look], "they count")


def test_clear_drops_what_a_killed_process_had(make: Make, name: str) -> None:
    q = make()
    for number in range(3):
        q.put(number)
    with python(HOLD, name, 2) as holder:
        wait_for_line(holder, "holds")
        holder.kill()
        holder.wait(PATIENCE)
    q.clear()
    assert (q.qsize(), q.unfinished_tasks, q.statistics().leased) == (0, 0, 0)
    with pytest.raises(shmqueue.ShmQueueEmpty):
        q.get(timeout=0.3)


def test_an_item_can_be_leased_when_a_dead_process_has_all_that_can_be(make: Make, name: str) -> None:
    q = make(buffer_size=1 << 20)
    for number in range(1025):
        q.put(number)
    with python(HOLD, name, 1024) as holder:
        wait_for_line(holder, "holds")
        with pytest.raises(shmqueue.ShmQueueError, match="1024 items are leased"):
            q.lease(timeout=0.2)
        holder.kill()
        holder.wait(PATIENCE)
    lease = q.lease(timeout=PATIENCE)
    assert (lease.item, lease.attempt) == (0, 2)


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


SCATTER = """if True:
    import sys, shmqueue
    q = shmqueue.ShmQueue(sys.argv[1])
    done = [q.lease() for _ in range(5)]
    held = []
    for lease in reversed(done):
        lease.ack()
        held.append(q.lease())
    print("holds", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_had_comes_back_oldest_first(make: Make, name: str) -> None:
    q = make()
    for number in range(10):
        q.put(number)
    with python(SCATTER, name) as holder:
        wait_for_line(holder, "holds")
        waiting = [asleep(Call(q.get, timeout=PATIENCE)) for _ in range(3)]
        holder.send_signal(signal.SIGKILL)
        assert {call.result() for call in waiting} == {5, 6, 7}
    assert [q.get(timeout=PATIENCE) for _ in range(2)] == [8, 9]


def test_a_process_that_ends_gives_its_items_back(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    with python(HOLD, name, 1) as holder:
        wait_for_line(holder, "holds")
        holder.communicate(timeout=PATIENCE)
    lease = q.lease(timeout=PATIENCE)
    assert (lease.item, lease.attempt) == ("job", 2)


def test_a_stopped_process_keeps_its_items(make: Make, name: str) -> None:
    q = make()
    q.put("job")
    with python(HOLD, name, 1) as holder:
        wait_for_line(holder, "holds")
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(shmqueue.ShmQueueEmpty):
            q.get(timeout=0.5)
        assert q.statistics().leased == 1
        holder.send_signal(signal.SIGKILL)
        assert q.get(timeout=PATIENCE) == "job"


def test_a_forked_child_has_no_part_in_its_parents_lease(q: ShmQueue) -> None:
    q.put("job")
    lease = q.lease()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            assert not lease.is_held
            for end in (lease.ack, lease.requeue):
                try:
                    end()
                except shmqueue.ShmQueueError:
                    continue
                os._exit(2)
            del lease, end
            gc.collect()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lease.is_held
    assert q.qsize() == 0
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


@pytest.mark.parametrize("how", ["get", "get_many", "lease"])
def test_what_a_killed_process_had_comes_in_a_queue_that_is_never_empty(make: Make, name: str, how: str) -> None:
    q = make()
    q.put("job")
    with python(HOLD, name, 1) as holder:
        wait_for_line(holder, "holds")
        holder.kill()
        holder.wait(PATIENCE)
        q.put("other")
        deadline = time.monotonic() + PATIENCE
        found = "other"
        while found == "other":
            assert time.monotonic() < deadline, "it never came"
            q.put("other")
            if how == "lease":
                lease = q.lease()
                found = lease.item
                lease.ack()
            else:
                found = q.get() if how == "get" else q.get_many(1)[0]
        assert found == "job"


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/schedstat"), reason="this kernel does not tell run delays")
@pytest.mark.usefixtures("only_native")
def test_what_a_dead_process_had_comes_back_at_once_beside_a_stopped_producer(make: Make, name: str) -> None:
    leases = 100
    code = """
import sys, time
from shmqueue import ShmQueue
q = ShmQueue(sys.argv[1])
leases = [q.lease() for _ in range(int(sys.argv[2]))]
print("ready", flush=True)
time.sleep(99)
"""
    q = make()
    q.put_many(range(leases))
    with python(code, name, leases) as holder, python(code, name, 0) as stopped, open(path_of(name), "r+b") as file:
        for process in (holder, stopped):
            wait_for_line(process, "ready")
        stopped.send_signal(signal.SIGSTOP)
        os.pwrite(file.fileno(), struct.pack("=I", stopped.pid), 256)  # the put lock
        holder.kill()
        holder.wait()
        begin, without = time.monotonic(), milliseconds_not_running()
        assert q.get(timeout=PATIENCE) == 0
        took = (time.monotonic() - begin) * 1e3 - (milliseconds_not_running() - without)
        assert q.qsize() == leases - 1
        os.pwrite(file.fileno(), struct.pack("=I", 0), 256)
    assert took < leases * 5  # to wait for the lock after each one takes ten milliseconds each time
