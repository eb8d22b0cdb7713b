"""The debug log of references: one JSON object a line, written by many, stopped by nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import run_python

from shmqueue import DebugRefLogAction, ShmQueue, reflog

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("engine")


def test_each_create_attach_and_shutdown_is_a_line(make: Make, name: str, tmp_path: Path) -> None:
    log = str(tmp_path / "refs.jsonl")
    first = make(debug_ref_to_file_log=log)
    second = make(debug_ref_to_file_log=log)
    make()  # does not log, but counts
    second.shutdown()
    second.shutdown()
    first.shutdown()
    entries = reflog.read(log)
    assert [(entry["action"], entry["refs"]) for entry in entries] == [
        ("create", 1), ("attach", 2), ("shutdown", 2), ("shutdown", 1),
    ]  # fmt: skip
    assert all(entry["pid"] == os.getpid() and entry["name"] == name for entry in entries)
    assert [entry["time"] for entry in entries] == sorted(entry["time"] for entry in entries)
    assert [action.value for action in DebugRefLogAction] == ["create", "attach", "shutdown"]


def test_true_logs_to_the_temporary_directory(
    make: Make, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    q = make(debug_ref_to_file_log=True)
    assert q.debug_ref_log_path == str(tmp_path / f"shmqueue-refs-{name}.jsonl")
    assert len(reflog.read(q.debug_ref_log_path)) == 1
    assert make().debug_ref_log_path is None


def test_foreign_and_broken_lines_are_passed_over(make: Make, tmp_path: Path) -> None:
    log = tmp_path / "refs.jsonl"
    log.write_bytes(b'{"time": 1\n\xff\xfe\n[1, 2]\n{"action": "create"}\n\n"text"\n')
    make(debug_ref_to_file_log=str(log))
    assert [entry["action"] for entry in reflog.read(str(log))] == ["create"]


def test_a_log_that_cannot_be_written_stops_nothing(make: Make, tmp_path: Path) -> None:
    q = make(debug_ref_to_file_log=str(tmp_path / "missing" / "refs.jsonl"))
    q.put(1)
    assert q.get() == 1


def test_lines_of_many_processes_never_mix(name: str, tmp_path: Path) -> None:
    log = str(tmp_path / "refs.jsonl")
    code = """
import os, sys, shmqueue
for _ in range(8):
    if os.fork() == 0:
        for _ in range(25):
            shmqueue.ShmQueue(sys.argv[1], debug_ref_to_file_log=sys.argv[2]).shutdown()
        os._exit(0)
for _ in range(8):
    os.wait()
"""
    run_python(code, name, log)
    with open(log, encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    assert len(entries) == 8 * 25 * 2
    assert sum(entry["action"] == "shutdown" for entry in entries) == 8 * 25
