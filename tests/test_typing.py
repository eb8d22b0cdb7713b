"""What type checkers say about programs that use the package.

The programs are in ``typing/samples``. Each line that ends in ``# E:`` has a mistake, and no other line has one. That
they can be imported is tested as well: an annotation that only a type checker understands helps nobody.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE
from typing_support import install, mypy

from shmqueue import ShmQueue
from shmqueue.compat import multiprocessing as our_multiprocessing
from shmqueue.compat import queue as our_queue

SAMPLES = sorted(Path(__file__).parent.joinpath("typing", "samples").glob("*.py"))
Lines = set[tuple[str, int]]


def expected() -> Lines:
    """File and number of each line that has a mistake."""
    return {
        (sample.name, number)
        for sample in SAMPLES
        for number, line in enumerate(sample.read_text().splitlines(), 1)
        if line.endswith("# E:")
    }


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the samples, and the package in ``path``."""
    directory = tmp_path_factory.mktemp("typing")
    install(directory)
    for sample in SAMPLES:
        shutil.copy(sample, directory)
    return directory


def compare(found: Lines, output: str) -> None:
    assert found == expected(), (
        f"not reported: {sorted(expected() - found)}\nreported: {sorted(found - expected())}\n{output}"
    )


def test_there_are_samples_with_mistakes() -> None:
    assert {name for name, _ in expected()} == {sample.name for sample in SAMPLES}
    assert len(SAMPLES) > 1


@pytest.mark.timeout(20 * PATIENCE)
@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_mypy_finds_the_mistakes_and_no_others(program: Path, version: str) -> None:
    output = mypy(program, "--python-version", version, *(sample.name for sample in SAMPLES))
    found = re.findall(r"^(\w+\.py):(\d+): error:", output, re.MULTILINE)
    compare({(name, int(number)) for name, number in found}, output)


@pytest.mark.thorough
@pytest.mark.timeout(20 * PATIENCE)
@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_pyright_finds_the_mistakes_and_no_others(program: Path, version: str) -> None:
    pytest.importorskip("pyright", reason="pyright is not installed")
    if shutil.which("node") is None:
        pytest.skip("pyright needs node, which is not installed")
    settings = {"typeCheckingMode": "strict", "pythonVersion": version, "extraPaths": ["path"], "exclude": ["path"]}
    (program / "pyrightconfig.json").write_text(json.dumps(settings))
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=program,
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,
    )
    reports = json.loads(ran.stdout)["generalDiagnostics"]
    found = {
        (Path(report["file"]).name, report["range"]["start"]["line"] + 1)
        for report in reports
        if report["severity"] == "error"
    }
    compare(found, ran.stdout)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_the_samples_can_be_imported(sample: Path) -> None:
    pytest.importorskip("typing_extensions", reason="typing_extensions is not installed")
    spec = importlib.util.spec_from_file_location(sample.stem, sample)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


# ---- at run time ----


def test_a_class_with_its_parameter_makes_queues(engine: str, name: str) -> None:
    for make in (lambda: ShmQueue[int](name), lambda: our_queue.Queue[int](), lambda: our_queue.SimpleQueue[int]()):
        with make() as q:
            q.put(1)
            assert q.get() == 1


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue", "SimpleQueue"])
def test_what_makes_a_queue_of_multiprocessing_can_be_subscripted(engine: str, name: str, kind: str) -> None:
    maker = getattr(our_multiprocessing, kind)
    with maker[int](name=name) as q, maker(name=name) as same:
        assert type(q) is type(same)
        q.put(1)
        assert same.get() == 1
    assert str(maker[int]) == f"shmqueue.compat.multiprocessing.{kind}[int]"
    assert pickle.loads(pickle.dumps(maker)) is maker
    assert inspect.signature(maker) == inspect.signature(getattr(our_multiprocessing.get_context(), kind))


def test_a_subclass_with_a_parameter_travels_and_is_what_it_was(engine: str, name: str) -> None:
    with Numbers(name) as q:
        q.put(1)
        with pickle.loads(pickle.dumps(q)) as same:
            assert type(same) is Numbers
            assert same.get() == 1


class Numbers(ShmQueue[int]):
    pass


def test_the_names_of_multiprocessing_that_a_type_checker_knows_are_all() -> None:
    """A type checker knows only those that are listed, and the list is not what runs."""
    listed = set(re.findall(r'^        "(\w+)",$', inspect.getsource(our_multiprocessing), re.MULTILINE))
    assert listed == set(our_multiprocessing.__all__)
