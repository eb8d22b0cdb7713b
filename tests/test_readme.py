"""The README's programs do what it says that they do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE

import shmqueue

README = Path(__file__).parents[1] / "README.md"

pytestmark = pytest.mark.usefixtures("engine")


def samples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def run(program: str, tmp_path: Path) -> str:
    (tmp_path / "sample.py").write_text(program)
    ran = subprocess.run([sys.executable, "sample.py"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_every_python_sample_runs(tmp_path: Path) -> None:
    opening, replacement, _, _, lease = samples("python")
    assert run(opening.replace("q.get()", "print(q.get())"), tmp_path) == "{'hello': 'world'}\n"
    assert run(lease, tmp_path) == "working on {'render': 7}\n"
    assert run(replacement, tmp_path) == f"{[number * number for number in range(10)]}\n"


def test_the_asyncio_sample_answers_until_the_shut_down(tmp_path: Path) -> None:
    (tmp_path / "sample.py").write_text(samples("python")[2])
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


@pytest.mark.skipif(
    sys.version_info < (3, 12) or sys.version_info[:3] == (3, 12, 1),
    reason="dictConfig() makes no queue before Python 3.12, and refuses every queue object in 3.12.1",
)
def test_the_logging_sample_collects_what_is_logged(tmp_path: Path) -> None:
    try:
        assert run(samples("python")[3], tmp_path) == ""
        assert (tmp_path / "all.log").read_text() == "hello\n"
    finally:
        with shmqueue.ShmQueue("logs") as logs:
            logs.unlink()


def test_the_two_terminals_exchange_what_is_shown(tmp_path: Path) -> None:
    first, second = (
        "\n".join(line.removeprefix(">>> ") for line in sample.splitlines()) for sample in samples("pycon")
    )
    (tmp_path / "first.py").write_text(first.replace("jobs.get()", "print(jobs.get())"))
    with subprocess.Popen([sys.executable, "first.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as waiting:
        try:
            run(second + "\nwhile not jobs.empty(): pass\n", tmp_path)
            shown = waiting.communicate(timeout=PATIENCE)[0].strip()
        finally:
            waiting.kill()
    assert shown == "('render', 7, {'width': 640})"
    assert f"The first terminal shows `{shown}`" in README.read_text()
