"""The checks of the project by name: ``nox -s fast``, or ``nox -l`` for all of them.

Those that need one environment run in the one that nox is installed in, which ``pip install -e '.[dev]'`` makes. The
others make environments of their own under ``.nox``. ``.ci/run`` runs all of it in clean clones.
"""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.4.15"
nox.options.sessions = ["fast", "lint", "typing"]
nox.options.reuse_existing_virtualenvs = True

PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15", "3.14t", "3.15t"]
ROOT = Path(__file__).parent
HERE = Path(sys.executable).parent


def run_here(session: nox.Session, program: str, *arguments: str, **environment: str) -> None:
    """Run a program of the environment that nox is installed in."""
    session.run(str(HERE / program), *arguments, external=True, env=environment)


def as_installed(session: nox.Session) -> Path:
    """A directory that has the package as it is installed: in the checkout parts of it lie beside it."""
    installed = Path(session.create_tmp()).absolute()
    shutil.rmtree(installed / "shmqueue", ignore_errors=True)
    for source, target in (("shmqueue", ""), ("compat", "compat"), ("conformance", "conformance")):
        shutil.copytree(ROOT / source, installed / "shmqueue" / target, dirs_exist_ok=True)
    return installed


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, on every Python that is found; those that are the same on each of them on 3.11 only."""
    session.install(".[test]")
    chosen = () if session.python == "3.11" else ("-m", "not thorough and not once")
    session.run("pytest", "-n", "auto", *chosen, *session.posargs)


@nox.session(venv_backend="none")
def fast(session: nox.Session) -> None:
    """The tests, without those that take long. What follows ``--`` is passed to pytest."""
    run_here(session, "pytest", "-n", "auto", "-m", "not thorough", *session.posargs)


@nox.session(venv_backend="none")
def safety(session: nox.Session) -> None:
    """The groups of tests/safety that follow ``--``, with their options; without any, all in their short form."""
    session.chdir(ROOT / "tests")
    if session.posargs:
        run_here(session, "python", "-m", "safety", *session.posargs)
        return
    sys.path.insert(0, str(ROOT / "tests"))
    for group in importlib.import_module("safety").GROUPS:
        session.run(str(HERE / "python"), "-m", "safety", group, external=True, success_codes=[0, 3])  # 3: no tool


@nox.session(venv_backend="none")
def lint(session: nox.Session) -> None:
    """Style and layers."""
    run_here(session, "ruff", "check", ".")
    run_here(session, "ruff", "format", "--check", ".")
    with session.chdir(as_installed(session)):
        run_here(session, "lint-imports", "--config", str(ROOT / "pyproject.toml"))


@nox.session(venv_backend="none")
def typing(session: nox.Session) -> None:
    """Types, those of the tests too, and what a type checker says of programs that use the package."""
    run_here(session, "mypy")
    run_here(session, "pytest", "-q", "tests/test_typing.py")
    installed = str(as_installed(session))
    with session.chdir(ROOT / "tests"):
        files = sorted(str(path) for path in Path().glob("*.py"))
        run_here(session, "mypy", "--config-file", "../pyproject.toml", *files, "safety", MYPYPATH=installed)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, in a build of its own; what follows ``--`` are options of ``shmqueue bench``."""
    session.install(".[bench]")
    session.run("shmqueue", "bench", *(session.posargs or ["--quick"]))


@nox.session(python=PYTHONS)
def wheels(session: nox.Session) -> None:
    """The wheel of every Python that is found, tried with nothing but what it requires."""
    built = Path(session.create_tmp()).absolute() / "dist"
    session.run("pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(built), str(ROOT))
    session.install("--force-reinstall", *map(str, built.glob("*.whl")))
    with session.chdir(built):
        session.run("python", str(ROOT / "tests/wheel_alone.py"))
