"""Each group of ``safety``, as briefly as it makes sense, and each fault that it must find."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safety import GROUPS
from safety.busy import at_least

HERE = Path(__file__).parent
PATIENCE = min(at_least(110.0), 300.0)  # seconds

pytestmark = [
    pytest.mark.thorough,  # C programs, models, and storms of processes: the same on every Python
    pytest.mark.timeout(PATIENCE + 10),
]


@pytest.fixture(scope="session", autouse=True)
def objects(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A directory of object files for all runs, of other workers too: a seeded fault changes few sources."""
    mine = tmp_path_factory.getbasetemp()
    directory = (mine.parent if "PYTEST_XDIST_WORKER" in os.environ else mine) / "objects"
    directory.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHMQUEUE_TEST_OBJECTS", str(directory))
        yield


def run(group: str, *arguments: str) -> dict[str, Any]:
    """Run a group in an interpreter of its own, as its command line does."""
    command = [sys.executable, "-m", "safety", group, "--json", *arguments]
    with subprocess.Popen(
        command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            output, errors = process.communicate(timeout=PATIENCE)
        finally:
            with contextlib.suppress(ProcessLookupError):  # a seeded fault may leave children that compute for ever
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 3:
        pytest.skip(errors.strip())
    assert process.returncode in {0, 1}, f"exit status {process.returncode}\n{output}\n{errors}"
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_breaks(group: str) -> None:
    found = run(group)
    print(json.dumps(found["figures"], indent=1))
    assert found["faults"] == []


@pytest.mark.parametrize("group", ["kill_stress", "interruption", "resource_limits", "foreign_files", "life_cycle"])
def test_nothing_breaks_with_the_portable_engine(group: str) -> None:
    found = run(group, "--engine", "portable")
    print(json.dumps(found["figures"], indent=1))
    assert found["faults"] == []


def mutants() -> list[tuple[str, str]]:
    """All seeded faults, or those of one part: SHMQUEUE_TEST_MUTANTS=2/3 is each third one from the second one on."""
    everything = [
        (group, mutant.name) for group in GROUPS for mutant in importlib.import_module(f"safety.{group}").MUTANTS
    ]
    part, _, parts = os.environ.get("SHMQUEUE_TEST_MUTANTS", "1/1").partition("/")
    return everything[int(part) - 1 :: int(parts)]


UNTIL_FOUND = {"life_cycle": ("--seconds", "60"), "sanitizers": ("--seconds", "15")}
"""Groups that end with the first fault, and do not meet each one in every run of five seconds."""


@pytest.mark.parametrize(("group", "mutant"), mutants())
def test_a_seeded_fault_is_found(group: str, mutant: str) -> None:
    found = run(group, "--mutant", mutant, *UNTIL_FOUND.get(group, ()))
    print(*found["faults"][:5], sep="\n")
    assert found["faults"]
