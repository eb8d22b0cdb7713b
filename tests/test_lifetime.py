"""How long items live: as long as a process has the queue open, or longer with keep=True. None is lost in silence."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import warnings
from collections.abc import Callable

import pytest
from support import python, run_python

import shmqueue
from shmqueue import ShmQueue, segment

Make = Callable[..., ShmQueue]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[Callable[[], object]], tuple[list[str], list[str]]]:
    """Calls something; what it warned of, and what it logged."""

    def call(action: Callable[[], object]) -> tuple[list[str], list[str]]:
        caplog.clear()
        with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO, "shmqueue"):
            warnings.simplefilter("always")
            action()
            gc.collect()
        return (
            [str(one.message) for one in caught if one.category is ResourceWarning],
            [record.getMessage() for record in caplog.records if record.name == "shmqueue"],
        )

    return call


Told = Callable[[Callable[[], object]], "tuple[list[str], list[str]]"]


@pytest.mark.usefixtures("engine")
class TestLosingItems:
    @pytest.mark.parametrize("items", [1, 3])
    def test_the_last_holder_that_closes_says_so(self, name: str, told: Told, items: int) -> None:
        queue = ShmQueue(name)
        queue.put_many(range(items))
        warned, logged = told(queue.close)
        assert len(warned) == len(logged) == 1
        count = "1 item " if items == 1 else "3 items "
        assert name in warned[0]
        assert count in warned[0]
        assert name in logged[0]
        assert count in logged[0]

    def test_one_that_is_forgotten_says_so_too(self, name: str, told: Told) -> None:
        queues = [ShmQueue(name)]
        queues[0].put(1)
        warned, logged = told(queues.clear)
        assert len(warned) == len(logged) == 1
        assert name in warned[0]

    def test_the_warning_is_about_the_programs_own_line(self, name: str) -> None:
        for close in (ShmQueue.close, ShmQueue.shutdown, lambda queue: queue.__exit__(None, None, None)):
            queue = ShmQueue(name)
            queue.put(1)
            with pytest.warns(ResourceWarning) as caught:
                close(queue)
            assert [warning.filename for warning in caught] == [__file__]

    def test_a_holder_that_is_not_the_last_says_nothing(self, make: Make, told: Told) -> None:
        first, second = make(), make()
        first.put(1)
        assert told(first.close) == ([], [])
        assert second.get() == 1

    @pytest.mark.parametrize(
        "empty",
        [
            lambda queue: queue.get(),
            lambda queue: queue.clear(),
            lambda queue: queue.shutdown_all(immediate=True),
            lambda queue: queue.unlink(),
        ],
        ids=["get", "clear", "shutdown_all", "unlink"],
    )
    def test_nothing_is_said_where_nothing_is_lost(
        self, make: Make, told: Told, empty: Callable[[ShmQueue], object]
    ) -> None:
        queue = make()
        queue.put(1)
        empty(queue)
        assert told(queue.close) == ([], [])

    def test_a_program_that_ends_only_logs(self, name: str, segment_directory: str) -> None:
        code = "import sys, shmqueue; q = shmqueue.ShmQueue(sys.argv[1]); q.put(1); q.put(2)"
        with python(code, name) as process:
            output, errors = process.communicate()
        assert output == ""
        (line,) = errors.splitlines()
        assert f"queue {name!r}" in line
        assert "2 items" in line
        assert "Warning" not in line
        assert os.listdir(segment_directory) == []

    @pytest.mark.parametrize("module", ["shmqueue.compat.multiprocessing", "shmqueue.compat.queue"])
    def test_a_queue_without_a_name_says_nothing(self, told: Told, module: str) -> None:
        queues = [importlib.import_module(module).Queue()]
        queues[0].put(None)
        assert told(queues.clear) == ([], [])

    @pytest.mark.parametrize("module", ["shmqueue.compat.multiprocessing", "shmqueue.compat.queue"])
    def test_an_adapter_with_a_name_says_so(self, name: str, told: Told, module: str) -> None:
        queues = [importlib.import_module(module).Queue(name=name)]
        queues[0].put(None)
        warned, logged = told(queues.clear)
        assert len(warned) == len(logged) == 1
        assert name in warned[0]


@pytest.mark.usefixtures("engine")
class TestKeep:
    def test_it_outlives_its_holders(self, name: str, told: Told, make: Make) -> None:
        queue = ShmQueue(name, keep=True)
        queue.put("kept")
        assert told(queue.close) == ([], [])
        assert run_python("import sys, shmqueue; print(shmqueue.ShmQueue(sys.argv[1]).get())", name) == "kept\n"
        queue = make(create=False)
        assert queue.empty()
        queue.unlink()

    def test_it_outlives_a_program_that_ends_without_closing_it(self, name: str, make: Make) -> None:
        run_python("import sys, shmqueue; q = shmqueue.ShmQueue(sys.argv[1], keep=True); q.put(1)", name)
        queue = make(create=False)
        assert queue.get() == 1
        queue.unlink()

    def test_no_sweep_removes_it_though_it_is_empty(self, name: str, make: Make) -> None:
        ShmQueue(name, keep=True).close()
        assert segment.sweep_orphans() == []
        with pytest.raises(shmqueue.ShmQueueExistsError, match="no process has it open"):
            ShmQueue(name, create=True)
        make(create=False).unlink()

    def test_whoever_opens_it_first_decides(self, name: str, segment_directory: str) -> None:
        with ShmQueue(name) as first, ShmQueue(name, keep=True) as second:
            assert not first.keep
            assert not second.keep
        assert os.listdir(segment_directory) == []
        with ShmQueue(name, keep=True) as first, ShmQueue(name) as second:
            assert first.keep
            assert second.keep
            second.unlink()

    def test_a_snapshot_tells_and_is_a_tuple_of_six_all_the_same(self, name: str, make: Make) -> None:
        assert not make("fleeting").snapshot().keep
        queue = make(keep=True)
        assert queue.snapshot().keep
        assert len(queue.snapshot()) == 6
        queue.unlink()

    @pytest.mark.parametrize("module", ["shmqueue.compat.multiprocessing", "shmqueue.compat.queue"])
    @pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
    def test_the_adapters_have_it(self, name: str, make: Make, module: str, kind: str) -> None:
        queues = [getattr(importlib.import_module(module), kind)(name=name, keep=True)]
        queues[0].put("kept")
        queues.clear()
        gc.collect()
        again = getattr(importlib.import_module(module), kind)(name=name)
        assert again.get() == "kept"
        again.close()
        make(create=False).unlink()

    def test_without_a_name_it_is_refused(self) -> None:
        with pytest.raises(shmqueue.ShmQueueValueError, match="keep=True needs a name"):
            importlib.import_module("shmqueue.compat.queue").Queue(keep=True)

    @pytest.mark.parametrize("value", [1, None, "yes"])
    def test_it_is_a_bool(self, name: str, value: object) -> None:
        with pytest.raises(shmqueue.ShmQueueTypeError, match="keep must be a bool"):
            ShmQueue(name, keep=value)  # type: ignore[arg-type]
