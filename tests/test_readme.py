"""The README's programs do what it says that they do.

Fails if: a sample is changed so that it does not run, prints something else than the README shows, or has no test.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import PATIENCE, wait_for_line, wait_until

import shmqueue

README = Path(__file__).parents[1] / "README.md"

REPLACEMENT, LEASE, ASYNCIO, LOGGING, VIEWS = "was: import", "lease(", "asyncio.run", "QueueListener", "put_view"

pytestmark = pytest.mark.usefixtures("engine")


def samples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def sample(word: str) -> str:
    """The one Python sample that contains ``word``."""
    (found,) = [program for program in samples("python") if word in program]
    return found


def run(program: str, tmp_path: Path) -> str:
    (tmp_path / "sample.py").write_text(program)
    ran = subprocess.run([sys.executable, "sample.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_every_python_sample_has_a_test() -> None:
    assert samples("python") == [sample(word) for word in (REPLACEMENT, LEASE, ASYNCIO, LOGGING, VIEWS)]
    assert len(samples("pycon")) == 2


def test_the_replacement_sample_prints_the_squares(tmp_path: Path) -> None:
    assert run(sample(REPLACEMENT), tmp_path) == f"{[number * number for number in range(10)]}\n"


def test_the_frames_arrive(tmp_path: Path) -> None:
    assert run(sample(VIEWS), tmp_path) == f"{640 * 480 * 3} 0\n"


def test_the_consumer_of_frames_takes_the_latest(tmp_path: Path) -> None:
    source = "with open"
    assert sample(VIEWS).count(source) == 1
    older = 'frames.put(b"older")\n'
    assert run(sample(VIEWS).replace(source, 3 * older + source), tmp_path) == f"{640 * 480 * 3} 0\n"


def test_a_job_goes_from_killed_worker_to_worker_and_then_to_the_failed_ones(tmp_path: Path) -> None:
    line = 'print("working on", lease.item, flush=True)'
    assert line in sample(LEASE)
    (tmp_path / "sample.py").write_text(sample(LEASE).replace(line, line + "; input()"))  # works until it is killed
    with shmqueue.ShmQueue("jobs") as jobs, shmqueue.ShmQueue("failed-jobs", keep=True) as failed:
        try:
            jobs.put({"render": 7})
            for _ in range(3):
                with worker(tmp_path) as process:
                    wait_for_line(process, "working on {'render': 7}")
            with worker(tmp_path):
                assert failed.get(timeout=PATIENCE) == {"render": 7}
                wait_until(
                    lambda: jobs.unfinished_tasks == 0, "the job is acknowledged once it is among the failed ones"
                )
        finally:
            failed.unlink()


@contextmanager
def worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """The sample in ``tmp_path``, killed at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "sample.py"], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_asyncio_sample_answers_until_the_shut_down(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(sample(ASYNCIO))
    with shmqueue.ShmQueue("jobs") as jobs, shmqueue.ShmQueue("answers") as answers:
        with subprocess.Popen([sys.executable, "sample.py"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as worker:
            try:
                for number in range(5):
                    jobs.put(number)
                    assert answers.get(timeout=PATIENCE) == number * number
                jobs.shutdown_all()
                assert worker.communicate(timeout=PATIENCE)[1] == ""
            finally:
                worker.kill()
        assert worker.returncode == 0


@pytest.mark.skipif(sys.version_info < (3, 12), reason="dictConfig() makes no queue before Python 3.12")
def test_the_logging_sample_collects_what_is_logged(tmp_path: Path) -> None:
    try:
        assert run(sample(LOGGING), tmp_path) == ""
        assert (tmp_path / "all.log").read_text() == "hello\n"
    finally:
        with shmqueue.ShmQueue("logs") as logs:
            logs.unlink()


def test_the_two_terminals_exchange_what_is_shown(tmp_path: Path) -> None:
    first, second = (
        "\n".join(line.removeprefix(">>> ") for line in sample.splitlines()) for sample in samples("pycon")
    )
    got = 'shmqueue.ShmQueue("jobs").get()'
    assert first.count(got) == 1
    (tmp_path / "first.py").write_text(first.replace(got, f"print({got})"))
    with subprocess.Popen([sys.executable, "first.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            run(second + "\nwhile not jobs.empty(): pass\n", tmp_path)
            shown = waiting.communicate(timeout=PATIENCE)[0].strip()
        finally:
            waiting.kill()
    assert shown == "('render', 7, {'width': 640})"
    assert f"The first terminal shows `{shown}`" in README.read_text()
