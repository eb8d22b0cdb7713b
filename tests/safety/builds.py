"""Building what a group runs: C programs linked with the engine's core, and copies of the project with a seeded fault.

The C sources are those of the tree that this file lies in, so that a group that runs in a mutated copy of the tree
compiles the mutated sources without knowing.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from .outcome import Mutant

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "shmqueue/engine/native"
PROGRAMS = Path(__file__).resolve().parent / "native"
CORE = sorted(source.name for source in NATIVE.glob("*.c") if not source.name.startswith(("module", "python_")))
"""What needs no Python."""
STRICT = ("-std=c11", "-g", "-Wall", "-Wextra", "-Werror", f"-I{NATIVE}", f"-I{PROGRAMS}")


def compile_program(name: str, into: Path, flags: Sequence[str] = ("-O2",), compiler: str = "gcc") -> Path:
    """Compile ``native/<name>.c`` and the engine's core into a program; no Python is in it."""
    program = into / name
    sources = [PROGRAMS / f"{name}.c", *(NATIVE / source for source in CORE)]
    _compile([compiler, *STRICT, *flags, *map(str, sources), "-o", str(program), "-pthread"])
    return program


def mutated_tree(mutant: Mutant, into: Path, *, is_in_c: bool) -> Path:
    """Copy what a group needs of the project, with the mutant's fault in it, and compile the extension if need be.

    It need not be if the group ``is_in_c``: then it compiles what it runs by itself.

    With ``<copy>/tests`` as the working directory and ``<copy>`` on ``PYTHONPATH``, ``shmqueue`` is the copy.
    """
    tree = into / "mutated"
    ignore = shutil.ignore_patterns("__pycache__", "*.so")
    for source, target in (
        ("shmqueue", "shmqueue"),
        ("compat", "shmqueue/compat"),
        ("conformance", "shmqueue/conformance"),
        ("tests/peers", "tests/peers"),
        ("tests/safety", "tests/safety"),
    ):
        shutil.copytree(ROOT / source, tree / target, ignore=ignore)
    file = tree / mutant.file
    text = file.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise ValueError(f"mutant {mutant.name!r}: its text stands {text.count(mutant.old)} times in {mutant.file}")
    file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    if file.suffix in {".c", ".h"} and tree / "shmqueue" in file.parents and not is_in_c:
        _compile_extension(tree / "shmqueue/engine/native")
    else:
        from shmqueue.engine.native import _core  # the installed one

        shutil.copy(_core.__file__, tree / "shmqueue/engine/native")
    return tree


def _compile_extension(native: Path) -> None:
    suffix, include = sysconfig.get_config_var("EXT_SUFFIX"), sysconfig.get_path("include")
    sources = sorted(map(str, native.glob("*.c")))
    _compile(
        ["gcc", "-std=c11", "-O1", "-shared", "-fPIC", f"-I{include}", *sources, "-o", str(native / f"_core{suffix}")]
    )


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
