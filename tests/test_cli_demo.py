"""``demo``: two programs exchange items, beside the standard queue."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from cli_support import error_of, json_of, output_of, started
from support import PATIENCE, wait_until

from shmqueue import segment

pytestmark = pytest.mark.usefixtures("native")


@pytest.mark.parametrize("chosen", ["native", "portable"])
def test_demo_sends_all_items_through_both_queues(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", chosen)
    items = 20000 if chosen == "native" else 1000
    figures = json_of("demo", "--items", str(items))
    assert figures["engine"] == chosen
    assert figures["python"].endswith(sys.version.split()[0])
    for queue in (figures["shmqueue"], figures["multiprocessing"]):
        assert (queue["items"], queue["in_order"]) == (items, True)
        assert len(queue["rates"]) == figures["rounds"] == 3
        assert queue["median_rate"] == sorted(queue["rates"])[1]
    assert figures["ratio"] == pytest.approx(
        figures["shmqueue"]["median_rate"] / figures["multiprocessing"]["median_rate"], rel=0.1, abs=0.1
    )


def test_demo_prints_plain_lines_where_there_is_no_terminal() -> None:
    lines = output_of("demo", "--seconds", "0.01").splitlines()
    assert "native engine" in lines[0]
    assert "share nothing but the name" in lines[1]
    assert len([line for line in lines if "round" in line and "items/s" in line]) == 8
    assert lines[-1].endswith("times as fast as multiprocessing.Queue here")
    assert "\x1b" not in "".join(lines)


@contextmanager
def demo_under_way(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, int]]]:
    """A demo whose programs are at work, and the pid of each of them by its role."""
    with started("demo", "--items", "1000000000", *arguments) as process:
        path = segment.path_of(f"demo-{process.pid}")
        roles: dict[str, int] = {}

        def find() -> bool:
            for pid in segment.holders_of(path):  # for a moment also one that is still to become another program
                with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                    command_line = file.read()
                    roles.update({role: pid for role in ("producer", "consumer") if f"demo_{role}" in command_line})
            return len(roles) == 2

        wait_until(find, "both programs have the queue")
        yield process, roles


def all_gone(pids: dict[str, int]) -> bool:
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids.values())


@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_demo_says_which_of_its_programs_died_and_ends_the_other(role: str) -> None:
    with demo_under_way() as (process, pids):
        os.kill(pids[role], signal.SIGKILL)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 3, output
        assert f"the {role} was killed by SIGKILL (exit status -9)" in errors
        wait_until(lambda: all_gone(pids), "its programs have ended")


def test_ctrl_c_ends_the_demo_and_its_programs(segment_directory: str) -> None:
    with demo_under_way() as (process, pids):
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
        assert (process.returncode, errors) == (130, "")
        assert all_gone(pids)
        assert os.listdir(segment_directory) == []


def test_the_programs_of_a_killed_demo_end_and_hold_nothing(segment_directory: str) -> None:
    with demo_under_way() as (process, pids):
        process.kill()
        process.wait()
        wait_until(lambda: all_gone(pids), "its programs have ended")
        segment.sweep_orphans()  # they may have seen its end before the kernel had released its hold on the queue
        assert os.listdir(segment_directory) == []


def test_demo_ends_at_its_deadline() -> None:
    assert "not done when the deadline was over" in error_of(
        "demo", "--items", "1000000000", "--deadline", "1", status=3
    )
