"""Run the tests on every Python that is here, and print the table of what was tested: ``python tests/platforms.py``.

``python tests/platforms.py [PYTHON]... [--as-is] [--logs DIR] [--out FILE] [-- PYTEST ARGUMENTS]`` takes interpreters
by path, and without any those that it finds, 3.10 to 3.15 and those without a GIL. Each gets a clone of this checkout's
HEAD and an environment with ``.[test]``. A test package that has no wheel for it is left out, and said. With
``--as-is`` the interpreters are used as they are: each has the package and pytest installed already, as one of another
machine's kind has that an emulator runs.

With ``--logs`` each Python's output of pytest is kept in that directory, and what came of it: if the command is given
again for the same commit and arguments, a Python whose run has ended is not tested a second time.

One Python after another, in two processes. What failed is run once more by itself, one test after the other: on a busy
machine a test may fail only because others take the processors. The table has both numbers, and the exit status is 1 if
a test failed each time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.14t", "3.15", "3.15t")
ENGINES = ("native", "portable")
OUTCOMES = ("passed", "failed", "only beside others", "skipped")
PYTEST = ("-m", "not thorough", "-n", "2")

DESCRIBE = """
import json, platform, struct, sys, sysconfig
name = platform.python_implementation() + " " + platform.python_version()
if sysconfig.get_config_var("Py_GIL_DISABLED"):
    import shmqueue.compat.asyncio, shmqueue.compat.multiprocessing, shmqueue.compat.queue
    name += ", GIL " + ("on" if sys._is_gil_enabled() else "off")
from shmqueue import engine
print(json.dumps([name, f"{platform.machine()}, {8 * struct.calcsize('P')} bits, {sys.byteorder}-endian", engine.NAME]))
"""


@dataclass
class Result:
    """What became of the tests on one Python: for each engine, how many had each outcome."""

    python: str
    machine: str = ""
    outcomes: dict[str, Counter[str]] = field(default_factory=lambda: {engine: Counter() for engine in ENGINES})
    factors: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    beside_others: list[str] = field(default_factory=list)
    """What failed beside others and passed alone."""
    left_out: list[str] = field(default_factory=list)
    summary: str = ""
    """The last line of pytest's."""
    trouble: str = ""


@dataclass
class Logs:
    """Where one Python's run is written: ``STEM.log`` while it runs, the reports and ``STEM.json`` when it has ended.

    Args:
        directory: that they are in, which exists.
        python: the interpreter.
        key: what must be the same for an earlier run to count: the commit and the arguments.
    """

    directory: Path
    python: str
    key: Sequence[str]

    def path(self, ending: str) -> Path:
        """One of the files."""
        return self.directory / f"{re.sub(r'[^A-Za-z0-9.]+', '-', self.python).strip('-')}.{ending}"

    def earlier(self) -> Result | None:
        """What came of an earlier run that has ended, if there is one."""
        try:
            saved = json.loads(self.path("json").read_text())
        except FileNotFoundError:
            return None
        if saved.pop("key") != list(self.key):
            return None
        usual = saved.pop("usual")
        result = Result(**saved)
        read(self.path("xml"), self.path("alone.xml"), result, usual)
        return result

    def save(self, result: Result, usual: str) -> None:
        """Keep what came of a run."""
        names = ("python", "machine", "factors", "left_out", "summary")
        saved = {"key": list(self.key), "usual": usual, **{name: getattr(result, name) for name in names}}
        self.path("json").write_text(json.dumps(saved, indent=1))


def engine_of(test: str, usual: str = "native") -> str:
    """The engine that a test is about: its parameters name it, or it runs on the usual one."""
    parameters = test.partition("[")[2]
    return next((engine for engine in ENGINES if re.search(rf"\b{engine}\b", parameters)), usual)


