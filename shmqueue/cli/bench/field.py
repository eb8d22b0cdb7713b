"""Which of the queues are there, and in which version."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess

import shmqueue
from shmqueue.cli.bench.drivers import find_driver
from shmqueue.cli.bench.workloads import YARDSTICK, Contestant

__all__ = ["look_for"]

_PATIENCE = 30.0  # seconds

_ASK = """\
import importlib.metadata, importlib.util, platform, sys
module, package = sys.argv[1:]
if importlib.util.find_spec(module) is None:
    sys.exit(f"{module} is not installed")
print(f"{importlib.metadata.version(package)} (Python {platform.python_version()})")
"""


def look_for(contestants: list[Contestant]) -> tuple[dict[str, str], dict[str, str]]:
    """The versions of those that are there, and why the others are not, by label."""
    versions: dict[str, str] = {}
    absent: dict[str, str] = {}
    for contestant in contestants:
        module = find_driver(contestant.driver).module or ""
        try:
            versions[contestant.label] = _version(contestant, module)
        except LookupError as error:
            absent[contestant.label] = str(error.args[0])
    return versions, absent


def _version(contestant: Contestant, module: str) -> str:
    if contestant.python is not None:
        return _version_elsewhere(contestant.python, module, contestant.package or module)
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise LookupError("not installed")
    if contestant.package is None:
        return f"Python {platform.python_version()}" if contestant.label.startswith(YARDSTICK) else shmqueue.__version__
    try:
        return importlib.metadata.version(contestant.package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


def _version_elsewhere(python: str, module: str, package: str) -> str:
    try:
        asked = subprocess.run(
            [python, "-I", "-c", _ASK, module, package], capture_output=True, text=True, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LookupError(f"{python}: {error}") from None
    if asked.returncode:
        raise LookupError(f"{python}: {asked.stderr.strip().rpartition(chr(10))[2]}")
    return asked.stdout.strip()
