"""Programs that nobody wrote for this project run unmodified on its queues, and give what they give without them.

The programs of Python's documentation are taken out of it when the tests run: ``SHMQUEUE_TEST_PYTHON_DOCS`` names a
directory with its HTML, such as Debian's package python3.11-doc has.
"""

from __future__ import annotations

import collections
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import pytest
from support import PATIENCE, START_METHODS

from shmqueue import ShmQueue, ShmQueueError, Statistics
from shmqueue.segment import list_names

DOCUMENTATION = os.environ.get("SHMQUEUE_TEST_PYTHON_DOCS", "")
PROGRAMS = Path(__file__).parent / "programs"

pytestmark = pytest.mark.usefixtures("engine")
documented = pytest.mark.skipif(
    not DOCUMENTATION, reason="SHMQUEUE_TEST_PYTHON_DOCS names no directory with Python's documentation"
)


class Samples(HTMLParser):
    """The texts of a page's <pre> elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attributes: object) -> None:
        if tag == "pre":
            self._inside = True
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts[-1] += data


def sample(page: str, *marks: str) -> str:
    """The one program on the page that has all the marks in it."""
    samples = Samples()
    samples.feed((Path(DOCUMENTATION) / page).read_text(encoding="utf-8"))
    (found,) = (text for text in samples.texts if all(mark in text for mark in marks))
    return found


class Ran(NamedTuple):
    """How a program ended, and what its queues had to do."""

    directory: Path
    code: int
    output: list[str]
    errors: list[str]
    queues: list[Statistics]

    @property
    def puts(self) -> list[int]:
        """How many items were put into each of our queues, in order of size."""
        return sorted(queue.puts for queue in self.queues)


class Running:
    """A program that was started, in a directory of its own."""

    def __init__(self, directory: Path, *arguments: object, segments: str) -> None:
        self._directory = directory
        self._output = open(directory / "output", "w+", encoding="utf-8")  # noqa: SIM115
        self._errors = open(directory / "errors", "w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=directory,
            env={**os.environ, "SHMQUEUE_DIR": segments},
            stdout=self._output,
            stderr=self._errors,
            start_new_session=True,
        )
        self._queues: dict[str, ShmQueue] = {}

    def observe(self, hold: bool) -> Ran:
        """Wait for its end; ``hold`` each of our queues that turns up meanwhile, to read its figures at the end."""
        deadline = time.monotonic() + 2 * PATIENCE
        while self._process.poll() is None:
            assert time.monotonic() < deadline, "the program does not end"
            if hold:
                self._hold_new_queues()
            time.sleep(0.002)
        return Ran(
            self._directory,
            self._process.returncode,
            self._read(self._output),
            self._read(self._errors),
            [queue.statistics() for queue in self._queues.values()],
        )

    def end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)  # and what it started
            self._process.wait()
        for queue in self._queues.values():
            queue.shutdown()
        self._output.close()
        self._errors.close()

    def _hold_new_queues(self) -> None:
        for name in list_names():
            if name not in self._queues:
                try:
                    self._queues[name] = ShmQueue(name, create=False)
                except ShmQueueError:
                    pass  # it was gone again

    @staticmethod
    def _read(file: object) -> list[str]:
        file.seek(0)  # type: ignore[attr-defined]
        return list(file.read().splitlines())  # type: ignore[attr-defined]


@pytest.fixture
def both(tmp_path: Path, segment_directory: str) -> Iterator[Callable[..., tuple[Ran, Ran]]]:
    """Runs a program as it is and on our queues, at the same time."""
    started: list[Running] = []

    def run(*arguments: object, files: dict[str, str] | None = None) -> tuple[Ran, Ran]:
        unused = tmp_path / "segments"
        unused.mkdir()
        for prefix, segments in (((), str(unused)), (("-m", "shmqueue.compat"), segment_directory)):
            directory = tmp_path / ("ours" if prefix else "standard")
            directory.mkdir()
            for name, text in (files or {}).items():
                (directory / name).write_text(text, encoding="utf-8")
            started.append(Running(directory, *prefix, *arguments, segments=segments))
        on_ours, as_it_is = started[1].observe(hold=True), started[0].observe(hold=False)
        assert os.listdir(unused) == []
        assert on_ours.code == as_it_is.code, on_ours.errors
        return as_it_is, on_ours

    yield run
    for program in started:
        program.end()


# ---- Python's documentation ----


@documented
def test_workers_and_queues(both: Callable[..., tuple[Ran, Ran]]) -> None:
    """The example of tasks that worker processes take from one queue, and answer through another."""
    program = sample("library/multiprocessing.html", "from multiprocessing import Process, Queue", "Unordered results")
    as_it_is, on_ours = both("program.py", files={"program.py": program})
    assert (as_it_is.code, as_it_is.errors, on_ours.errors) == (0, [], [])

    def answers(ran: Ran) -> list[str]:
        return sorted(re.sub(r"Process-\d+", "somebody", line) for line in ran.output)

    assert len(as_it_is.output) == 31
    assert answers(on_ours) == answers(as_it_is)
    assert on_ours.puts == [30, 34]  # results; tasks, and the word to stop for each of four workers


class Log(NamedTuple):
    """What must be the same in two runs that log at random levels, through random loggers."""

    messages: dict[str, list[str]]
    """Of each worker, in order."""
    is_complete: bool
    """Whether the other files and the console have what the first file says that they must."""


def read_log(ran: Ran) -> Log:
    form = re.compile(r"\S+ \S+ (?P<logger>\S+) +(?P<level>[A-Z]+) +(?P<process>\D*\bworker \d\)?) +(?P<message>.*)")

    def records(file: str) -> list[re.Match[str]]:
        lines = (ran.directory / file).read_text().splitlines()
        found = [form.fullmatch(line) for line in lines]
        assert None not in found, lines
        return [match for match in found if match]

    everything = records("mplog.log")
    messages = collections.defaultdict(list)
    for record in everything:
        messages[record["process"]].append(record["message"])
    errors = [record.string for record in everything if record["level"] in ("ERROR", "CRITICAL")]
    of_foo = [record.string for record in everything if record["logger"].startswith("foo")]
    shown = [line for line in ran.errors if "Message no." in line]
    is_complete = (
        [record.string for record in records("mplog-errors.log")] == errors
        and [record.string for record in records("mplog-foo.log")] == of_foo
        and len(shown) == sum(record["level"] != "DEBUG" for record in everything)
    )
    return Log(dict(messages), is_complete)


@documented
def test_logging_from_workers_to_a_thread(both: Callable[..., tuple[Ran, Ran]]) -> None:
    """The cookbook's QueueHandler in processes, whose records a thread of the main process handles."""
    program = sample("howto/logging-cookbook.html", "def logger_thread(q):")
    as_it_is, on_ours = both("program.py", files={"program.py": program})
    assert as_it_is.code == 0
    expected = [f"Message no. {number}" for number in range(100)]
    assert read_log(as_it_is) == Log({f"worker {number}": expected for number in range(1, 6)}, True)
    assert read_log(on_ours) == read_log(as_it_is)
    assert on_ours.puts == [501]