def outcomes_in(report: Path) -> dict[str, str]:
    """What became of each test, by a report of pytest (``--junitxml``). One that fails in its end, too, counts once."""
    seen: dict[str, str] = {}
    if not report.exists():
        return seen
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}::{case.get('name', '')}"
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        if seen.get(name) != "failed":
            seen[name] = outcome
    return seen


def read(report: Path, alone: Path, result: Result, usual: str = "native") -> None:
    """Count the outcomes in the report of all tests, and that of those which had failed, run alone, if there is one."""
    again = outcomes_in(alone)
    for name, outcome in outcomes_in(report).items():
        if outcome == "failed" and again.get(name) == "passed":
            outcome = "only beside others"
            result.beside_others.append(name)
        result.outcomes[engine_of(name, usual)][outcome] += 1
        if outcome == "failed":
            result.failures.append(name)


def table(results: Iterable[Result]) -> str:
    """The results in Markdown."""
    lines = [f"| Python | machine | engine | {' | '.join(OUTCOMES)} | demo |", "|---|---|---|---:|---:|---:|---:|---:|"]
    for result in results:
        if result.trouble:
            lines.append(f"| {result.python} | {result.machine} | not tested: {result.trouble} | | | | | |")
            continue
        for engine in ENGINES:
            numbers = " | ".join(f"{result.outcomes[engine][outcome]}" for outcome in OUTCOMES)
            factor = result.factors.get(engine, "")
            lines.append(f"| {result.python} | {result.machine} | {engine} | {numbers} | {factor} |")
    return "\n".join(lines)


def find_python(version: str) -> str | None:
    """An interpreter of that version, which ends in t if it has no GIL: on the PATH, or pyenv's."""
    probe = "import sys, sysconfig, venv; t = 't' * bool(sysconfig.get_config_var('Py_GIL_DISABLED')); "
    probe += "print('%d.%d' % sys.version_info[:2] + t, sys.executable)"
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version.rstrip('t')}.*/bin/python"))
    for candidate in (f"python{version}", *map(str, pyenv)):
        try:
            output = subprocess.run([candidate, "-c", probe], capture_output=True, text=True).stdout.split(maxsplit=1)
        except OSError:
            continue
        if output and output[0] == version:
            return output[1].strip()
    return None


def requirements(pyproject: str) -> list[str]:
    """The packages of the extra ``test``, without the project's own extras."""
    block = re.search(r"^test = \[\n(.*?)^\]", pyproject, re.MULTILINE | re.DOTALL)
    assert block is not None, "pyproject.toml has no extra 'test'"
    return [name for name in re.findall(r'"([^"]+)"', block[1]) if not name.startswith("shmqueue")]


