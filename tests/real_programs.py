"""Other packages' test suites on the standard queues and on ours. The results must be the same.

``python tests/real_programs.py [PACKAGE]... [--runs N]`` takes each package out of its source distribution, with pip.
A package that cannot be had is left out, and the reason is printed.

Some of these tests depend on the speed of the machine and fail now and then on any queue. A test that fails on our
queues and passes on the standard ones therefore runs by itself ``ALONE`` times. It is a fault if it never passes. Each
difference is printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

ALONE = 5
PATIENCE = 1200.0  # seconds for one suite
WHOLE = "(the whole suite)"  # stands for its tests where it had no results

MPIRE_PLUGIN = """
# A thread of mpire reports the death of a worker that has just started: the worker says that it is alive before start()
# has returned in its parent. Of 400 pools whose workers live for one task, 44 failed on the standard queues of a loaded
# machine, and 38 on ours.
from mpire.pool import WorkerPool

WorkerPool._unexpected_death_handler = lambda pool: None
"""


@dataclass(frozen=True)
class Package:
    """A source distribution that has tests in it.

    ``requirements`` are what its tests need beside it; ``directory`` is where they are, ``files`` which of them use
    queues; ``plugin`` is a pytest plugin that they run with.
    """

    name: str
    version: str
    requirements: tuple[str, ...]
    directory: str
    files: tuple[str, ...]
    plugin: str = ""


PACKAGES = [
    Package(
        "mpire",
        "2.7.1",
        ("multiprocess", "numpy"),
        "tests",
        ("test_async_result.py", "test_comms.py", "test_insights.py", "test_pool.py"),
        MPIRE_PLUGIN,
    ),
    Package(
        "loguru",
        "0.7.2",
        ("colorama", "freezegun"),
        "tests",
        (
            "test_add_option_context.py",
            "test_add_option_enqueue.py",
            "test_coroutine_sink.py",
            "test_locks.py",
            "test_multiprocessing.py",
            "test_remove.py",
        ),
    ),
    Package(
        "luigi",
        "3.8.1",
        ("mock", "psutil", "requests", "hypothesis"),
        "test",
        (
            "scheduler_message_test.py",
            "worker_keep_alive_test.py",
            "worker_multiprocess_test.py",
            "worker_parallel_scheduling_test.py",
            "worker_task_process_test.py",
            "worker_test.py",
        ),
    ),
]

Outcomes = dict[str, str]


class Suite:
    """The tests of a package, in a directory of their own."""

    def __init__(self, package: Package, within: Path) -> None:
        self._package = package
        self._within = within
        self._within.mkdir()

    def fetch(self) -> str | None:
        """Get it and what it needs. Returns why it cannot be had, or None."""
        package, site = self._package, self._within / "site"
        spec = f"{package.name}=={package.version}"
        why = _pip("download", "--no-deps", "--no-binary", package.name, "--dest", self._within, spec)
        if why is not None:
            return why
        (archive,) = self._within.glob("*.tar.gz")
        why = _pip("install", "--target", site, archive, *package.requirements)
        if why is not None:
            return why
        with tarfile.open(archive) as tar:
            tar.extractall(self._within / "unpacked")
        (tests,) = (self._within / "unpacked").glob(f"*/{package.directory}")
        shutil.copytree(tests, self._within / package.directory)
        (self._within / "real_programs_plugin.py").write_text(package.plugin, encoding="utf-8")
        return None

    def run(self, on_ours: bool, *tests: str) -> Outcomes:
        """How each of the tests ended, by default all: passed, failed or skipped."""
        package, results = self._package, self._within / "results.xml"
        results.unlink(missing_ok=True)
        prefix = ["-m", "shmqueue.compat"] if on_ours else []
        tests = tests or tuple(f"{package.directory}/{file}" for file in package.files)
        options = ["-q", "-p", "real_programs_plugin", "-p", "no:cacheprovider", f"--junit-xml={results}"]
        with subprocess.Popen(
            [sys.executable, *prefix, "-m", "pytest", *options, *tests],
            cwd=self._within,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (self._within / "site", self._within)))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                return {WHOLE: "does not end"}
        if not results.exists():
            print(output)
            return {WHOLE: f"ends with {process.returncode}"}
        return dict(_read(results))


def _pip(*arguments: object) -> str | None:
    """Run pip. Returns the last line that it said if it failed."""
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return None if done.returncode == 0 else (errors or [f"pip ended with {done.returncode}"])[-1]


def _read(results: Path) -> list[tuple[str, str]]:
    outcomes = []
    for case in ElementTree.parse(results).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        outcomes.append((f"{case.get('classname')}::{case.get('name')}", outcome))
    return sorted(outcomes, key=lambda pair: pair[1] == "failed")  # a failure is not hidden by what comes after it


def _node(test: str, directory: str) -> str:
    """What pytest calls a test that a result names ``tests.module.Class::name``."""
    where, _, name = test.partition("::")
    _, module, *cases = where.split(".")
    return "::".join([f"{directory}/{module}.py", *cases, name])


def compare(suite: Suite, package: Package) -> tuple[int, list[str]]:
    """Run a package's tests on both. Returns how many passed on ours, and which of them do so on the others only."""
    on_others, on_ours = suite.run(False), suite.run(True)
    if (ends := (on_others.get(WHOLE), on_ours.get(WHOLE))) != (None, None):
        print(f"  the suite {ends[1] or 'ends'} on our queues, {ends[0] or 'ends'} on the standard ones")
        return 0, [WHOLE]
    faults = []
    for test in sorted(on_others.keys() | on_ours.keys()):
        ours, others = on_ours.get(test, "missing"), on_others.get(test, "missing")
        if ours == others:
            if ours != "passed":
                print(f"  {test}: {ours} on both")
            continue
        print(f"  {test}: {ours} on our queues, {others} on the standard ones")
        if ours == "passed":
            continue
        if ours == "missing":
            faults.append(test)
            continue
        again = [suite.run(True, _node(test, package.directory)).get(test) for _ in range(ALONE)]
        print(f"    by itself: {again.count('passed')} of {ALONE} passed on our queues")
        if "passed" not in again:
            faults.append(test)
    return list(on_ours.values()).count("passed"), faults


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="mpire, loguru, luigi; by default all")
    parser.add_argument("--runs", type=int, default=1, help="how often to run each suite (1)")
    options = parser.parse_args()
    passed, faults = 0, []
    with tempfile.TemporaryDirectory(prefix="real-programs-") as scratch:
        for package in PACKAGES:
            if options.packages and package.name not in options.packages:
                continue
            print(f"{package.name} {package.version}", flush=True)
            suite = Suite(package, Path(scratch) / package.name)
            why = suite.fetch()
            if why is not None:
                print(f"  left out, because it cannot be had: {why}")
                continue
            for _ in range(options.runs):
                more, found = compare(suite, package)
                print(f"  {more} tests passed on our queues", flush=True)
                passed += more
                faults += [f"{package.name}: {test}" for test in found]
    for fault in faults:
        print(f"differs: {fault}")
    print(f"{passed} passed, {len(faults)} failed")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
