"""The documents: links that lead somewhere, commands that exist, and a README that is short.

Fails if: a file or heading that a document refers to is gone, a sample is added that no test runs, a command or an
option in a sample does not exist, or the README grows.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for place in ("compat", "conformance", "shmqueue", "tests") for path in (ROOT / place).rglob("*.md")),
    ]
)
README = ROOT / "README.md"

SET_UP = "python3 -m venv .venv && .venv/bin/pip install -q "
RUN_BY_CI = [
    f"{SET_UP}'.[cli]' && .venv/bin/shmqueue demo",
    f"{SET_UP}'.[test]' && .venv/bin/pytest -n auto -m 'not thorough'",
    f"{SET_UP}'.[conformance]' && cd / && \"$OLDPWD/.venv/bin/python\" -m shmqueue.conformance"
    " --target shmqueue.compat.multiprocessing:Queue --examples 60",
]
"""The lines that ``.ci/run`` takes out of the README and runs in a clean clone."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def samples(document: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages ("" for none)."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)
    return [block for language, block in found if language in languages]


def anchors(document: Path) -> set[str]:
    """What links to headings of a document are called, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_all_documents_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "compat/README.md", "tests/safety/README.md"} <= set(map(named, DOCUMENTS))


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(document: Path) -> None:
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))  # ShmQueue[Job]("jobs") is none
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), link
        if heading:
            assert heading in anchors(target), link


def test_every_document_is_linked_from_another_one() -> None:
    linked = {
        (document.parent / link.partition("#")[0]).resolve()
        for document in DOCUMENTS
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    }
    assert [named(document) for document in DOCUMENTS if document != README and document not in linked] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_test_file_that_is_named_exists(document: Path) -> None:
    for name in re.findall(r"`(test_[\w*]+)(?:\.py)?`", document.read_text()):
        assert list((ROOT / "tests").glob(f"{name}.py")), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_group_of_the_safety_checks_that_is_named_exists(document: Path) -> None:
    in_code = "\n".join(re.findall(r"`[^`\n]*safety [^`\n]*`", document.read_text()))
    for group in re.findall(r"safety ([a-z_]+)", in_code):
        assert (ROOT / "tests" / "safety" / f"{group}.py").is_file(), group


def test_programs_outside_the_readme_are_files_that_other_tests_run() -> None:
    """The README's own tests run its programs. What else the other documents show are commands, checked here."""
    programs = {path.read_text() for path in (ROOT / "tests" / "programs").glob("*.py")}
    others = [sample for document in DOCUMENTS if document != README for sample in samples(document, "python", "pycon")]
    assert [sample for sample in others if sample not in programs] == []


def test_there_is_one_way_to_set_up_a_checkout() -> None:
    lines = [
        (named(document), line)
        for document in DOCUMENTS
        for block in samples(document, "sh")
        for line in block.splitlines()
        if " -e " in line
    ]
    assert lines == [("CONTRIBUTING.md", f"{SET_UP}-e '.[dev]'")]


def test_every_session_of_nox_that_is_named_exists() -> None:
    sessions = set(
        re.findall(
            r"^@nox.session.*\ndef (\w+)\(session: nox.Session\)", (ROOT / "noxfile.py").read_text(), re.MULTILINE
        )
    )
    named_by = {named(path): path.read_text() for path in [*DOCUMENTS, ROOT / ".ci/run", ROOT / "noxfile.py"]}
    uses = [
        (document, session)
        for document, text in named_by.items()
        for names in re.findall(r"nox -s ([\w ]*\w)", text)
        for session in names.split()
    ]
    assert {session for _, session in uses} == sessions
    assert [use for use in uses if use[1] not in sessions] == []


# ---- commands ----


def command_lines() -> list[tuple[str, str]]:
    """The document and the text of each line of the shell samples."""
    lines = []
    for document in DOCUMENTS:
        for block in samples(document, "sh"):
            joined = re.sub(r"\n +", " ", block)  # options on a line of their own continue the line before
            lines += [(named(document), line) for line in joined.splitlines()]
    return lines


CHECKED_OTHERWISE = {
    ("compat/README.md", "python -m shmqueue.compat program.py arguments"),
    ("shmqueue/cli/README.md", """shmqueue put --keep jobs '{"width": 640}'"""),
    ("shmqueue/cli/README.md", "shmqueue peek jobs"),
    ("shmqueue/cli/README.md", "shmqueue get jobs"),
    ("shmqueue/cli/README.md", "shmqueue rm jobs"),
}
"""Run by the tests at the end of this module."""


@pytest.mark.parametrize(("document", "line"), sorted({*command_lines()} - CHECKED_OTHERWISE))
def test_the_parts_of_a_command_line_exist(document: str, line: str, tmp_path: Path) -> None:
    where = ROOT
    for part in re.split(r" && ", line):
        words = shlex.split(part)
        if words[0] == "cd":
            where = tmp_path if words[1] == "/" else ROOT / words[1]
        elif "venv" in words:
            assert words == ["python3", "-m", "venv", ".venv"]
        elif words[0].endswith("/pip"):
            (extra,) = re.findall(r"\.\[(\w+)\]", words[-1])
            assert re.search(rf"^{extra} = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE), extra
        elif words[0].endswith(("/mypy", "/ruff", "/lint-imports")) or words[1:3] in (
            ["-m", "build"],
            ["-m", "cibuildwheel"],
        ):
            continue  # of the extra "dev", which not every environment has; `.ci/run` runs them
        elif words[0].endswith("/pytest"):
            assert_parsed([str(Path(sys.executable).with_name("pytest")), *words[1:]], where)
        elif words[0].endswith("python"):
            is_installed = words[2].startswith("shmqueue")  # and in the checkout is the source tree, without `compat`
            assert_parsed([sys.executable, *words[1:]], tmp_path if is_installed else where)
        else:
            assert words[0].endswith("shmqueue"), part
            assert_parsed([sys.executable, "-m", "shmqueue.cli", *words[1:]], where)


def assert_parsed(command: list[str], where: Path) -> None:
    """The command accepts its arguments: with ``--help`` beside them it prints its help, and no error."""
    ran = subprocess.run([*command, "--help"], cwd=where, capture_output=True, text=True, timeout=3 * PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, ""), command
    assert "usage" in ran.stdout.lower()


def test_the_lines_that_ci_runs_are_in_the_readme() -> None:
    lines = README.read_text().splitlines()
    assert [line for line in lines if line.startswith(SET_UP)] == RUN_BY_CI
    for word in ("shmqueue demo", "pytest", "shmqueue.conformance"):
        assert len([line for line in lines if re.match(rf"python3 -m venv .*{word}", line)]) == 1


@pytest.mark.usefixtures("engine")
def test_the_sample_of_the_command_puts_and_takes(tmp_path: Path) -> None:
    (block,) = samples(ROOT / "shmqueue/cli/README.md", "sh")
    (tmp_path / "shmqueue").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m shmqueue.cli "$@"\n')
    (tmp_path / "shmqueue").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run(
        ["sh", "-e", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, '{"width": 640}\n' * 2, "")


def test_the_sample_of_the_stand_ins_runs_an_unchanged_program(tmp_path: Path) -> None:
    (block,) = samples(ROOT / "compat/README.md", "sh")
    (tmp_path / "program.py").write_text(
        "import multiprocessing, sys\nprint(type(multiprocessing.Queue()).__module__, sys.argv[1:])\n"
    )
    command = [sys.executable, *shlex.split(block)[1:]]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "shmqueue.compat._queues ['arguments']\n"
