"""The core compiles where the kernel's headers are not installed (musl alone), to the same code as with them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).resolve().parent.parent / "shmqueue" / "engine" / "native"
HIDDEN = Path("linux", "futex.h")

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no gcc here")


def directories_of_headers() -> list[Path]:
    ran = subprocess.run(["gcc", "-E", "-v", "-x", "c", "/dev/null"], capture_output=True, text=True, check=True)
    _, _, listed = ran.stderr.partition("#include <...> search starts here:\n")
    return [Path(line.strip()) for line in listed.partition("End of search list.")[0].splitlines()]


def without_hidden(directory: Path, copy: Path) -> Path:
    """The directory itself, or a copy by links that lacks ``HIDDEN``."""
    if not (directory / HIDDEN).exists():
        return directory
    inner = copy / HIDDEN.parent
    inner.mkdir(parents=True)
    for source, target, but in ((directory, copy, HIDDEN.parts[0]), (directory / HIDDEN.parent, inner, HIDDEN.name)):
        for entry in source.iterdir():
            if entry.name != but:
                (target / entry.name).symlink_to(entry)
    return copy


def assembly(source: Path, directories: list[Path]) -> str:
    includes = [part for directory in directories for part in ("-isystem", str(directory))]
    command = [
        "gcc",
        "-std=c11",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-nostdinc",
        *includes,
        "-S",
        "-o",
        "-",
        str(source),
    ]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


@pytest.mark.parametrize("name", ["os.c", "lock.c"])
def test_without_the_kernels_futex_header_the_code_is_the_same(name: str, tmp_path: Path) -> None:
    directories = directories_of_headers()
    copies = [without_hidden(directory, tmp_path / str(place)) for place, directory in enumerate(directories)]
    if copies == directories:
        pytest.skip(f"there is no {HIDDEN} here to hide")
    code = assembly(NATIVE / name, directories)
    assert "syscall" in code
    assert assembly(NATIVE / name, copies) == code