def environment(python: str, commit: str, within: Path, result: Result) -> tuple[str, Path]:
    """A clone and an environment of that Python: its interpreter, and where the tests are."""
    clone = within / "clone"
    subprocess.run(["git", "clone", "-q", "--no-checkout", str(ROOT), str(clone)], check=True)
    subprocess.run(["git", "-C", str(clone), "checkout", "-q", commit], check=True)  # HEAD may be another one by now
    subprocess.run([python, "-m", "venv", str(clone / ".venv")], check=True)
    own = str(clone / ".venv" / "bin" / "python")
    pip = [own, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    project = clone / "pyproject.toml"
    for requirement in requirements(project.read_text()):
        if subprocess.run([*pip, "--only-binary", ":all:", requirement], capture_output=True).returncode != 0:
            result.left_out.append(requirement)
            project.write_text(project.read_text().replace(f'    "{requirement}",\n', ""))
    subprocess.run([*pip, ".[test]"], cwd=clone, check=True, capture_output=True)
    return own, clone


def factor(python: str, engine: str) -> str:
    """How many times as fast as the standard queue the demo is, or why it says nothing."""
    command = [python, "-W", "ignore", "-m", "shmqueue.cli", "demo", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd="/", env={**os.environ, "SHMQUEUE_ENGINE": engine}
    )
    try:
        return f"{json.loads(done.stdout)['ratio']:.3g}"
    except (ValueError, KeyError):
        return f"failed: {done.stderr.strip().splitlines()[-1:]}"


def test(python: str, arguments: Sequence[str], as_is: bool, logs: Logs) -> Result:
    """Run the tests and the demo on one Python."""
    result = Result(python)
    logs.path("json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="shmqueue-platforms-") as directory:
        within = Path(directory)
        try:
            own, where = (python, ROOT) if as_is else environment(python, logs.key[0], within, result)
            described = subprocess.run([own, "-c", DESCRIBE], capture_output=True, text=True, check=True, cwd=directory)
        except subprocess.CalledProcessError as error:
            result.trouble = f"{' '.join(map(str, error.cmd[:4]))} failed: {str(error.stderr)[-200:]!r}"
            return result
        result.python, result.machine, usual = json.loads(described.stdout)
        report, log = logs.path("xml"), logs.path("log")
        alone = logs.path("alone.xml")
        report.unlink(missing_ok=True)
        alone.unlink(missing_ok=True)
        program = str(Path(own).with_name("pytest"))  # not -m pytest, which would import the source tree
        command = [program, "-q", "-o", f"cache_dir={within / 'cache'}", *arguments]
        with log.open("w") as output:
            subprocess.run([*command, f"--junitxml={report}"], cwd=where, stdout=output, stderr=subprocess.STDOUT)
        if not report.exists():
            result.trouble = log.read_text()[-200:]
            return result
        result.summary = log.read_text().rstrip().rpartition("\n")[2].strip("= ")
        if "failed" in outcomes_in(report).values():
            again = ["--last-failed", "-n", "0", f"--junitxml={alone}"]
            with log.open("a") as output:
                subprocess.run([*command, *again], cwd=where, stdout=output, stderr=subprocess.STDOUT)
        read(report, alone, result, usual)
        for engine in ENGINES if usual == "native" else ("portable",):
            result.factors[engine] = factor(own, engine)
        logs.save(result, usual)
    return result


def main() -> int:
    arguments, options = sys.argv[1:], list(PYTEST)
    if "--" in arguments:
        at = arguments.index("--")
        arguments, options = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pythons", nargs="*", metavar="PYTHON")
    parser.add_argument("--as-is", action="store_true", help="the interpreters have the package and pytest installed")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep there what pytest says, and go on from it")
    parser.add_argument("--out", type=Path, help="write the table there, too")
    given = parser.parse_args(arguments)
    pythons = [os.path.abspath(shutil.which(python) or python) for python in given.pythons]
    if not pythons:
        found = {version: find_python(version) for version in VERSIONS}
        print("not here:", ", ".join(version for version in VERSIONS if not found[version]) or "none", flush=True)
        pythons = [python for python in found.values() if python]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    results = []
    for python in pythons:
        with tempfile.TemporaryDirectory(prefix="shmqueue-platforms-") as scratch:
            directory = given.logs or Path(scratch)
            directory.mkdir(parents=True, exist_ok=True)
            logs = Logs(directory, python, [commit, *options])
            earlier = logs.earlier()
            result = earlier or test(python, options, given.as_is, logs)
        results.append(result)
        print(f"{result.python}: {result.trouble or result.summary}{' (earlier)' if earlier else ''}", flush=True)
        for what in result.left_out:
            print(f"  no wheel: {what}; its tests are skipped")
        for name in result.beside_others:
            print(f"  failed only beside others: {name}", flush=True)
        for name in result.failures:
            print(f"  failed: {name}", flush=True)
    what = f"{datetime.date.today()}, commit {commit[:10]}, {platform.system()} {platform.release()}, pytest "
    what += shlex.join(options)
    text = f"{what}\n\n{table(results)}\n"
    print(f"\n{text}", end="")
    if given.out is not None:
        given.out.write_text(text)
    return int(any(result.trouble or result.failures for result in results) or not results)


if __name__ == "__main__":
    sys.exit(main())
