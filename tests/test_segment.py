"""A segment's life: names, attaching, holders, and that it is freed."""

from __future__ import annotations

import multiprocessing.util
import os
import re
import socket
import string
import struct
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE, overwrite, python, run_python

import shmqueue
from shmqueue import SYSTEM_PAGESIZE, ShmQueue, segment
from shmqueue.segment.descriptor import Descriptor
from shmqueue.segment.header import FIELDS

Make = Callable[..., ShmQueue]

HOLD = """
import os, sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1])
q.put(os.getpid())
print("ready", flush=True)
sys.stdin.read()
"""


def the_file(directory: str) -> str:
    (entry,) = (entry for entry in os.listdir(directory) if not entry.startswith("shmqueue-lock-"))
    return os.path.join(directory, entry)


class TestNames:
    @given(st.text(min_size=1, max_size=20))
    def test_every_name_has_a_path_of_its_own_and_comes_back(self, name: str) -> None:
        file = os.path.basename(segment.path_of(name))
        prefix = f"shmqueue-{os.geteuid()}-"
        assert file.startswith(prefix)
        assert set(file) <= set(string.ascii_letters + string.digits + "._-%")
        assert segment.naming.unescape(file[len(prefix) :]) == name

    def test_ordinary_names_stay_readable(self) -> None:
        assert segment.path_of("my_queue-1.a").endswith(f"/shmqueue-{os.geteuid()}-my_queue-1.a")

    @pytest.mark.parametrize("name", ["../etc/passwd", ".hidden", "a/b", "a b", "ü", "\0", "%41", "~"])
    @pytest.mark.usefixtures("engine")
    def test_any_other_name_works_too(self, make: Make, name: str) -> None:
        make(name).put(1)
        assert segment.list_names() == [name]
        assert make(name, create=False).get() == 1

    def test_files_that_no_name_leads_to_are_passed_over(self, make: Make, name: str) -> None:
        make()
        strange = [
            os.path.dirname(segment.path_of(name)) + f"/shmqueue-{os.geteuid()}-" + end for end in ("%FF", "a b", "")
        ]
        for path in strange:
            open(path, "w").close()
        try:
            assert segment.list_names() == [name]
            assert segment.sweep_orphans() == []
        finally:
            for path in strange:
                os.unlink(path)

    @pytest.mark.parametrize("name", ["", "a" * 181, "ü" * 31])
    def test_an_empty_or_too_long_name_is_refused(self, name: str) -> None:
        with pytest.raises(shmqueue.ShmQueueValueError, match="queue_name must have 1 to 180 characters"):
            ShmQueue(name)

    def test_the_longest_name_works(self, make: Make) -> None:
        make("a" * 180).put(1)


