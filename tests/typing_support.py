"""Type checkers, run on programs that use the package as it is when installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support import PATIENCE

import shmqueue
import shmqueue.compat


def install(directory: Path) -> None:
    """Put the package into ``path`` in this directory: type checkers do not follow what an editable one maps."""
    package = directory / "path" / "shmqueue"
    package.mkdir(parents=True)
    for source in (*shmqueue.__path__, *shmqueue.compat.__path__):
        target = package / "compat" if source in shmqueue.compat.__path__ else package
        target.mkdir(exist_ok=True)
        for entry in Path(source).iterdir():
            if entry.name != "compat":
                (target / entry.name).symlink_to(entry)


def mypy(directory: Path, *arguments: str) -> str:
    """What mypy says of files in a directory with the package."""
    options = ["--strict", "--no-error-summary", "--no-incremental", "--follow-imports=silent"]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, *arguments],
        cwd=directory,
        env={**os.environ, "MYPYPATH": str(directory / "path")},
        capture_output=True,
        text=True,
        timeout=10 * PATIENCE,
    )
    assert ran.stderr == ""
    return ran.stdout
