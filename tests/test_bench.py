"""``shmqueue bench``: what it measures is checked, what hangs is ended, what it tells is true of what it has seen."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, wait_until

from shmqueue.cli.bench import chart, runner, tables
from shmqueue.cli.bench.command import new_report
from shmqueue.cli.bench.kinds import KINDS, check_logs
from shmqueue.cli.bench.report import Report
from shmqueue.cli.bench.runner import Setting, run, run_stage
from shmqueue.cli.bench.stage import Result
from shmqueue.cli.bench.view import Lines
from shmqueue.cli.bench.workloads import TABLES, WORKLOADS, YARDSTICK, Contestant, contestants

HERE = os.path.dirname(__file__)
COMMAND = [sys.executable, "-m", "shmqueue.cli", "bench"]
TINY = ("--seconds", "0.0005")  # the first trial of most takes that long: what costs is the start of each process
STREAMS = ["int", "dict", "bytes", "list"]

pytestmark = pytest.mark.usefixtures("native")


def bench(*arguments: object, patience: float = 3 * PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], cwd=HERE, capture_output=True, text=True, timeout=patience)


PEERS = Path(__file__).parent / "peers"


def figures_of(path: Path, *arguments: object) -> Any:
    """Run it; the JSON that it wrote."""
    done = bench(*arguments, "--json", path)
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(path.read_text())


def fake(name: str) -> Contestant:
    return Contestant(name, f"bench_drivers:{name}", "field")


def measure(driver: str, workload: str, items: int = 100, deadline: float = PATIENCE) -> Result:
    return run_stage(WORKLOADS[workload], fake(driver), items, 0.01, deadline)


# ---- the whole command ----


@pytest.mark.thorough
def test_each_shape_of_work_runs_on_ours_and_on_the_standard_queue(tmp_path: Path) -> None:
    names = ["bytes", "raw", "made", "numpy", "2-to-2", "round-trip", "pair-dict", "floor-dict", "idle"]
    told = figures_of(
        tmp_path / "figures", *TINY, "--rounds", 1, *(part for name in names for part in ("--workload", name))
    )
    assert len(told["figures"]) == 9, "the round trip has two, the floor is beside the pair"
    for name, figure in told["figures"].items():
        floor = {"msgpack alone, no queue", "queue.SimpleQueue (threads only)"} if name == "pair-dict cost" else set()
        assert set(figure["queues"]) == {"shmqueue", YARDSTICK} | floor
        for each in figure["queues"].values():
            if name == "numpy rate" and importlib.util.find_spec("numpy") is None:
                assert each == {"why_not": "numpy is not installed"}
            else:
                assert each.get("median", 0) > 0, (name, each)


@pytest.mark.thorough
def test_all_ways_to_use_shmqueue_do_what_compares_them(tmp_path: Path) -> None:
    names = ["int", "batch-int", "list"]
    told = figures_of(
        tmp_path / "figures", *TINY, "--rounds", 1, *(part for name in names for part in ("--workload", name))
    )
    family = {"compat.multiprocessing.Queue", "compat.queue.Queue", "shmqueue, portable engine"}
    for name in ("int rate", "batch-int rate", "list rate"):
        medians = {label: each["median"] for label, each in told["figures"][name]["queues"].items()}
        assert set(medians) == {"shmqueue", YARDSTICK} | family
        assert min(medians.values()) > 0


def test_leases_and_full_rings_are_measured_on_ours_alone(tmp_path: Path) -> None:
    names = ["lease", "ring-1m", "ring-16m"]
    told = figures_of(
        tmp_path / "figures", *TINY, "--rounds", 1, *(part for name in names for part in ("--workload", name))
    )
    assert set(told["figures"]) == {f"{name} rate" for name in names}
    for figure in told["figures"].values():
        assert set(figure["queues"]) == {"shmqueue"}
        assert figure["queues"]["shmqueue"]["median"] > 0
    rings = (told["figures"][f"ring-{n}m rate"]["queues"]["shmqueue"]["items"] for n in (1, 16))
    assert len(set(rings)) == 1, "each with its own number of items: not comparable"


def test_two_asyncio_programs_are_measured(tmp_path: Path) -> None:
    told = figures_of(tmp_path / "figures", *TINY, "--rounds", 1, "--workload", "async-round-trip")
    medians = {label: each["median"] for label, each in told["figures"]["async-round-trip p50"]["queues"].items()}
    assert set(medians) == {"compat.asyncio.Queue", f"{YARDSTICK}, to_thread"}
    assert min(medians.values()) > 0


def test_every_workload_is_in_a_table_and_every_column_is_measured() -> None:
    shown = {column.workload for table in TABLES for column in table.columns}
    stand_ins = {workload for table in TABLES for workload in table.floors.values()}
    assert shown | stand_ins == set(WORKLOADS)
    assert not shown & stand_ins


@pytest.mark.thorough
def test_it_writes_what_was_measured_where_and_how(tmp_path: Path) -> None:
    done = bench(
        *(*TINY, "--rounds", 3, "--workload", "int", "--workload", "round-trip"),
        *("--json", tmp_path / "json", "--markdown", tmp_path / "markdown", "--svg", tmp_path / "svg"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads((tmp_path / "json").read_text())
    assert (told["rounds"], told["engine"], told["interrupted"]) == (3, "native", None)
    assert told["command"].startswith("shmqueue bench --seconds 0.0005 --rounds 3")
    assert told["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert told["versions"]["shmqueue"]
    assert told["figures"]["int rate"]["better"] == "higher"
    assert told["figures"]["round-trip p50"]["better"] == "lower"
    for figure in told["figures"].values():
        for each in figure["queues"].values():
            assert len(each["rounds"]) == 3
            assert each["min"] == min(each["rounds"]) <= each["median"] <= max(each["rounds"]) == each["max"]
            assert each["items"] >= 1
        assert figure["queues"][YARDSTICK]["ratio"] == 1
    markdown = (tmp_path / "markdown").read_text()
    assert "| **shmqueue** | **" in markdown
    assert told["command"] in markdown
    assert told["machine"]["kernel"] in done.stdout
    assert "1/" in done.stdout, "no progress was shown"
    root = xml.etree.ElementTree.fromstring((tmp_path / "svg").read_text())
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 4, "two queues, two workloads"


def test_peers_that_are_not_there_are_named(tmp_path: Path) -> None:
    told = figures_of(
        tmp_path / "figures", *TINY, "--rounds", 1, "--workload", "int", "--peers", PEERS,
        "--peer-python", "pypi-shmqueue=/nowhere/python",
    )  # fmt: skip
    for label in ("pyzmq", "membridge", "faster-fifo"):
        assert (label in told["versions"]) != (label in told["absent"])
    assert "/nowhere/python" in told["absent"]["pypi-shmqueue"]


def test_a_peer_may_have_an_interpreter_of_its_own(tmp_path: Path) -> None:
    """The one that stands in for PyPI's package is this one, whose queue has the same interface."""
    told = figures_of(
        tmp_path / "figures", *TINY, "--rounds", 1, "--workload", "int", "--peers", PEERS,
        "--peer-python", f"pypi-shmqueue={sys.executable}",
    )  # fmt: skip
    assert told["figures"]["int rate"]["queues"]["pypi-shmqueue"]["median"] > 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--workload", "nonsense"), "nonsense"),
        (("--peer-python", "membridge"), "path of a Python interpreter is missing"),
        (("--peer-python", "nonsense=/usr/bin/python3"), "'nonsense' is none of"),
        (("--json", "/nowhere/file"), "cannot write '/nowhere/file'"),
    ],
)
def test_it_refuses_before_it_measures(arguments: tuple[str, ...], why: str) -> None:
    done = bench(*arguments)
    assert done.returncode != 0
    assert why in done.stderr
    assert done.stdout == ""


