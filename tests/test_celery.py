"""Celery on ``shm://``: tasks run, workers hear each other, and a killed worker's task runs again at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, wait_until

pytest.importorskip("celery", reason="celery is not installed")

from shmqueue import inspection
from shmqueue.compat.kombu import remove

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(600)]

PROGRAMS = Path(__file__).parent / "programs"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """That of the workers and of who gives them tasks."""
    (tmp_path / "results").mkdir()
    return {**os.environ, "BROKER": "shm://", "RESULTS": str(tmp_path / "results")}


@pytest.fixture
def worker(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts workers, and returns when they are ready; at the end they are killed with their children."""
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *options: str) -> subprocess.Popen[bytes]:
        log = tmp_path / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-n", f"{name}@here", "-l", "INFO"]
        with open(log, "wb") as file:
            process = subprocess.Popen(
                [*command, *options],
                cwd=PROGRAMS,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        _in_time(lambda: process.poll() is not None or " ready." in log.read_text(), f"worker {name} is ready")
        assert process.poll() is None, log.read_text()
        return process

    try:
        yield start
    finally:
        for process in started:
            _kill(process)
        remove()


@pytest.fixture
def ask(environment: dict[str, str]) -> Callable[[str], str]:
    """Runs a statement that knows the application's names, in a process of its own; returns what it prints."""

    def run(code: str) -> str:
        ran = subprocess.run(
            [sys.executable, "-c", f"from celery_app import *; {code}"],
            cwd=PROGRAMS,
            env=environment,
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def _in_time(condition: Callable[[], Any], what: str) -> None:
    """A worker takes seconds to start, and many on a machine that does a lot else."""
    for _ in range(10):
        try:
            return wait_until(condition, what)
        except AssertionError:
            continue
    raise AssertionError(f"never happened: {what}")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("pool", [("-P", "solo"), ("-c", "2"), ("-P", "threads", "-c", "2")], ids=lambda pool: pool[1])
def test_tasks_run_and_workers_answer(
    worker: Callable[..., subprocess.Popen[bytes]], ask: Callable[[str], str], pool: tuple[str, ...]
) -> None:
    process = worker("one", *pool)
    assert ask("print([add.delay(n, n).get(timeout=120) for n in range(5)])") == "[0, 2, 4, 6, 8]\n"
    assert ask("print(app.control.inspect(timeout=60, limit=1).ping())") == "{'one@here': {'ok': 'pong'}}\n"
    assert "kombu.celery" in [info.name for info in inspection.list_queues()]
    process.send_signal(signal.SIGTERM)
    assert process.wait(10 * PATIENCE) == 0
    left = {info.name for info in inspection.list_queues()}
    assert not [name for name in left if "pidbox" in name or "celeryev" in name]


def test_the_task_of_a_killed_worker_runs_again_at_once(
    worker: Callable[..., subprocess.Popen[bytes]], ask: Callable[[str], str], tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    first = worker("first", "-c", "1")
    ask(f"note.delay({str(notes)!r}, 3600)")
    _in_time(notes.exists, "the task runs")
    second = worker("second", "-c", "1")
    assert len(notes.read_text().splitlines()) == 1
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    _in_time(lambda: len(notes.read_text().splitlines()) == 2, "the task runs again")
    began, again = (line.split() for line in notes.read_text().splitlines())
    assert (began[1:], again[1:]) == (["False", "first@here"], ["True", "second@here"])
    _kill(second)