@documented
def test_logging_from_workers_to_a_listener(both: Callable[..., tuple[Ran, Ran]]) -> None:
    """The cookbook's QueueHandler in processes, whose records a QueueListener in another process handles."""
    program = sample("howto/logging-cookbook.html", "logging.handlers.QueueListener(q, MyHandler())")
    as_it_is, on_ours = both("program.py", files={"program.py": program})
    if any("Unable to configure handler 'queue'" in line for line in as_it_is.errors):
        pytest.skip("this Python's dictConfig() takes no multiprocessing.Queue, neither its own nor ours")
    assert as_it_is.code == 0
    assert read_log(as_it_is).is_complete
    assert read_log(on_ours) == read_log(as_it_is)
    assert sum(len(messages) for messages in read_log(on_ours).messages.values()) == 500
    assert [line for line in on_ours.errors if "Message no." not in line] == [
        line for line in as_it_is.errors if "Message no." not in line
    ]
    assert on_ours.puts == [501]


@documented
def test_primes_in_a_process_pool_executor(both: Callable[..., tuple[Ran, Ran]]) -> None:
    program = sample("library/concurrent.futures.html", "concurrent.futures.ProcessPoolExecutor()", "PRIMES")
    as_it_is, on_ours = both("program.py", files={"program.py": program})
    assert (as_it_is.code, as_it_is.errors, on_ours.errors) == (0, [], [])
    assert len(as_it_is.output) == 6
    assert on_ours.output == as_it_is.output
    (results,) = on_ours.queues  # the other direction is a subclass of the standard library's queue
    assert results.puts >= 6


