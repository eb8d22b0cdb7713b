"""What a file system may lack: a queue works without it if it can, or ends with an error that names SHMQUEUE_DIR."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, python

import shmqueue
import shmqueue.compat.queue
from shmqueue import ShmQueue, segment
from shmqueue.segment import files

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")

ALL_THAT_A_QUEUE_DOES = """
import multiprocessing, os, sys
import shmqueue
from shmqueue.compat import multiprocessing as ours

def work(q, answers):
    for item in iter(q.get, None):
        answers.put(item)

name, expected_refs, gives_back = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "gives back"
with shmqueue.ShmQueue(name, buffer_size=4096, max_bytes=1 << 24) as q:
    path = q._segment.path
    assert q.refs == expected_refs, q.refs
    for round in range(3):
        items = [(number, bytes([number % 256]) * (number % 5000)) for number in range(1000)]
        for item in items:  # grows
            q.put(item)
        other = shmqueue.ShmQueue(name, create=False)
        assert [other.get() for _ in items] == items
        assert q.empty()
        other.close()
    q.put("last")
    assert q.get() == "last"
context = ours.get_context("fork")
for q in (shmqueue.ShmQueue(name + "-fork", buffer_size=1 << 16), context.Queue()):
    answers = context.Queue()
    child = context.Process(target=work, args=(q, answers))
    child.start()
    q.put("to the child")
    assert answers.get() == "to the child"
    q.put(None)
    child.join()
    assert child.exitcode == 0
    q.close()
    answers.close()
    answers.join_thread()
print("served")
"""


def with_mounts(commands: str, code: str, *arguments: object) -> str:
    """What an interpreter prints that runs after shell commands that mount, seen by nobody else.

    Skips the test where the machine does not allow that.
    """
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    script = f'set -e; {commands}; echo mounted; exec "$@"'
    try:
        ran = subprocess.run(
            [*unshare, "sh", "-c", script, "sh", sys.executable, "-c", code, *map(str, arguments)],
            cwd=os.path.dirname(__file__),
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE,
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(f"it hangs: {expired.stdout!r} {expired.stderr!r}") from None
    if not ran.stdout.startswith("mounted\n"):
        pytest.skip(f"no mounts of one's own here: {ran.stderr.strip()}")
    assert ran.returncode == 0, ran
    return ran.stdout.partition("\n")[2]


@pytest.fixture
def mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "mounted"
    place.mkdir()
    monkeypatch.setenv("SHMQUEUE_DIR", str(place))
    return place


def test_a_read_only_file_system_is_told(mount_point: Path) -> None:
    code = """
import sys, shmqueue
from shmqueue import segment
for options in ({}, {"buffer_size": 4096}, {"create": True}):
    try:
        shmqueue.ShmQueue("x", **options)
    except shmqueue.ShmQueueRefusedError as error:
        assert sys.argv[1] in str(error) and "SHMQUEUE_DIR" in str(error), error
        print(error.strerror)
print(segment.probe_directory().problem)
"""
    lines = with_mounts(f"mount -t tmpfs -o ro none {mount_point}", code, mount_point).splitlines()
    assert len(lines) == 4
    assert all("Read-only file system" in line for line in lines)


def test_an_ordinary_directory_has_everything(segment_directory: str) -> None:
    probe = segment.probe_directory()
    assert (probe.directory, probe.problem) == (segment_directory, None)
    assert probe.locks
    assert probe.hard_links
    assert os.listdir(segment_directory) == []


def refuse(error: int) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return call


@pytest.fixture(params=["", "no O_TMPFILE", "O_TMPFILE is refused"])
def nameless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no O_TMPFILE":
        monkeypatch.delattr(os, "O_TMPFILE")
    elif request.param:
        open_file = os.open

        def refusing(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return open_file(path, flags, *rest, **options)

        monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize("error", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES])
def test_without_hard_links_queues_work(
    make: Make, name: str, nameless: None, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(error))
    q, other = make(create=True), make(create=False)
    with pytest.raises(shmqueue.ShmQueueExistsError):
        ShmQueue(name, create=True)
    q.put("item")
    assert other.get() == "item"
    assert not segment.probe_directory().hard_links


@pytest.mark.usefixtures("nameless")
def test_without_hard_links_only_one_of_many_makes_a_name(name: str) -> None:
    code = """