# ---- it ends, and leaves nothing ----


def mentioned(what: str) -> list[int]:
    """Processes on whose command lines this stands: the stages and workers that have a directory within it."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if what.encode() in file.read():
                    found.append(int(pid))
        except OSError:
            pass  # it has ended
    return found


@contextmanager
def long_bench(directory: str) -> Iterator[subprocess.Popen[str]]:
    """A bench that has workers, and has them for long."""
    process = subprocess.Popen(
        [*COMMAND, "--workload", "idle", "--seconds", "1000"],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: len(mentioned(directory)) == 3, "a stage and two workers run")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_ctrl_c_ends_all_its_processes(segment_directory: str) -> None:
    with long_bench(segment_directory) as process:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
        assert mentioned(segment_directory) == []


def test_its_processes_end_when_it_is_killed(segment_directory: str) -> None:
    with long_bench(segment_directory) as process:
        process.kill()
        process.wait()
        wait_until(lambda: not mentioned(segment_directory), "the stage and its workers have ended")
    for name in os.listdir(segment_directory):
        shutil.rmtree(os.path.join(segment_directory, name))  # which nobody was left to do


def test_its_workers_end_when_their_stage_is_killed(segment_directory: str) -> None:
    with long_bench(segment_directory) as process:
        workers = set(mentioned(segment_directory))
        (stage,) = (pid for pid in workers if os.getpgid(pid) == pid)
        os.kill(stage, signal.SIGKILL)
        wait_until(lambda: not workers & set(mentioned(segment_directory)), "it and its workers have ended")
        process.send_signal(signal.SIGINT)  # it has gone on to the next one
        process.communicate(timeout=PATIENCE)


def test_a_queue_that_hangs_is_ended_and_reported(segment_directory: str) -> None:
    result = measure("Hanging", "int", deadline=1.0)
    assert result.status == "hangs"
    assert mentioned(segment_directory) == []


def test_a_stage_that_does_not_listen_is_killed(segment_directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "_GRACE", 0.5)
    assert measure("Deaf", "int", deadline=0.5).status == "hangs"
    assert mentioned(segment_directory) == []


def test_a_worker_that_is_killed_is_reported() -> None:
    result = measure("Dying", "int")
    assert (result.status, result.why) == ("failed", "a worker ended with exit status -9")


# ---- every item is checked ----


@pytest.mark.parametrize("workload", [*STREAMS, "2-to-2", "pair-int", "pair-dict"])
def test_a_queue_that_does_right_passes(workload: str) -> None:
    result = measure("Right", workload)
    assert (result.status, result.why) == ("ok", "")
    assert result.items == 100
    assert result.seconds > 0


@pytest.mark.parametrize("workload", [*STREAMS, "2-to-2", "pair-int", "pair-dict"])
@pytest.mark.parametrize("driver", ["Corrupting", "Doubling"])
def test_an_item_that_was_altered_or_came_twice_is_found(driver: str, workload: str) -> None:
    assert measure(driver, workload, 200).status == "wrong"


@pytest.mark.parametrize("workload", STREAMS)
def test_an_item_that_was_lost_is_found(workload: str) -> None:
    assert measure("Losing", workload).status == "wrong"


@pytest.mark.parametrize(
    ("logs", "mistake"),
    [
        ([[0, 1, 2, 3], [5, 4]], None),
        ([[0, 2, 1, 3], [4, 5]], None),
        ([[2, 0, 1, 3], [4, 5]], "item 0 arrived after item 2 of the same producer"),
        ([[0, 1, 2, 3], [4, 4]], "item 4 arrived twice"),
        ([[0, 1, 2, 3], [4, 6]], "item 6 arrived and was never put"),
        ([[0, 1, 2, 3], [4]], "item 5 did not arrive"),
    ],
)
def test_what_several_consumers_took_is_checked(logs: list[list[int]], mistake: str | None) -> None:
    """Of two producers: the even ones and the odd ones."""
    assert check_logs(logs, 2, 6) == mistake


def test_a_wrong_item_is_told_with_its_number() -> None:
    report = a_report(fake("Corrupting"))
    run(report, [WORKLOADS["int"]], Setting(1, 0.001, PATIENCE, None), Lines())
    assert report.mistakes() == ["Corrupting, int: item 49 arrived as -49"]


def test_large_items_differ_wherever_one_looks() -> None:
    """So an item that is another one is noticed, whichever part of it is compared."""
    kind: Any = KINDS["bytes"]()
    kind.prepare()
    for number in range(256):
        dues = [due for due in kind.pool if kind.is_due(due, kind.pool[0], number)]
        assert dues == [kind.pool[0]]


# ---- rounds and figures ----


def a_report(*entrants: Contestant, rounds: int = 1) -> Report:
    report = new_report([], rounds)
    report.contestants.extend(entrants)
    return report


def test_within_a_round_each_runs_once_and_another_begins_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []

    def pretend(workload: object, contestant: Contestant, items: int, seconds: float, deadline: float) -> Result:
        ran.append((contestant.label, items))
        if contestant.label == "c":
            return Result("hangs", "not done")
        return Result("ok", items=items, seconds=items / {"a": 1000, "b": 1_000_000}[contestant.label], figures={})

    monkeypatch.setattr(runner, "run_stage", pretend)
    report = a_report(*(Contestant(label, label, "field") for label in "abc"))
    run(report, [WORKLOADS["dict"]], Setting(3, 1.0, 1.0, None), Lines())
    last = [label for label, items in ran if (label, items) in (("a", 1_000), ("b", 1_000_000))]
    assert last == ["a", "b", "b", "a", "a", "b"], "calibrated to a second, and in turn"
    assert [label for label, _ in ran].count("c") == 1, "what hangs is not run again"
    assert [len(report.results["dict", label]) for label in "abc"] == [3, 3, 1]


def test_nothing_new_begins_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run_stage", lambda *arguments: Result("ok", items=1, seconds=1.0, figures={}))
    report = a_report(Contestant("a", "a", "field"))
    run(report, [WORKLOADS["int"], WORKLOADS["dict"]], Setting(5, 1.0, 1.0, -1.0), Lines())
    assert report.results == {}
    assert report.interrupted == "the time was over after 0 of 10 measurements"


def filled_report() -> Report:
    ours, standard, *_ = contestants(peers=None, pythons={})
    peer = Contestant("other", "other", "field")
    report = a_report(ours, standard, peer, rounds=3)
    report.absent["other"] = "not installed"
    for label, rates in (("shmqueue", (4e6, 8e6, 5e6)), (YARDSTICK, (1e6, 0.5e6, 2e6))):
        report.results["int", label] = [
            Result("ok", items=10, seconds=1, figures={"rate": rate, "cost": 1e9 / rate, "cpu": 1.0}) for rate in rates
        ]
        report.results["pair-int", label] = report.results["int", label]
    report.results["2-to-2", "shmqueue"] = [Result("hangs", "not done after 1 s")]
    report.results["2-to-2", YARDSTICK] = [Result("cannot", "one producer only")]
    return report


def test_ratios_say_how_many_times_better() -> None:
    queues = {name: figure["queues"] for name, figure in filled_report().as_json()["figures"].items()}
    ours = queues["int rate"]["shmqueue"]
    assert (ours["median"], ours["min"], ours["max"], ours["ratio"]) == (5e6, 4e6, 8e6, 5)
    assert queues["pair-int cost"]["shmqueue"]["median"] == 200
    assert queues["pair-int cost"]["shmqueue"]["ratio"] == 5, "less is better"
    assert queues["2-to-2 rate"] == {"shmqueue": {"why_not": "hangs"}, YARDSTICK: {"why_not": "one producer only"}}


def test_what_has_no_figure_has_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    report = filled_report()
    tables.print_tables(report)
    for shown in (tables.as_markdown(report), capsys.readouterr().out):
        assert "5.00 M/s" in shown
        assert "5.00x" in shown
        assert "other: not installed" in shown
        assert f"{YARDSTICK}: one producer only (2-to-2)" in shown
        assert "shmqueue: hangs (2-to-2)" in shown


def test_the_chart_is_drawn_to_scale_and_escaped() -> None:
    report = filled_report()
    odd = Contestant("<other>", "other", "field")
    report.contestants.append(odd)
    report.results["int", odd.label] = report.results["int", YARDSTICK]
    root = xml.etree.ElementTree.fromstring(chart.as_svg(report))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    widths = [float(bar.attrib["width"]) for bar in bars]
    assert widths == pytest.approx([widths[0], widths[0] / 5, widths[0] / 5], abs=0.1)
    assert "<other>" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
