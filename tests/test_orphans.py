"""Queues whose holders were all killed: nothing removes their items unasked, and the next process can go on."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from orphans_support import ITEMS, leave_orphan
from support import PATIENCE, overwrite, python, run_python, wait_for_line

import shmqueue
from shmqueue import ShmQueue, segment
from shmqueue.segment import removal

Make = Callable[..., ShmQueue]


def taken(queue: ShmQueue) -> list[object]:
    return [queue.get(False) for _ in range(queue.qsize())]


def start_of(path: str) -> bytes:
    """What a file begins with. It may end far behind: a queue's file is as large as the queue could grow."""
    with open(path, "rb") as file:
        return file.read(1 << 20)


@pytest.fixture
def orphan(engine: str, name: str) -> Iterator[str]:
    """The name of a queue with twelve items that no process has open."""
    path = leave_orphan(name)
    yield name
    if os.path.exists(path):
        os.unlink(path)


class TestLooking:
    """Nothing but rm, unlink() and its own last holder removes a queue with a name and items."""

    def test_other_queues_are_opened_and_closed_beside_it(self, orphan: str, make: Make) -> None:
        for number in range(3):
            make(f"another-{number}").put(1)
            make(f"another-{number}", create=False).close()
        make("new", create=True)
        assert taken(make(orphan)) == ITEMS

    def test_of_two_orphans_each_keeps_its_items(self, orphan: str, make: Make) -> None:
        leave_orphan("results")
        assert taken(make("results")) == ITEMS
        assert taken(make(orphan)) == ITEMS

    @pytest.mark.parametrize("module", ["shmqueue.compat.multiprocessing", "shmqueue.compat.queue"])
    def test_an_adapter_opens_an_unnamed_queue(self, orphan: str, module: str, make: Make) -> None:
        queue = importlib.import_module(module).Queue()
        assert queue.empty()
        queue.close()
        assert taken(make(orphan)) == ITEMS

    def test_a_sweep(self, orphan: str, make: Make) -> None:
        assert segment.sweep_orphans() == []
        assert taken(make(orphan)) == ITEMS

    def test_a_look_changes_nothing(self, orphan: str, make: Make) -> None:
        from shmqueue import inspection

        path = segment.path_of(orphan)
        before = start_of(path)
        info = inspection.look_at(orphan)
        assert [info] == inspection.list_queues() == inspection.list_queues(all_users=True)
        assert (info.items, info.holders, info.problem, info.keep) == (len(ITEMS), [], None, False)
        assert (info.name, info.path, info.user) == (orphan, path, os.geteuid())
        assert start_of(path) == before
        assert taken(make(orphan)) == ITEMS

    def test_a_pickled_handle_of_an_earlier_queue_of_that_name(self, engine: str, name: str, make: Make) -> None:
        with ShmQueue(name) as earlier:
            pickled = pickle.dumps(earlier)
            earlier.unlink()
        leave_orphan(name)
        with pytest.raises(shmqueue.ShmQueueError):
            pickle.loads(pickled).qsize()
        assert taken(make(name)) == ITEMS

    def test_a_process_that_has_no_room_to_map_it(self, orphan: str, make: Make) -> None:
        code = """
            import resource, sys, shmqueue
            with shmqueue.ShmQueue("warm"):
                pass
            os = shmqueue.segment.lifecycle.os
            pages = int(open("/proc/self/statm").read().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)
            try:
                shmqueue.ShmQueue(sys.argv[1])
            except (MemoryError, shmqueue.ShmQueueError):
                os._exit(0)
            os._exit(1)
        """
        with python("if True:" + code, orphan) as process:
            process.communicate()
        assert taken(make(orphan)) == ITEMS

    def test_the_other_engine_may_not_attach(self, orphan: str, engine: str, make: Make) -> None:
        with python(
            "import os, sys, shmqueue\nos.environ['SHMQUEUE_ENGINE'] = sys.argv[2]\n"
            "try: shmqueue.ShmQueue(sys.argv[1], create=False)\n"
            "except shmqueue.ShmQueueRefusedError: print('refused')",
            orphan,
            "portable" if engine == "native" else "native",
        ) as process:
            assert process.communicate()[0] == "refused\n"
        assert taken(make(orphan)) == ITEMS

    def test_create_true_says_that_it_is_there(self, orphan: str, make: Make) -> None:
        with pytest.raises(shmqueue.ShmQueueExistsError, match="has 12 items and no process has it open"):
            ShmQueue(orphan, create=True)
        assert taken(make(orphan)) == ITEMS


