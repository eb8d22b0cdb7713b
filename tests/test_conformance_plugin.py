"""The conformance suite in a project of its own: a subclass is all it takes, wherever the package is installed.

Fails if: pytest does not find the plugin through the installed package, a subclass needs a setting, a broken queue
passes, or its failure shows the kit's own code instead of the program that breaks the clause.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = """
import queue

from shmqueue.conformance.testing import QueueConformance


class Plain(queue.Queue):
    pass


class Reversed(queue.LifoQueue):
    pass


class TestByName(QueueConformance):
    target = "queue:Queue"


class TestAClass(QueueConformance):
    target = Plain
    start_method = "threads"
    profile = "queue.Queue"


class TestBroken(QueueConformance):
    target = Reversed
    start_method = "threads"
    profile = "queue.Queue"


class TestForgotten(QueueConformance):
    pass
"""


def run_pytest(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The tests of that project, with nothing of this checkout but what is installed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST_", "PYTHON"))}
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--strict-markers", "-W", "error", *arguments]
    if sys.version_info < (3, 11):
        command.remove("-P")
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with one file of tests, and nothing else."""
    (tmp_path / "test_queues.py").write_text(PROJECT)
    return tmp_path


def test_a_subclass_is_all_that_a_project_needs(project: Path) -> None:
    ran = run_pytest(
        project,
        "-k",
        "(ByName or AClass) and (many_steps or empty-raises or get-woken or linear)",
        "--conformance-examples",
        "5",
        "--conformance-seed",
        "3",
    )
    assert ran.returncode == 0, ran.stdout
    assert "failed" not in ran.stdout


@pytest.mark.thorough
def test_a_broken_queue_fails_with_its_program_and_not_with_the_kits_code(project: Path) -> None:
    ran = run_pytest(project, "-k", "Broken and many_steps")
    assert ran.returncode == 1, ran.stdout
    assert "items come out in the order in which they went in" in ran.stdout
    assert "1. worker" in ran.stdout
    assert "Traceback" not in ran.stdout
    assert "testing.py" not in ran.stdout


def test_a_subclass_without_a_queue_class_says_what_it_needs(project: Path) -> None:
    ran = run_pytest(project, "-k", "Forgotten and many_steps")
    assert ran.returncode == 1, ran.stdout
    assert "TestForgotten needs a queue class to test: target = MyQueue" in ran.stdout


def test_a_marker_leaves_these_tests_out(project: Path) -> None:
    (project / "test_other.py").write_text("def test_nothing(): pass\n")
    ran = run_pytest(project, "-m", "not conformance")
    assert ran.returncode == 0, ran.stdout
    assert "1 passed" in ran.stdout


def test_a_run_without_such_tests_does_not_load_the_kit(project: Path) -> None:
    (project / "test_queues.py").write_text(
        "import sys\n\n\ndef test_what_is_loaded():\n"
        "    kit = {name for name in sys.modules if name.startswith('shmqueue')}\n"
        "    assert kit == {'shmqueue', 'shmqueue.pytest_plugin'}\n"
    )
    ran = run_pytest(project)
    assert ran.returncode == 0, ran.stdout
