"""Files that belong to no queue: lock files that were left, and what a killed process had half made."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from cli_support import json_of, output_of

from shmqueue import ShmQueue, inspection
from shmqueue.segment import sidecar
from shmqueue.segment.naming import UNNAMED, file_prefix

Make = Callable[..., ShmQueue]


@pytest.fixture
def strays(segment_directory: str) -> list[str]:
    """The names of a stray lock file, and of a half-made segment, neither of which any process has open."""
    names = sorted([os.path.basename(file_prefix()) + UNNAMED + "0" * 32, sidecar._sidecar_prefix() + "0" * 32])
    for name in names:
        with open(os.path.join(segment_directory, name), "wb", opener=lambda path, flags: os.open(path, flags, 0o600)):
            pass
    return names


def test_rm_orphans_tells_of_files_that_it_removes(strays: list[str], segment_directory: str) -> None:
    assert output_of("rm", "--orphans") == "removed 2 files that belong to no queue\n"
    assert os.listdir(segment_directory) == []
    assert output_of("rm", "--orphans") == "no orphans\n"


def test_doctor_counts_them_and_leaves_them(strays: list[str], segment_directory: str) -> None:
    assert json_of("doctor")["strays"] == strays  # with status 0: they do no harm
    assert "2 files that belong to no queue" in output_of("doctor")
    assert sorted(os.listdir(segment_directory)) == strays
    found = json_of("doctor", "--sweep")
    assert (found["strays"], found["swept_strays"], found["swept"]) == ([], strays, [])
    assert os.listdir(segment_directory) == []


def test_a_queue_in_use_has_no_strays(engine: str, make: Make) -> None:
    q = make()
    q.put(1)  # with the portable engine, there is a lock file now
    assert inspection.list_strays() == inspection.remove_strays() == []
    assert q.get() == 1


def test_the_lock_file_of_an_orphan_goes_with_it_and_is_no_stray(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
    q = make(keep=True)
    q.put(1)
    name = q.identifier
    q.close()
    assert inspection.list_strays() == []
    assert inspection.remove_queue(name).items == 1
    assert inspection.list_strays() == []
