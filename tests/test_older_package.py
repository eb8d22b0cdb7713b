"""The public tests of the package that was called shmqueue before, version 0.0.2, run on this one.

They come out of its source distribution when the tests run: ``SHMQUEUE_TEST_OLDER_PACKAGE`` names the directory into
which it was unpacked.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from support import run_program

UNPACKED = os.environ.get("SHMQUEUE_TEST_OLDER_PACKAGE", "")

ALL = 53
PRIVATE = "reaches for private attributes of a queue"
LEFT_OUT = {
    "test_exceptions.py::TestNotInitializedError::test_clear_after_shutdown": PRIVATE,
    "test_exceptions.py::TestNotInitializedError::test_reduce_ref_counter_after_shutdown": PRIVATE,
    "test_exceptions.py::TestRuntimeError::test_reduce_ref_counter_when_ref_count_is_zero": PRIVATE,
    "test_exceptions.py::TestRuntimeError::test_reduce_ref_counter_last_ref_raises_value_error": PRIVATE,
    "test_debug_ref_log_action.py::TestDebugRefLog::test_invalid_action_type_raises_value_error": PRIVATE,
    "test_debug_ref_log_action.py::TestDebugRefLog::test_create_writes_created_and_ref_count": PRIVATE,
    "test_debug_ref_log_action.py::TestDebugRefLog::test_shutdown_adds_shutdown_timestamp": PRIVATE,
    "test_debug_ref_log_action.py::TestDebugRefLog::test_create_on_shutdown_queue_raises_not_initialized": PRIVATE,
    "test_debug_ref_log_action.py::TestDebugRefLogActionEnum::test_exactly_two_members": "here attaching is a third",
    "test_basics.py::BasicsTest::test_more_types": "tuples stay tuples",
}

CONFTEST = """
import functools
import time

import pytest
import shmqueue


@pytest.fixture(autouse=True)
def differences(request, monkeypatch):
    if request.node.name.endswith("_is_fast"):  # a loaded machine takes 50 ms of anybody's time, but not of a thread's
        monkeypatch.setattr(time, "perf_counter", time.thread_time)
    if request.node.name in ("test_buffer_size_handling", "test_put_get"):  # a queue had this size, and grows now
        sized = functools.partial(shmqueue.ShmQueue, buffer_size=shmqueue.SYSTEM_PAGESIZE)
        monkeypatch.setattr(shmqueue, "ShmQueue", sized)
"""

pytestmark = [
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(not UNPACKED, reason="SHMQUEUE_TEST_OLDER_PACKAGE names no directory with shmqueue 0.0.2"),
]


def test_what_the_older_package_tested_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    shutil.copytree(Path(UNPACKED) / "tests", tmp_path / "tests")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    options = [f"--deselect=tests/{test}" for test in LEFT_OUT]
    ran = run_program(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml=results.xml", *options, "tests", within=tmp_path
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    (suite,) = ElementTree.parse(tmp_path / "results.xml").getroot()
    assert (suite.get("tests"), suite.get("skipped")) == (str(ALL - len(LEFT_OUT)), "0")