class TestRemoving:
    def test_an_empty_one_makes_way_for_a_new_one(self, engine: str, name: str, make: Make) -> None:
        leave_orphan(name, items=0)
        assert make(name, create=True)._segment.created

    def test_an_empty_one_that_was_shut_down_does_so_without_being_asked(
        self, engine: str, name: str, make: Make
    ) -> None:
        code = "import os, sys, shmqueue; shmqueue.ShmQueue(sys.argv[1]).shutdown_all(); os.kill(os.getpid(), 9)"
        with python(code, name) as process:
            process.communicate()
        queue = make(name)
        queue.put(1)
        assert queue.get() == 1

    def test_a_sweep_removes_what_is_empty_or_has_no_name_to_open_it_by(self, engine: str, name: str) -> None:
        leave_orphan(name, items=0)
        with python(
            "import os, shmqueue.compat.queue as queue; q = queue.Queue(); q.put(1); os.kill(os.getpid(), 9)"
        ) as process:
            process.communicate()
        swept = segment.sweep_orphans()  # the other process may have swept the first one, by chance
        assert set(swept) - {name} == {entry for entry in swept if entry.startswith("unnamed-")} != set()
        assert os.listdir(segment.directory()) == []

    def test_orphans_are_removed_when_that_is_asked_for(self, orphan: str, make: Make) -> None:
        from shmqueue import inspection

        make("held").put(1)
        assert [(info.name, info.items) for info in inspection.remove_orphans()] == [(orphan, 12)]
        assert segment.list_names() == ["held"]

    @pytest.mark.parametrize("moment", ["after the listing", "before the lock"])
    @pytest.mark.parametrize("what", ["kept", "in transit"])
    def test_one_that_is_used_meanwhile_stays(
        self, orphan: str, what: str, moment: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        inspection = importlib.import_module("shmqueue.inspection")
        module, function = (inspection, "list_queues") if moment == "after the listing" else (removal, "lock_alone")
        original = getattr(module, function)
        pickles = []

        def use_it_and_go_on(*arguments: object) -> object:
            monkeypatch.setattr(module, function, original)
            result = original(*arguments) if module is inspection else None
            with ShmQueue(orphan, create=False, keep=what == "kept") as q:
                q.put("another")
                if what == "in transit":
                    pickles.append(pickle.dumps(q))
            return result if module is inspection else original(*arguments)

        monkeypatch.setattr(module, function, use_it_and_go_on)
        assert inspection.remove_orphans() == []
        q = ShmQueue(orphan, create=False)
        assert taken(q) == [*ITEMS, "another"]
        for pickled in pickles:
            pickle.loads(pickled).close()
        q.unlink()
        q.close()

    def test_one_is_removed_by_its_name(self, orphan: str) -> None:
        from shmqueue import inspection

        assert inspection.remove_queue(orphan).items == 12
        assert os.listdir(segment.directory()) == []
        with pytest.raises(shmqueue.ShmQueueNotFoundError, match=orphan):
            inspection.remove_queue(orphan)

    def test_a_queue_that_is_open_loses_its_name_only(self, engine: str, make: Make, name: str) -> None:
        from shmqueue import inspection

        queue = make()
        queue.put(1)
        assert inspection.remove_queue(name).holders == [os.getpid()]
        assert queue.get() == 1
        assert make()._segment.header.uuid != queue._segment.header.uuid

    def test_two_that_take_a_name_away_leave_the_next_queue_alone(self, engine: str, name: str) -> None:
        code = """
import sys, shmqueue
for _ in range(200):
    q = shmqueue.ShmQueue(sys.argv[1])
    q.unlink()
    q.close()
"""
        with python(code, name) as one, python(code, name) as two:
            for process in (one, two):
                assert process.communicate()[1] == ""
        assert os.listdir(segment.directory()) == []


class TestReplacing:
    """A file that nobody has open and that cannot be used makes way, and it is said what was in it."""

    @pytest.mark.parametrize(
        ("spoil", "why", "count"),
        [
            (lambda path: overwrite(path, 16, b"\x01"), "layout version 1", "an unknown number of items"),
            (lambda path: overwrite(path, 48, b"zz"), "its header is corrupted", "12 items"),
            (lambda path: os.truncate(path, 4096), "truncated", "12 items"),
            (lambda path: os.truncate(path, 64), "only 64 bytes", "an unknown number of items"),
            (lambda path: os.truncate(path, 0), "its header is empty", "an unknown number of items"),
            (lambda path: overwrite(path, 0, bytes(4096)), "its header is empty", "an unknown number of items"),
        ],
        ids=["an older version", "a corrupted header", "cut off", "cut off in the header", "empty", "zeros"],
    )
    @pytest.mark.parametrize("create", [None, True])
    def test_what_cannot_be_used(
        self,
        orphan: str,
        make: Make,
        spoil: Callable[[str], None],
        why: str,
        count: str,
        create: bool | None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        spoil(segment.path_of(orphan))
        with pytest.raises(shmqueue.ShmQueueRefusedError, match=why):
            ShmQueue(orphan, create=False)
        with caplog.at_level(logging.WARNING, "shmqueue"), pytest.warns(ResourceWarning, match=f"{why}.*{count}"):
            queue = make(orphan, create=create)
        assert orphan in caplog.text
        assert count in caplog.text
        queue.put("works")
        assert taken(queue) == ["works"]
        segment.sweep_orphans()  # without its header nobody knows the sidecar of a portable one

    def test_one_of_the_other_engine(self, name: str, engine: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
        leave_orphan(name)
        monkeypatch.setenv("SHMQUEUE_ENGINE", "portable" if engine == "native" else "native")
        with pytest.warns(ResourceWarning, match=f"belongs to the {engine} engine.*12 items"):
            queue = make(name)
        assert queue.empty()

    def test_one_of_the_other_engine_that_is_to_be_kept_stays(
        self, name: str, engine: str, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with make(name, keep=True) as queue:
            queue.put(1)
        with monkeypatch.context() as other:
            other.setenv("SHMQUEUE_ENGINE", "portable" if engine == "native" else "native")
            for create in (None, True, False):
                with pytest.raises(shmqueue.ShmQueueError, match=f"{engine} engine|is there|has 1 item"):
                    make(name, create=create)
        queue = make(name)
        assert taken(queue) == [1]
        queue.unlink()

    def test_what_is_in_use_stays(self, engine: str, make: Make, name: str) -> None:
        queue = make()
        queue.put(1)
        overwrite(segment.path_of(name), 48, b"zz")
        with pytest.raises(shmqueue.ShmQueueRefusedError, match="its header is corrupted"):
            ShmQueue(name)
        assert queue.get() == 1

    def test_what_is_no_segment_stays(self, engine: str, name: str) -> None:
        path = segment.path_of(name)
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
            file.write(b"somebody's data" * 1000)
        with pytest.raises(shmqueue.ShmQueueRefusedError, match="it is not a shmqueue segment"):
            ShmQueue(name)
        with pytest.raises(shmqueue.ShmQueueExistsError):
            ShmQueue(name, create=True)
        assert Path(path).read_bytes() == b"somebody's data" * 1000
        os.unlink(path)


class TestAdopting:
    """A process that opens an orphan finds its items, wherever its holders lived."""

    @pytest.mark.parametrize("create", [None, False])
    def test_from_another_pid_namespace(self, engine: str, name: str, make: Make, create: bool | None) -> None:
        leave_orphan(name, namespace=4711)
        queue = make(name, create=create)
        assert taken(queue) == ITEMS
        assert make(name).empty()  # a second one attaches beside the first

    def test_while_processes_there_have_it_open_it_is_refused(
        self, engine: str, name: str, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("shmqueue.segment.lifecycle.pid_namespace", lambda: 4711)
            queue = make()
            queue.put(1)
        with pytest.raises(shmqueue.ShmQueueRefusedError, match="another pid namespace"):
            ShmQueue(name)
        assert queue.get() == 1

    @pytest.mark.usefixtures("native")
    @pytest.mark.parametrize("namespace", [0, 4711])
    @pytest.mark.parametrize("whose", ["init's", "this one's"])
    def test_lock_words_of_threads_that_live_again_are_cleared(
        self, name: str, make: Make, namespace: int, whose: str
    ) -> None:
        """As after a power cut, with SHMQUEUE_DIR on a disk: the thread ids are other threads' by then."""
        path = leave_orphan(name, namespace=namespace)
        thread = 1 if whose == "init's" else os.getpid()
        for offset in (256, 512):
            overwrite(path, offset, struct.pack("=I", thread | 0x80000000))
        for offset in (388, 644, 780):
            overwrite(path, offset, struct.pack("=I", 1))
        queue = make(name)
        queue.put("more", timeout=PATIENCE)
        assert queue.get(timeout=PATIENCE) == 0
        queue.clear()
        assert queue.empty()
        assert queue.statistics().recoveries == 2

    def test_a_mark_of_a_dead_owner_is_no_obstacle(
        self, name: str, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
        overwrite(leave_orphan(name), 129, b"\1\1\0\1")
        queue = make(name)
        queue.put("more", timeout=PATIENCE)
        assert taken(queue) == [*ITEMS, "more"]
        assert queue.statistics().recoveries == 1

    @pytest.mark.usefixtures("native")
    def test_a_lock_whose_owner_still_uses_the_memory_is_respected(self, name: str, make: Make) -> None:
        path = leave_orphan(name)
        code = """
            import mmap, os, struct, sys
            with open(sys.argv[1], "r+b") as file:
                memory = mmap.mmap(file.fileno(), 0)
            struct.pack_into("=I", memory, 256, os.getpid())
            print("owns", flush=True)
            sys.stdin.read()
        """
        with python("if True:" + code, path) as owner:
            wait_for_line(owner, "owns")
            queue = make(name)
            with pytest.raises(shmqueue.ShmQueueFull):
                queue.put("more", timeout=0.01)
            owner.kill()
        queue.put("more", timeout=20.0)
        assert taken(queue) == [*ITEMS, "more"]

    def test_with_keep_it_is_kept_from_then_on(self, orphan: str) -> None:
        with ShmQueue(orphan, keep=True) as queue:
            assert queue.keep
        with ShmQueue(orphan) as queue:
            assert taken(queue) == ITEMS
            queue.unlink()


# ---- children that inherited a queue ----

INHERITED = """
import os, signal, sys
from shmqueue.compat import multiprocessing as mp

q = mp.get_context("fork").Queue()
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.write(writing, b"up")
    signal.pause()
os.read(reading, 2)
q.close()
print(len(os.listdir(os.environ["SHMQUEUE_DIR"])) > 0)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


@pytest.mark.usefixtures("engine")
def test_a_queue_that_a_killed_child_held_last_is_removed_when_the_parent_ends(segment_directory: str) -> None:
    """It has no name, so no process could ever open it."""
    assert run_python(INHERITED) == "True\n"
    assert os.listdir(segment_directory) == []