@pytest.mark.usefixtures("engine")
class TestLife:
    def test_the_file_is_private_to_its_user(self, make: Make, segment_directory: str) -> None:
        old = os.umask(0)
        try:
            make()
        finally:
            os.umask(old)
        status = os.stat(the_file(segment_directory))
        assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid())

    def test_a_strict_umask_does_no_harm(self, make: Make) -> None:
        old = os.umask(0o777)
        try:
            make().put(1)
            assert make().get() == 1
        finally:
            os.umask(old)

    def test_the_last_shutdown_frees_the_memory(self, name: str, segment_directory: str) -> None:
        first, second = ShmQueue(name), ShmQueue(name)
        first.put("kept")
        first.shutdown()
        assert second.get() == "kept"
        second.shutdown()
        assert os.listdir(segment_directory) == []

    def test_an_interpreter_that_just_ends_frees_it_too(self, name: str, segment_directory: str) -> None:
        run_python("import sys, shmqueue; q = shmqueue.ShmQueue(sys.argv[1]); q.put(1)", name)
        assert os.listdir(segment_directory) == []

    def test_a_daemon_thread_that_still_waits_at_the_end_is_no_matter(self, name: str, segment_directory: str) -> None:
        code = """
import sys, threading, shmqueue
q = shmqueue.ShmQueue(sys.argv[1], buffer_size=4096)
for call in (q.get, q.join, lambda: [q.put(b"x" * 999) for _ in range(9)]):
    threading.Thread(target=call, daemon=True).start()
q.put(1)
"""
        with python(code, name) as process:
            output, errors = process.communicate(timeout=PATIENCE)
        assert output == ""
        assert re.fullmatch(r"queue '.*' was closed by its last holder with \d items? in it, .*\n", errors)
        assert os.listdir(segment_directory) == []

    def test_handles_given_up_leave_nothing_registered(self, name: str) -> None:
        before = len(multiprocessing.util._finalizer_registry), len(weakref.finalize._registry)  # type: ignore[attr-defined]
        for _ in range(5):
            ShmQueue(name).shutdown()
        after = len(multiprocessing.util._finalizer_registry), len(weakref.finalize._registry)  # type: ignore[attr-defined]
        assert after == before

    def test_an_interpreter_that_dies_of_an_exception_frees_it_too(self, name: str, segment_directory: str) -> None:
        with python("import sys, shmqueue; q = shmqueue.ShmQueue(sys.argv[1]); q.put(1); 1/0", name) as process:
            assert "ZeroDivisionError" in process.communicate()[1]
        assert os.listdir(segment_directory) == []

    def test_holders_are_counted_by_the_kernel(self, make: Make, name: str) -> None:
        q = make()
        with python(HOLD, name) as process:
            assert q.get() == process.pid
            assert q.refs == q.snapshot().ref_count == 2
            assert q._segment.holders() == sorted([os.getpid(), process.pid])
            process.kill()
            process.wait()
            assert q.refs == 1

    def test_a_killed_holders_items_are_adopted_by_who_attaches(self, make: Make, name: str) -> None:
        with python(HOLD, name) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
        q = make(create=False)
        assert q.get() == process.pid

    def test_a_sweep_leaves_alone_what_is_held_or_no_segment(self, make: Make, segment_directory: str) -> None:
        make()
        foreign = segment.path_of("foreign")
        with open(foreign, "wb") as file:
            file.write(b"somebody's data")
        assert segment.sweep_orphans() == []
        os.unlink(foreign)

    @pytest.mark.parametrize("like_ours", [False, True])
    def test_the_file_of_another_program_may_be_called_anything(
        self, make: Make, name: str, segment_directory: str, like_ours: bool
    ) -> None:
        make()
        begins = os.path.basename(segment.path_of("x"))[:-1] if like_ours else "of-another-program-"
        foreign = os.path.join(os.fsencode(segment_directory), begins.encode() + b"\xff")
        with open(foreign, "wb"):
            pass
        try:
            assert segment.list_names() == [name]
            assert [found for found, _ in segment.list_segments(all_users=True)] == [name]
            assert segment.sweep_orphans() == []
        finally:
            os.unlink(foreign)

    def test_a_forked_child_keeps_the_queue_alive_and_counts(self, make: Make, name: str) -> None:
        q = make()
        read_end, write_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(write_end)
                q.put("from the child")
                os.read(read_end, 1)  # until the parent closes its handle
                q.put("again")
            finally:
                os._exit(0)
        try:
            os.close(read_end)
            assert q.get() == "from the child"
            assert sorted(q._segment.holders()) == sorted([os.getpid(), pid])
            q.shutdown()
            assert segment.list_names() == [name]
            later = make(create=False)
        finally:
            os.close(write_end)
            os.waitpid(pid, 0)
        assert later.get() == "again"

    def test_a_child_that_shuts_down_leaves_its_parent_alone(self, make: Make) -> None:
        q = make()
        pid = os.fork()
        if pid == 0:
            try:
                q.put("last words")
                q.shutdown()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert q.get() == "last words"
        assert q.refs == 1

    def test_no_descriptor_is_left_open(self, name: str) -> None:
        before = os.listdir("/proc/self/fd")
        for _ in range(5):
            ShmQueue(name).shutdown()
            with pytest.raises(shmqueue.ShmQueueNotFoundError):
                ShmQueue(name, create=False)
        assert os.listdir("/proc/self/fd") == before

    def test_no_mapping_is_left(self, name: str) -> None:
        for _ in range(5):
            ShmQueue(name).shutdown()
        with open("/proc/self/maps", encoding="ascii", errors="replace") as maps:
            assert name not in maps.read()

    def test_exec_does_not_inherit_the_queue(self, make: Make) -> None:
        q = make()
        with python("import sys; print('up', flush=True); sys.stdin.read()") as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert q.refs == 1


