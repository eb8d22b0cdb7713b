"""``tests/platforms.py``: what the table of what was tested is made of."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import platforms
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_it[native]"/>
<testcase classname="tests.test_a" name="test_it[portable-7]"/>
<testcase classname="tests.test_a" name="test_it[7-portable]"><failure message="no"/></testcase>
<testcase classname="tests.test_a" name="test_it[7-portable]"><error message="at its end, too"/></testcase>
<testcase classname="tests.test_a" name="test_other_portable_things"><skipped message="why"/></testcase>
<testcase classname="tests.test_b" name="test_it[x]"/>
<testcase classname="tests.test_b" name="test_end"><error message="only in its end"/></testcase>
</testsuite></testsuites>"""


ALONE = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_it[7-portable]"/>
<testcase classname="tests.test_b" name="test_end"><failure message="no"/></testcase>
</testsuite></testsuites>"""


def test_each_test_counts_once_on_the_engine_that_its_parameters_name(tmp_path: Path) -> None:
    report, result = tmp_path / "report.xml", platforms.Result("CPython")
    report.write_text(REPORT)
    platforms.read(report, tmp_path / "none.xml", result)
    assert result.outcomes == {
        "native": {"passed": 2, "skipped": 1, "failed": 1},
        "portable": {"passed": 1, "failed": 1},
    }
    assert result.failures == ["tests.test_a::test_it[7-portable]", "tests.test_b::test_end"]


def test_an_installation_without_the_native_engine_counts_as_portable(tmp_path: Path) -> None:
    report, result = tmp_path / "report.xml", platforms.Result("CPython")
    report.write_text(REPORT)
    platforms.read(report, tmp_path / "none.xml", result, "portable")
    assert result.outcomes["native"] == {"passed": 1}


def test_what_passes_alone_has_failed_only_beside_others(tmp_path: Path) -> None:
    report, alone, result = tmp_path / "report.xml", tmp_path / "alone.xml", platforms.Result("CPython")
    report.write_text(REPORT)
    alone.write_text(ALONE)
    platforms.read(report, alone, result)
    assert result.outcomes["native"] == {"passed": 2, "skipped": 1, "failed": 1}
    assert result.outcomes["portable"] == {"passed": 1, "only beside others": 1}
    assert result.failures == ["tests.test_b::test_end"]
    assert result.beside_others == ["tests.test_a::test_it[7-portable]"]


def test_the_table_has_a_line_for_each_engine_and_says_why_one_was_not_tested() -> None:
    tested, failed = platforms.Result("CPython 3.14", "x86_64"), platforms.Result("CPython 3.15", trouble="no pip")
    tested.outcomes["native"].update(passed=5, skipped=2)
    tested.factors["native"] = "38.1"
    assert platforms.table([tested, failed]).splitlines()[2:] == [
        "| CPython 3.14 | x86_64 | native | 5 | 0 | 0 | 2 | 38.1 |",
        "| CPython 3.14 | x86_64 | portable | 0 | 0 | 0 | 0 |  |",
        "| CPython 3.15 |  | not tested: no pip | | | | | |",
    ]


def test_a_run_that_has_ended_counts_again_for_the_same_commit_and_arguments(tmp_path: Path) -> None:
    logs = platforms.Logs(tmp_path, "/opt/python 3.14t/bin/python", ["c0ffee", "-n", "2"])
    assert logs.earlier() is None
    logs.path("xml").write_text(REPORT)
    result = platforms.Result(
        "CPython 3.14", "x86_64", factors={"native": "38.1"}, left_out=["gevent"], summary="1 failed"
    )
    logs.save(result, "native")
    logs.path("alone.xml").write_text(ALONE)
    platforms.read(logs.path("xml"), logs.path("alone.xml"), result)
    assert logs.earlier() == result
    assert platforms.Logs(tmp_path, logs.python, ["c0ffee", "-n", "3"]).earlier() is None
    assert platforms.Logs(tmp_path, "/opt/python 3.15/bin/python", logs.key).earlier() is None


@settings(max_examples=10)
@given(st.integers().map(lambda _: time.sleep(0.15)))
def test_a_test_whose_examples_are_made_slowly_passes(nothing: None) -> None:
    """As on a machine that does something else, too."""


def test_its_requirements_are_those_of_the_extra() -> None:
    names = platforms.requirements((platforms.ROOT / "pyproject.toml").read_text())
    assert any(name.startswith("pytest-timeout") for name in names)
    assert not any(name.startswith("shmqueue") for name in names)


@pytest.mark.thorough
def test_a_part_of_the_tests_on_the_python_that_runs_this(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    command = [sys.executable, platforms.__file__, sys.executable, "--as-is", "--out", str(out)]
    done = subprocess.run([*command, "--", "tests/test_clock.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| native | " in out.read_text()
    assert "failed: [" not in out.read_text(), "the demo has failed"
