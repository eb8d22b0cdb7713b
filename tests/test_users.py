"""Queues and users: the owner of a queue is decided when it is opened, and another user's queue is another one."""

from __future__ import annotations

import compileall
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PATIENCE

from shmqueue import ShmQueue, segment

Make = Callable[..., ShmQueue]

NOBODY = 65534

pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
]


@pytest.fixture(params=["sticky", "of the user"])
def shared(request: pytest.FixtureRequest, segment_directory: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A directory that all may use: one as /dev/shm, or one where anybody may remove anything."""
    os.chmod(segment_directory, 0o1777 if request.param == "sticky" else 0o777)
    yield segment_directory
    for entry in os.listdir(segment_directory):  # what nobody could not remove
        os.unlink(os.path.join(segment_directory, entry))


@pytest.fixture(scope="session")
def importable() -> Iterator[str]:
    """The packages where other users can read them, with their bytecode."""
    place = tempfile.mkdtemp(prefix="shmqueue-tests-packages-")
    os.chmod(place, 0o755)
    import msgpack
    import shmlock

    import shmqueue
    import shmqueue.compat
    import shmqueue.conformance

    for module in (msgpack, shmlock, shmqueue):
        shutil.copytree(os.path.dirname(str(module.__file__)), os.path.join(place, module.__name__))
    for module in (shmqueue.compat, shmqueue.conformance):
        target = os.path.join(place, *module.__name__.split("."))
        shutil.copytree(os.path.dirname(str(module.__file__)), target, dirs_exist_ok=True)
    shutil.copy(os.path.join(os.path.dirname(__file__), "support.py"), place)
    for root, directories, files in os.walk(place):
        for entry in directories:
            os.chmod(os.path.join(root, entry), 0o755)
        for entry in files:
            os.chmod(os.path.join(root, entry), 0o755)
    compileall.compile_dir(place, quiet=1)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that others can reach."""
    place = tempfile.mkdtemp(prefix="shmqueue-tests-users-")
    os.chmod(place, 0o755)
    yield Path(place)
    shutil.rmtree(place)


PREFIX = f"""
import encodings.ascii, logging, os, pickle, signal, sys, threading  # what may not be readable later
import shmqueue, shmqueue.engine.portable, shmqueue.inspection, shmqueue.compat.queue
from shmqueue import ShmQueue
logging.basicConfig(format="LOG %(message)s", stream=sys.stdout)

def become_nobody():
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})

def in_child(function, *arguments):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments)
            sys.stdout.flush()
        except BaseException as error:
            print(f"{{type(error).__name__}}: {{error}}", flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

name = sys.argv[1]
"""


def run(code: str, importable: str, *arguments: object) -> list[str]:
    """The lines that a process of root prints; it can become nobody and still import all it needs."""
    ran = subprocess.run(
        [sys.executable, "-c", PREFIX + textwrap.dedent(code), *map(str, arguments)],
        cwd="/",
        env={**os.environ, "PYTHONPATH": importable, "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 0, ran
    assert "Traceback" not in ran.stderr, ran
    return ran.stdout.splitlines()


def test_a_process_that_drops_its_privileges_goes_on(name: str, shared: str, importable: str) -> None:
    code = """
    q = ShmQueue(name, buffer_size=4096, max_bytes=1 << 24)
    become_nobody()
    for round in range(2):
        for number in range(200):
            q.put((number, b"x" * 2000))  # it grows
        assert q.qsize() == 200
        assert [q.get()[0] for _ in range(200)] == list(range(200))
    assert q.refs == 1
    threads = [threading.Thread(target=lambda: [q.put(number) for number in range(300)]) for _ in range(4)]
    taken = []
    threads += [threading.Thread(target=lambda: [taken.append(q.get()) for _ in range(300)]) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert sorted(taken) == sorted(list(range(300)) * 4)
    q.put("once more"); q.clear(); q.put(1); assert q.get(timeout=1) == 1; q.task_done()
    print(q.empty(), q.statistics().recoveries)
    q.close()
    """
    first, *logged = run(code, importable, name)
    assert first == "True 0"
    left = [entry for entry in os.listdir(shared) if not entry.startswith("shmqueue-lock-")]
    if os.stat(shared).st_mode & stat.S_ISVTX:
        assert left == [f"shmqueue-0-{name}"]
        (line,) = logged
        assert f"queue {name!r} belongs to user 0 (root); this process runs as {NOBODY}" in line
        assert segment.path_of(name) in line
    else:
        assert left == logged == []


def test_workers_that_drop_their_privileges_work_for_their_parent(name: str, shared: str, importable: str) -> None:
    code = """
    q, answers = ShmQueue(name), ShmQueue(name + "-answers")

    def work():
        become_nobody()
        for item in iter(q.get, None):
            answers.put((os.getuid(), item))
        q.close()
        answers.close()

    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            work()
            os._exit(0)
        pids.append(pid)
    for number in range(600):
        q.put(number)
    for _ in pids:
        q.put(None)
    got = [answers.get() for _ in range(600)]
    assert {user for user, _ in got} == {65534} and sorted(number for _, number in got) == list(range(600))
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    assert q.refs == answers.refs == 1
    q.close()
    answers.close()
    print(os.listdir(os.environ["SHMQUEUE_DIR"]))
    """
    assert run(code, importable, name) == ["[]"]


def test_effective_users_may_come_and_go(name: str, shared: str, importable: str) -> None:
    code = """
    q = ShmQueue(name, buffer_size=4096, max_bytes=1 << 20)
    for user in (65534, 0, 1, 0):
        os.seteuid(user)
        q.put(b"x" * 10000)
        thread = threading.Thread(target=q.put, args=("from a thread",))
        thread.start(); thread.join()
        assert len(q.get()) == 10000 and q.get() == "from a thread"
        if user == 0:
            copy = pickle.loads(pickle.dumps(q))
            copy.put(user)
            assert q.get() == 0
            copy.close()
    os.seteuid(65534)
    mine = ShmQueue(name + "-mine")
    os.seteuid(0)
    copy = pickle.loads(pickle.dumps(mine))
    copy.put("root may open it by its pickle")
    os.seteuid(65534)
    print(mine.get(), copy.refs)
    mine.put("what root made"); print(mine.get())
    os.seteuid(0)
    for each in (copy, mine, q): each.close()
    print(os.listdir(os.environ["SHMQUEUE_DIR"]))
    """
    assert run(code, importable, name) == ["root may open it by its pickle 2", "what root made", "[]"]


AS_ANYBODY = f"""
mkdir "$2" && mount --bind "$1" "$2" || exit 77
place="$2"; shift 2; export LD_LIBRARY_PATH="$place/lib"
exec "$place/bin/python{sys.version_info[0]}.{sys.version_info[1]}" "$@"
"""
"""A shell script: an interpreter that every user may read, even if it lies in root's home."""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_started_after_dropping_privileges_get_the_queue_or_a_clear_error(
    name: str, shared: str, importable: str, engine: str, method: str, place: Path
) -> None:
    program = place / "program.py"
    program.write_text(
        PREFIX
        + textwrap.dedent(f"""
    import multiprocessing

    def work(q, connection):
        try:
            q.put("from the child")
            q.close()
            connection.send("put")
        except shmqueue.ShmQueueError as error:
            connection.send(f"{{type(error).__name__}}: {{error}}")

    if __name__ == "__main__":
        q = ShmQueue(name)
        os.environ["HOME"] = os.environ["TMPDIR"] = {str(place)!r}
        os.chmod({str(place)!r}, 0o777)
        become_nobody()
        ours, theirs = multiprocessing.Pipe()
        child = multiprocessing.get_context({method!r}).Process(target=work, args=(q, theirs))
        child.start()
        theirs.close()
        print(ours.recv())
        child.join()
        if q.qsize():
            print(q.get(), q.refs)
        q.put("still mine")
        print(q.get())
    """)
    )
    ran = subprocess.run(
        ["unshare", "-m", "sh", "-c", AS_ANYBODY, "sh", sys.base_prefix, f"{place}/python", str(program), name],
        cwd="/",
        env={**os.environ, "PYTHONPATH": importable},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if ran.returncode == 77:
        pytest.skip(f"nobody cannot read this interpreter, and it cannot be mounted elsewhere: {ran.stderr}")
    assert ran.returncode == 0, ran
    lines = [line for line in ran.stdout.splitlines() if not line.startswith("LOG ")]
    if engine == "native":
        assert lines == ["put", "from the child 1", "still mine"], ran
    else:
        assert lines[0].startswith("ShmQueueRefusedError: "), ran
        assert f"queue {name!r} belongs to user 0 (root); this process runs as {NOBODY}" in lines[0]
        assert lines[1:] == ["still mine"]


def test_a_pickle_that_another_user_loads_says_whose_the_queue_is(name: str, shared: str, importable: str) -> None:
    code = """
    q = ShmQueue(name)
    pickled = pickle.dumps(q)

    def load():
        become_nobody()
        pickle.loads(pickled).put(1)

    print(in_child(load))
    print(q.qsize(), ShmQueue(name, create=False).refs)
    """
    error, status, state = run(code, importable, name)
    assert error.startswith("ShmQueueRefusedError")
    assert f"belongs to user 0 (root); this process runs as {NOBODY}" in error
    assert segment.path_of(name) in error
    assert (status, state) == ("1", "0 2")


def test_unlink_by_another_user_works_where_the_directory_allows_it(name: str, shared: str, importable: str) -> None:
    code = """
    q = ShmQueue(name)
    become_nobody()
    try:
        q.unlink()
        print("done", os.path.exists(q._segment.path))
    except shmqueue.ShmQueueRefusedError as error:
        print(error)
    q.put(1)
    print(q.get())
    """
    first, second, *_ = run(code, importable, name)
    if os.stat(shared).st_mode & stat.S_ISVTX:
        assert f"queue {name!r} belongs to user 0 (root); this process runs as {NOBODY}" in first
    else:
        assert first == "done False"
    assert second == "1"


def test_a_child_that_shares_the_description_does_not_take_the_queue_with_it(
    name: str, shared: str, importable: str, engine: str
) -> None:
    if engine == "portable":
        pytest.skip("there such a child cannot use the queue")
    code = """
    q = ShmQueue(name)
    become_nobody()

    def use_and_close():
        q.put("from the child")
        q.close()

    assert in_child(use_and_close) == 0
    print(os.path.exists(q._segment.path), q.refs, q.get())
    """
    assert run(code, importable, name)[0] == "True 1 from the child"


def test_signal_handlers_overtake_in_a_process_that_has_become_another_user(
    name: str, shared: str, importable: str
) -> None:
    code = """
    import time
    q, handled = ShmQueue(name), 0
    become_nobody()

    def handler(number, frame):
        global handled
        q.put("handler")
        handled += 1

    signal.signal(signal.SIGALRM, handler)
    done = threading.Event()

    def other():
        end = time.monotonic() + 2  # not a number of items: on a busy machine each may take long
        while handled < 20 or time.monotonic() < end:
            q.put("other")
            q.put("other")
            q.get()
            q.get()
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    while not done.is_set():
        if signal.getitimer(signal.ITIMER_REAL)[0] == 0:  # a timer set anew in every round might never end
            signal.setitimer(signal.ITIMER_REAL, 0.0005)
        q.put("main")
        q.get()
    signal.setitimer(signal.ITIMER_REAL, 0)
    thread.join()
    assert q.qsize() == handled, (q.qsize(), handled)
    print(handled > 0)
    """
    assert run(code, importable, name)[0] == "True"


# ---- one name, several users ----


@pytest.mark.parametrize(("holder", "creator"), [(0, 65534), (0, 1), (65534, 0), (1, 65534)])
@pytest.mark.parametrize("knows", ["nothing", "sudo", "the listing"])
def test_creating_a_name_that_another_user_has_open_warns(
    name: str, shared: str, importable: str, holder: int, creator: int, knows: str
) -> None:
    code = f"""
    import time
    from shmqueue.segment import removal
    os.environ.pop("SUDO_UID", None)
    if {knows!r} == "sudo":
        os.environ["SUDO_UID"] = "{holder}"
    if {knows!r} == "the listing":
        removal._CHANCE = 1.0
    else:
        removal._CHANCE = 0.0
    os.setresuid({holder}, {holder}, 0)
    theirs = ShmQueue(name)
    removal._not_before = 0.0
    os.seteuid(0)
    os.setresuid({creator}, {creator}, 0)
    for number in range(2):
        ours = ShmQueue(name)  # the second attaches, without a warning
        first = ours if number == 0 else first
    ShmQueue(name + "-another").close()
    first.put("ours")
    assert theirs.empty()
    first.close(); ours.close()
    os.seteuid(0)
    theirs.close()
    """
    lines = run(code, importable, name)
    lines = [line for line in lines if "is new" in line]
    if knows == "nothing" and holder != 0:
        assert lines == []
        return
    (line,) = lines
    assert f"queue {name!r} of user {creator} (" in line
    assert f"user {holder} (" in line
    assert "has another queue of that name open" in line


def test_a_file_that_nobody_has_open_and_unnamed_queues_warn_of_nothing(
    name: str, shared: str, importable: str
) -> None:
    code = """
    from shmqueue.compat.queue import Queue
    def leave():
        q = ShmQueue(name)
        q.put("an orphan")
        os._exit(0)
    in_child(leave)
    become_nobody()
    ShmQueue(name).close()
    Queue().close()
    """
    assert run(code, importable, name) == []


@pytest.mark.parametrize("all_users", [True, False])
def test_the_queues_of_other_users_are_seen_from_afar(name: str, shared: str, importable: str, all_users: bool) -> None:
    code = f"""
    from shmqueue import inspection
    q, kept = ShmQueue(name), ShmQueue(name + "-kept", keep=True)
    q.put("secret")
    kept.close()
    become_nobody()
    logging.disable()
    mine = ShmQueue(name)
    for info in inspection.list_queues(all_users={all_users}):
        print([info.name, info.user, info.engine is None, info.holders == [os.getpid()], info.items,
               info.file_bytes > 0, info.problem])
    """
    lines = [eval(line) for line in run(code, importable, name) if line.startswith("[")]
    problem = f"it belongs to user 0 (root); this process runs as {NOBODY} (nobody)"
    ours = [name, NOBODY, False, True, 0, True, None]
    theirs = [[name, 0, True, True, None, True, problem], [name + "-kept", 0, True, False, None, True, problem]]
    assert lines == ([theirs[0], ours, theirs[1]] if all_users else [ours])