import errno, os, sys
import shmqueue
def refuse(*arguments, **options):
    raise OSError(errno.EPERM, "no hard links here")
os.link = refuse
sys.stdin.readline()
for number in range(20):
    try:
        q = shmqueue.ShmQueue(f"{sys.argv[1]}-{number}", create=True)
        q.put(os.getpid())
        globals().setdefault("made", []).append(q)
    except shmqueue.ShmQueueExistsError:
        pass
made = globals().get("made", [])
print(*[q.identifier.rpartition("-")[2] for q in made], flush=True)
sys.stdin.readline()
for q in made:
    assert q.get() == os.getpid() and q.empty()
"""
    with python(code, name) as one, python(code, name) as two, python(code, name) as three:
        processes = (one, two, three)
        for line in ("go\n", "end\n"):
            for process in processes:
                assert process.stdin is not None
                process.stdin.write(line)
                process.stdin.flush()
            if line == "go\n":
                outputs = [process.stdout for process in processes if process.stdout is not None]
                made = [number for output in outputs for number in output.readline().split()]
        for process in processes:
            assert process.wait(PATIENCE) == 0, process.stderr and process.stderr.read()
    assert sorted(made, key=int) == [str(number) for number in range(20)]


def test_a_lock_on_the_directory_is_waited_for_only_so_long(
    name: str, segment_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    monkeypatch.setattr(files, "_NAMING_PATIENCE", 3)
    fd = os.open(segment_directory, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(shmqueue.ShmQueueRefusedError, match="SHMQUEUE_DIR"):
            ShmQueue(name)
    finally:
        os.close(fd)


@pytest.mark.parametrize("error", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_where_memory_cannot_be_reserved_it_is_written(
    make: Make, name: str, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse(error))
    q = make(buffer_size=4096, max_bytes=1 << 24)
    assert os.stat(segment.path_of(name)).st_blocks * 512 >= 8192
    items = [bytes([number % 256]) * (number % 5000) for number in range(1000)]
    for _ in range(2):
        for item in items:
            q.put(item)
        assert [q.get() for _ in items] == items
    assert not segment.probe_directory().reserves_memory


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.usefixtures("nameless")
def test_without_flock_the_error_says_so(name: str, error: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse(error))
        with pytest.raises(shmqueue.ShmQueueRefusedError, match=r"cannot lock.*SHMQUEUE_DIR"):
            ShmQueue(name)
        probe = segment.probe_directory()
    assert "cannot lock" in str(probe.problem)


def test_where_files_cannot_be_mapped_the_error_says_so(
    name: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    if engine == "portable":
        monkeypatch.setattr("shmqueue.engine.portable_memory.mmap.mmap", refuse(errno.ENODEV))
    else:
        monkeypatch.setattr("shmqueue.engine.native.Ring", lambda *arguments: (_ for _ in ()).throw(error))
    with pytest.raises(shmqueue.ShmQueueRefusedError, match=r"cannot map.*SHMQUEUE_DIR") as caught:
        ShmQueue(name)
    assert caught.value.filename == segment.path_of(name)


def test_a_full_queue_says_what_its_own_directory_has_left(
    make: Make, segment_directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    q = make(buffer_size=4096, max_bytes=1 << 24)
    q._handle._growth(errno.ENOSPC)
    monkeypatch.setenv("SHMQUEUE_DIR", str(tmp_path / "missing"))
    assert f"{segment_directory} has " in q._handle.why_full(1)


def test_a_quota_is_a_lack_of_space(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "posix_fallocate", refuse(errno.EDQUOT))
    with pytest.raises(shmqueue.ShmQueueNoSpaceError, match="SHMQUEUE_DIR") as caught:
        ShmQueue(name)
    assert caught.value.errno == errno.EDQUOT


def test_on_a_ramfs_an_elastic_queue_grows(name: str, mount_point: Path) -> None:
    code = ALL_THAT_A_QUEUE_DOES + "print(os.listdir(os.environ['SHMQUEUE_DIR']), shmqueue.segment.probe_directory())\n"
    served, left = with_mounts(f"mount -t ramfs none {mount_point}", code, name, 1, "keeps").splitlines()
    assert served == "served"
    assert left.startswith("[] ")
    assert "reserves_memory=False, free_bytes=None" in left


def test_on_a_full_ramfs_like_file_system_a_put_waits_and_nobody_dies(name: str, mount_point: Path) -> None:
    code = """