@documented
def test_a_pool_of_workers(both: Callable[..., tuple[Ran, Ran]]) -> None:
    """It ends with the TimeoutError that it is there to show."""
    program = sample("library/multiprocessing.html", "pool.apply_async(time.sleep, (10,))", "pool.imap(f, range(10))")
    as_it_is, on_ours = both("program.py", files={"program.py": program})
    assert as_it_is.code == 1
    assert as_it_is.output == ["100", str([number * number for number in range(10)]), "0", "1", "4"]
    assert on_ours.output == as_it_is.output
    assert on_ours.errors[-1] == as_it_is.errors[-1] == "multiprocessing.context.TimeoutError"
    assert len([puts for puts in on_ours.puts if puts >= 20]) == 2  # tasks; results


# ---- mpire: pools of workers with a JoinableQueue for each ----


def mpire_samples() -> list[str]:
    """The Python samples of its README, which its distribution carries as its description."""
    metadata = importlib.metadata.metadata("mpire")
    text = metadata["Description"] or str(metadata.get_payload())  # type: ignore[attr-defined]
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?: {4}.*\n|\n)+)", text, re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def test_mpire_as_its_readme_shows_it(both: Callable[..., tuple[Ran, Ran]]) -> None:
    pytest.importorskip("mpire", reason="mpire is not installed")
    with_pool, with_mpire, *_ = mpire_samples()
    assert "from multiprocessing import Pool" in with_pool
    assert "from mpire import WorkerPool" in with_mpire
    fork = "import multiprocessing\n\nmultiprocessing.set_start_method('fork')\n"  # they have no `if __name__`
    program = fork + with_pool + with_mpire + "\nprint(results)\n"  # which they leave to the reader
    as_it_is, on_ours = both("program.py", files={"program.py": program})
    assert (as_it_is.code, as_it_is.errors, on_ours.errors) == (0, [], [])
    assert as_it_is.output == [str([...] * 10)]
    assert on_ours.output == as_it_is.output
    assert len([puts for puts in on_ours.puts if puts]) >= 2 + 5 + 1  # of the Pool; of each worker; their results


@pytest.mark.thorough
@pytest.mark.parametrize("method", START_METHODS)
def test_mpire_in_many_ways(both: Callable[..., tuple[Ran, Ran]], method: str) -> None:
    pytest.importorskip("mpire", reason="mpire is not installed")
    as_it_is, on_ours = both(PROGRAMS / "worker_pool.py", method)
    assert (as_it_is.code, as_it_is.errors, on_ours.errors) == (0, [], [])
    assert on_ours.output == as_it_is.output
    assert len(as_it_is.output) == 5
    assert sum(on_ours.puts) > 100


# ---- loguru: a SimpleQueue between all processes and the thread of one that writes ----


@pytest.mark.parametrize("method", START_METHODS)
def test_loguru_in_workers(both: Callable[..., tuple[Ran, Ran]], method: str) -> None:
    pytest.importorskip("loguru", reason="loguru is not installed")
    as_it_is, on_ours = both(PROGRAMS / "loguru_workers.py", method)
    assert (as_it_is.code, as_it_is.errors, on_ours.errors) == (0, [], [])
    assert on_ours.output == as_it_is.output
    assert len(as_it_is.output) == 5
    assert max(on_ours.puts) == 4 * 200 + 4 + 1  # messages; that all was written; the end
