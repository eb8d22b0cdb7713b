"""Building what a group runs: C programs linked with the engine's core, and copies of the project with a seeded fault.

The C sources are those of the tree that this file lies in, so that a group that runs in a mutated copy of the tree
compiles the mutated sources without knowing.

$SHMQUEUE_TEST_OBJECTS may name a directory for the object files. A source is compiled only if that directory has no
object of the same source, headers, flags and compiler: of a seeded fault, what the fault is in.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .outcome import Mutant

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "shmqueue/engine/native"
PROGRAMS = Path(__file__).resolve().parent / "native"
CORE = sorted(source.name for source in NATIVE.glob("*.c") if not source.name.startswith(("module", "python_")))
"""What needs no Python."""
STRICT = ("-std=c11", "-g", "-Wall", "-Wextra", "-Werror")


FIRST_FAULT = ("-DFAULTS_MAX=1",)
"""Flags of a program that ends with the first fault, as in a short run."""


def compile_program(name: str, into: Path, flags: Sequence[str] = ("-O2",), compiler: str = "gcc") -> Path:
    """Compile ``native/<name>.c`` and the engine's core into a program; no Python is in it."""
    program = into / name
    sources = [PROGRAMS / f"{name}.c", *(NATIVE / source for source in CORE)]
    _build(compiler, (*STRICT, *flags), (NATIVE, PROGRAMS), sources, program, ("-pthread",))
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
    flags = ("-std=c11", "-O1", "-fPIC", f"-I{include}")
    _build("gcc", flags, (native,), sorted(native.glob("*.c")), native / f"_core{suffix}", ("-shared",))


def _build(
    compiler: str,
    flags: Sequence[str],
    own: Sequence[Path],
    sources: Sequence[Path],
    target: Path,
    linking: Sequence[str],
) -> None:
    """Compile the sources, whose own headers are in the directories ``own``, and link them."""
    kept = os.environ.get("SHMQUEUE_TEST_OBJECTS")
    with tempfile.TemporaryDirectory(prefix="shmqueue-objects-", dir=kept) as scratch:
        objects = []
        command = (compiler, *(flag for flag in flags if not flag.startswith("-Wl,")))  # which clang warns of
        for source in sources:
            compiled = Path(kept or scratch) / f"{source.stem}-{_key(command, source, own)}.o"
            if not compiled.exists():
                fresh = Path(scratch) / "fresh.o"
                includes = [f"-I{directory}" for directory in own]
                _run([*command, *includes, "-c", str(source), "-o", str(fresh)])
                fresh.replace(compiled)  # at once: other processes may do the same
            objects.append(str(compiled))
        _run([compiler, *flags, *objects, "-o", str(target), *linking])


def _key(command: tuple[str, ...], source: Path, own: Sequence[Path]) -> str:
    """What the object depends on, but for the system's headers: the command, the source, and its own headers."""
    texts: dict[str, bytes] = {}
    todo = [source]
    while todo:
        file = todo.pop()
        if file.name in texts:
            continue
        texts[file.name] = file.read_bytes()
        for included in re.findall(rb'^#\s*include "([^"]+)"', texts[file.name], re.MULTILINE):
            todo += [path for path in (directory / included.decode() for directory in own) if path.exists()]
    parts = [repr(command).encode(), *(part for name in sorted(texts) for part in (name.encode(), texts[name]))]
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()[:32]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
