"""Measures Celery on brokers: ``python tests/celery_figures.py [--tasks N] [--patience S] [--rounds N] URL...``.

For each URL, in turn: tasks a second of one worker with one process, none of which does anything, from the first that
is given to the last that is done, and how many seconds after ``kill -9`` of a worker its task (``acks_late``) runs
again in another worker.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
START = 600.0  # seconds for a worker to start

GIVE = """
import sys, time
from celery_app import app, nothing
began = time.time()
with app.producer_pool.acquire(block=True) as producer:
    for number in range(int(sys.argv[1])):
        nothing.apply_async((number,), producer=producer)
print(began)
"""


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


class Broker:
    """Workers and tasks at one broker."""

    def __init__(self, url: str, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "BROKER": url,
            "QUEUE": f"celery-{uuid.uuid4().hex}",  # a task that is left would keep the next worker busy
            "SHMQUEUE_DIR": str(directory),
            "RESULTS": str(directory),
            "COUNT": str(directory / "count"),
        }
        self._workers: list[subprocess.Popen[bytes]] = []

    def work(self, name: str) -> subprocess.Popen[bytes]:
        """Start a worker, and wait until it is ready."""
        log = self.directory / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-c", "1", "-n", f"{name}@here"]
        with open(log, "wb") as file:
            worker = subprocess.Popen(
                [*command, "-l", "INFO"],
                cwd=PROGRAMS,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        self._workers.append(worker)
        if not until(lambda: " ready." in log.read_text(), START):
            raise SystemExit(log.read_text())
        return worker

    def give(self, code: str, *arguments: object) -> str:
        """Run a program that gives tasks."""
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(
            command, cwd=PROGRAMS, env=self.environment, check=True, stdout=subprocess.PIPE
        ).stdout.decode()

    def close(self) -> None:
        """Kill all workers."""
        for worker in self._workers:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def tasks_a_second(broker: Broker, count: int) -> float:
    """How many tasks that do nothing are given and done in a second."""
    done = broker.directory / "count"
    began = float(broker.give(GIVE, count))
    if not until(lambda: done.exists() and done.stat().st_size >= count, START):
        raise SystemExit(f"{done.stat().st_size} of {count} tasks were done")
    return count / (done.stat().st_mtime - began)


def seconds_until_again(broker: Broker, first: subprocess.Popen[bytes], patience: float) -> float | None:
    """Seconds from the death of a worker until its task runs again; None, not in time."""
    notes = broker.directory / "notes"
    broker.give("import sys; from celery_app import note; note.delay(sys.argv[1], 3600)", notes)
    if not until(notes.exists, START):
        raise SystemExit("the task did not run")
    broker.work("second")
    killed = time.time()
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    if not until(lambda: notes.read_text().count("\n") > 1, patience):
        return None
    return float(notes.read_text().splitlines()[1].split()[0]) - killed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--tasks", type=int, default=2000)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a killed worker's task")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    for url in options.urls * options.rounds:
        with tempfile.TemporaryDirectory(dir=memory) as directory:
            broker = Broker(url, Path(directory))
            try:
                first = broker.work("first")
                rate = tasks_a_second(broker, options.tasks)
                again = seconds_until_again(broker, first, options.patience)
            finally:
                broker.close()
        after = f"not within {options.patience:g} s" if again is None else f"after {again:.2f} s"
        print(f"{url}: {rate:.0f} tasks/s; the task of a killed worker runs again {after}", flush=True)


if __name__ == "__main__":
    main()
