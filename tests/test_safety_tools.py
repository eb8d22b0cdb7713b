"""The tools of the checks in ``safety``, themselves."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from safety import GROUPS, builds, busy
from safety.builds import ROOT
from support import run_python

IN_A_COLLECTION = """
import gc, os, sys, weakref
sys.path.insert(0, os.getcwd())
from safety.interruption_points import Interrupt

class Member:
    pass

def forget(reference):
    forgotten.append(reference)

def call():
    return [[], [], []]

gc.collect()
gc.freeze()  # so that a collection is short
forgotten = []
sys.unraisablehook = lambda raised: None
interrupted = 0
for allocations in range(30):  # until a collection, which so comes at each point of the call, and in between
    for point in range(12):
        member = Member()
        member.itself = member
        reference = weakref.ref(member, forget)
        injection = Interrupt(point, (0, 0, 0), ("<string>",))
        del member
        gc.set_threshold(gc.get_count()[0] + allocations)
        _, error = injection.run_plain(call)
        gc.set_threshold(0)
        gc.collect()
        interrupted += injection.is_reached and error is None
        del injection, error
print(interrupted > 0)
"""


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="there the collector begins by itself")
def test_an_exception_in_a_callback_of_the_collector_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython 3.11 uses a trace function that it has just freed, if nobody else refers to it."""
    monkeypatch.setenv("PYTHONMALLOC", "debug")  # which overwrites what is freed
    assert run_python(IN_A_COLLECTION) == "True\n"


@pytest.mark.parametrize("group", GROUPS)
def test_each_group_says_what_it_fails_for(group: str) -> None:
    module = importlib.import_module(f"safety.{group}")
    last = (module.__doc__ or "").rstrip().rpartition("\n\n")[2]
    assert last.startswith("Fails if: ")


def test_each_seeded_fault_replaces_a_text_that_is_there_once() -> None:
    for group in GROUPS:
        for mutant in importlib.import_module(f"safety.{group}").MUTANTS:
            file = ROOT / mutant.file
            if not file.exists():  # in a checkout these two lie beside the package
                file = ROOT / mutant.file.removeprefix("shmqueue/")
            text = file.read_text()
            assert text.count(mutant.old) == 1, (group, mutant.name)
            assert mutant.new != mutant.old


def test_patience_grows_with_the_load_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "_CROWD", 1.0)
    assert busy.at_least(110.0) == 110.0
    monkeypatch.setattr(busy, "_CROWD", 10.0)
    assert busy.at_least(3.0) == 30.0
    assert busy.at_least(110.0) == 410.0


@pytest.mark.parametrize("group", GROUPS)
def test_each_seeded_fault_names_a_part_that_exists(group: str) -> None:
    module = importlib.import_module(f"safety.{group}")
    parts = {"", *getattr(module, "PARTS", ())}
    assert {mutant.part for mutant in module.MUTANTS} <= parts
    assert set(getattr(module, "PARTS_IN_C", ())) <= parts


def test_only_what_includes_a_changed_header_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is missing")
    (tmp_path / "number.h").write_text("int number(void);\n")
    (tmp_path / "program.c").write_text('#include "number.h"\nint main(void) { return number(); }\n')
    (tmp_path / "number.c").write_text("#define NUMBER 1\nint number(void) { return NUMBER; }\n")
    objects, program = tmp_path / "objects", tmp_path / "program"
    objects.mkdir()
    monkeypatch.setenv("SHMQUEUE_TEST_OBJECTS", str(objects))

    def returned() -> int:
        sources = [tmp_path / "program.c", tmp_path / "number.c"]
        builds._build("gcc", ("-std=c11",), (tmp_path,), sources, program, ())
        return subprocess.run([program], check=False).returncode

    assert (returned(), len(os.listdir(objects))) == (1, 2)
    (tmp_path / "number.c").write_text("#define NUMBER 2\nint number(void) { return NUMBER; }\n")
    assert (returned(), len(os.listdir(objects))) == (2, 3)
    (tmp_path / "number.h").write_text("/* of no consequence */ int number(void);\n")
    assert (returned(), len(os.listdir(objects))) == (2, 4)
    assert (returned(), len(os.listdir(objects))) == (2, 4)