class TestRefusals:
    """Whatever lies at the queue's path and is no usable segment is refused with a sentence of its own."""

    def refused(self, name: str, why: str) -> None:
        for create in (None, False):
            with pytest.raises(shmqueue.ShmQueueRefusedError, match=why) as caught:
                ShmQueue(name, create=create)
            assert isinstance(caught.value, PermissionError)
            assert caught.value.filename == segment.path_of(name)

    def test_a_symbolic_link(self, name: str, segment_directory: str) -> None:
        target = os.path.join(segment_directory, "target")
        os.symlink(target, segment.path_of(name))
        self.refused(name, "it is a symbolic link")
        os.unlink(segment.path_of(name))

    def test_a_directory(self, name: str) -> None:
        os.mkdir(segment.path_of(name))
        self.refused(name, "it is a directory")
        os.rmdir(segment.path_of(name))

    def test_a_fifo(self, name: str) -> None:
        os.mkfifo(segment.path_of(name), 0o600)
        self.refused(name, "it is not a regular file")
        os.unlink(segment.path_of(name))

    def test_a_socket(self, name: str) -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(segment.path_of(name))
            self.refused(name, "it is a socket or a device")
            os.unlink(segment.path_of(name))

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"x" * 5000, "it is not a shmqueue segment"),
            (bytes(range(64)), "the file has only 64 bytes"),
        ],
    )
    def test_a_file_of_something_else(self, name: str, content: bytes, why: str) -> None:
        path = segment.path_of(name)
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content)
        self.refused(name, why)
        os.unlink(path)

    def test_a_file_that_others_may_access(self, make: Make, name: str) -> None:
        make()
        os.chmod(segment.path_of(name), 0o644)
        self.refused(name, "others may access it")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_a_file_of_another_user(self, make: Make, name: str) -> None:
        make()
        os.chown(segment.path_of(name), 12345, -1)
        self.refused(name, "it belongs to user 12345")
        os.chown(segment.path_of(name), os.geteuid(), -1)

    @pytest.mark.parametrize(
        ("offset", "value", "why"),
        [
            (16, b"\x09", "it has layout version 9, this installation uses version 7"),
            (24, b"\x77", "its header is corrupted"),
            (48, b"zz", "its header is corrupted"),
        ],
    )
    def test_a_header_that_was_tampered_with(self, make: Make, name: str, offset: int, value: bytes, why: str) -> None:
        make()
        overwrite(segment.path_of(name), offset, value)
        self.refused(name, why)

    def test_a_file_of_a_machine_of_the_other_byte_order(self, make: Make, name: str) -> None:
        make()
        other = ">" if sys.byteorder == "little" else "<"
        with open(segment.path_of(name), "r+b") as file:
            fields = FIELDS.unpack(file.read(FIELDS.size))
            file.seek(0)
            file.write(struct.pack(other + FIELDS.format[1:], *fields))
        self.refused(name, "it was written by a machine of the other byte order")

    def test_a_truncated_segment(self, make: Make, name: str) -> None:
        make(buffer_size=4 * SYSTEM_PAGESIZE)
        os.truncate(segment.path_of(name), 2 * SYSTEM_PAGESIZE)
        self.refused(name, "truncated")

    def test_a_segment_of_another_pid_namespace(self, make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("shmqueue.segment.lifecycle.pid_namespace", lambda: 4711)
            make()
        self.refused(name, r"it was made in another pid namespace \(4711, ours is \d+\)")

    def test_a_segment_of_the_other_engine(self, make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
        make()
        monkeypatch.setenv("SHMQUEUE_ENGINE", "native")
        with pytest.raises(
            shmqueue.ShmQueueRefusedError,
            match="belongs to the portable engine and this process uses the native one: set SHMQUEUE_ENGINE=portable",
        ):
            ShmQueue(name)


@pytest.mark.usefixtures("engine")
class TestMemory:
    def test_more_than_there_is_is_a_clear_error(self, name: str, segment_directory: str) -> None:
        if sys.maxsize < 1 << 32:
            pytest.skip("there is always more memory than the 256 MiB that a buffer_size may have there")
        enormous = 1 << 50
        with pytest.raises(shmqueue.ShmQueueNoSpaceError) as caught:
            ShmQueue(name, buffer_size=enormous)
        assert isinstance(caught.value, OSError)
        assert os.listdir(segment_directory) == []

    def test_a_missing_directory_is_a_clear_error(
        self, name: str, segment_directory: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHMQUEUE_DIR", segment_directory + "/missing")
        with pytest.raises(shmqueue.ShmQueueRefusedError, match="cannot create a segment: No such file or directory"):
            ShmQueue(name)

    def test_running_out_of_descriptors_is_a_clear_error_and_leaves_nothing(self, name: str) -> None:
        code = """
            import os, resource, sys, shmqueue
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1,) * 2)
            try:
                shmqueue.ShmQueue(sys.argv[1])
            except OSError as error:
                print(type(error).__name__, error.strerror)
        """
        assert "Too many open files" in run_python("if True:" + code, name)


def test_the_memory_is_reserved_when_the_queue_is_made(make: Make, name: str) -> None:
    make(buffer_size=1 << 20)
    assert os.stat(segment.path_of(name)).st_blocks * 512 >= 1 << 20


def test_many_processes_that_create_and_close_one_name_never_split_it(name: str, segment_directory: str) -> None:
    storm = """
import sys, shmqueue
for round in range(300):
    q = shmqueue.ShmQueue(sys.argv[1], buffer_size=4096)
    q.put(round)
    q.get()
    q.shutdown()
"""
    with python(storm, name) as one, python(storm, name) as two, python(storm, name) as three:
        for process in (one, two, three):
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
    assert os.listdir(segment_directory) == []


def test_a_descriptor_that_two_threads_close_at_once_is_closed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both_have_looked = threading.Barrier(2, timeout=PATIENCE)
    look = os.fstat
    closed: list[int] = []

    def look_together(number: int) -> os.stat_result:
        found = look(number)
        both_have_looked.wait()
        return found

    descriptor = Descriptor(number := os.open(os.devnull, os.O_RDONLY))
    try:
        with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
            patched.setattr(os, "fstat", look_together)
            patched.setattr(os, "close", closed.append)
            for call in [pool.submit(descriptor.close) for _ in range(2)]:
                call.result()
    finally:
        os.close(number)
    assert closed == [number]
    assert descriptor.number == -1