import sys, os, errno
import shmqueue
def refuse(*arguments):
    raise OSError(errno.EOPNOTSUPP, "no")
os.posix_fallocate = refuse
with shmqueue.ShmQueue(sys.argv[1], buffer_size=4096, max_bytes=1 << 24) as q:
    put = 0
    try:
        while True:
            q.put(b"x" * 50_000, timeout=0)
            put += 1
    except shmqueue.ShmQueueFull as full:
        print("full", "cannot grow" in str(full))
    print(put > 1, all(q.get() == b"x" * 50_000 for _ in range(put)), q.empty())
"""
    outcome = with_mounts(f"mount -t tmpfs -o size=1m none {mount_point}", code, name)
    assert outcome.splitlines() == ["full True", "True True True"]


def test_the_memory_of_killed_processes_makes_room_for_a_new_queue(name: str, mount_point: Path) -> None:
    code = """
import os, signal, sys
from shmqueue import ShmQueue
from shmqueue.compat import multiprocessing

def die():
    q = multiprocessing.Queue()
    q.put(bytes(700_000), timeout=10)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=die)
    child.start()
    child.join()
    print(child.exitcode, os.statvfs(os.environ["SHMQUEUE_DIR"]).f_bavail < 100)
    with ShmQueue(sys.argv[1], buffer_size=1 << 19) as q:
        print(q.empty())
"""
    outcome = with_mounts(f"mount -t tmpfs -o size=1m none {mount_point}", code, name)
    assert outcome.splitlines() == ["-9 True", "True"]


def test_on_an_overlay_of_several_file_systems_the_holders_are_counted(
    name: str, mount_point: Path, tmp_path: Path
) -> None:
    layers, lower = tmp_path / "layers", tmp_path / "lower"
    layers.mkdir()
    lower.mkdir()
    commands = (
        f"mount -t tmpfs none {layers}; mkdir {layers}/upper {layers}/work {layers}/lower; "
        f"mount -t overlay none -o lowerdir={layers}/lower:{lower},"
        f"upperdir={layers}/upper,workdir={layers}/work {mount_point}"
    )
    code = ALL_THAT_A_QUEUE_DOES + "print(os.listdir(os.environ['SHMQUEUE_DIR']))\n"
    assert with_mounts(commands, code, name, 1, "gives back") == "served\n[]\n"


def test_without_proc_queues_work_and_count_no_holders(name: str) -> None:
    code = ALL_THAT_A_QUEUE_DOES + "print(os.listdir(os.environ['SHMQUEUE_DIR']))\n"
    assert with_mounts("mount -t tmpfs none /proc", code, name, 0, "gives back") == "served\n[]\n"


def test_without_proc_a_queue_without_a_name_serves_children(name: str) -> None:
    code = """
import os, sys
import shmqueue
q = shmqueue.ShmQueue(sys.argv[1], buffer_size=4096, max_bytes=1 << 22)
q.unlink()
if os.fork() == 0:
    q.put(b"x" * 100_000)
    q.shutdown()
    os._exit(0)
print(len(q.get()), os.wait()[1])
q.shutdown()
for entry in os.listdir(os.environ["SHMQUEUE_DIR"]):
    print(entry)
    os.unlink(os.path.join(os.environ["SHMQUEUE_DIR"], entry))
"""
    first, *left = with_mounts("mount -t tmpfs none /proc", code, name).splitlines()
    assert first == "100000 0"
    assert all(entry.startswith("shmqueue-lock-") for entry in left), "but a sidecar is left to the next sweep"
