"""``doctor`` and ``top``: what is wrong with an installation, and what goes on in queues."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable

import pytest
from cli_support import holder, json_of, leave_orphan, output_of, run, started
from safety import denied
from support import PATIENCE, overwrite, run_python, wait_until

from shmqueue import ShmQueue, segment

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("native")


# ---- doctor ----


def test_doctor_ends_with_0_when_nothing_is_wrong(segment_directory: str) -> None:
    findings = json_of("doctor")
    assert (findings["engine"], findings["reason"], findings["warnings"]) == ("native", None, [])
    assert findings["directory"] == segment_directory
    assert findings["free"] > 0
    assert findings["file_system"].keys() == {"locks", "nameless_files", "hard_links", "reserves_memory"}
    assert findings["python"].endswith(sys.version.split()[0])
    assert findings["versions"].keys() == {"shmqueue", "msgpack", "shmlock"}
    assert findings["orphans"] == findings["swept"] == []
    assert "native" in output_of("doctor")


def test_doctor_lists_orphans_and_removes_them_only_when_told_to(name: str) -> None:
    orphan = name + "-orphan"
    leave_orphan(orphan)
    with holder(name + "-held"):
        findings = json_of("doctor")  # with status 0: nothing is wrong with the installation
        (found,) = findings["orphans"]
        assert (found["name"], found["items"]) == (orphan, 3)
        assert (findings["warnings"], len(findings["notes"])) == ([], 1)
        text = run("doctor").stdout
        assert f"{orphan} (3 items, " in text
        assert "note: 1 queue uses memory that no process has open" in text
        assert "rm --orphans" in text
        assert os.path.exists(segment.path_of(orphan))
        findings = json_of("doctor", "--sweep")
        assert (findings["orphans"], [info["name"] for info in findings["swept"]]) == ([], [orphan])
        assert not os.path.exists(segment.path_of(orphan))


def test_doctor_finds_nothing_wrong_with_a_queue_that_is_kept(name: str) -> None:
    with ShmQueue(name, keep=True) as queue:
        queue.put(1)
    assert json_of("doctor")["orphans"] == []
    output_of("rm", name)


def test_doctor_names_queues_that_cannot_be_opened(name: str, make: Make) -> None:
    make()
    overwrite(segment.path_of(name), 0, b"damaged!")
    (warning,) = json_of("doctor", status=3)["warnings"]
    assert warning.startswith(f"queue {name!r} cannot be opened: ")
    output_of("rm", name)


def test_doctor_says_why_the_engine_is_not_the_native_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
    findings = json_of("doctor")
    assert findings["engine"] == "portable"
    assert "SHMQUEUE_ENGINE" in findings["reason"]
    monkeypatch.setenv("SHMQUEUE_ENGINE", "fastest")
    findings = json_of("doctor", status=3)
    assert findings["engine"] is None
    assert "'fastest'" in findings["reason"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is no native engine")
def test_doctor_ends_with_3_where_the_native_engine_should_be_and_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHMQUEUE_ENGINE")
    code = """
import sys
sys.modules["shmqueue.engine.native._core"] = None
sys.argv[1:] = ["doctor", "--json"]
from shmqueue.cli import main
try:
    main()
except SystemExit as end:
    print(int(end.code))
"""
    *findings, status = run_python(code).splitlines()
    assert status == "3"
    (warning,) = json.loads("".join(findings))["warnings"]
    assert "slower" in warning


def test_doctor_finds_a_directory_that_is_not_there(monkeypatch: pytest.MonkeyPatch, segment_directory: str) -> None:
    monkeypatch.setenv("SHMQUEUE_DIR", os.path.join(segment_directory, "none"))
    findings = json_of("doctor", status=3)
    assert findings["free"] is None
    assert "none" in findings["warnings"][0]
    assert "SHMQUEUE_DIR" in findings["warnings"][0]
    assert "warning: " in run("doctor").stdout


def test_doctor_tries_to_make_a_file_and_leaves_none(monkeypatch: pytest.MonkeyPatch, segment_directory: str) -> None:
    json_of("doctor")
    assert os.listdir(segment_directory) == []
    monkeypatch.setenv("SHMQUEUE_DIR", "/proc")
    findings = json_of("doctor", status=3)
    assert findings["file_system"] is None
    assert "/proc" in findings["warnings"][0]


@pytest.mark.skipif(denied.why_not() is not None, reason=str(denied.why_not()))
@pytest.mark.parametrize(("is_denied", "found"), [(False, True), (True, False)])
def test_doctor_says_whether_the_kernel_marks_dead_owners_and_what_that_means(is_denied: bool, found: bool) -> None:
    code = f"""
import errno, json, sys
from safety.denied import deny_robust_lists
if {is_denied}:
    deny_robust_lists(errno.ENOSYS)
from shmqueue.cli import main
for arguments in (["doctor", "--json"], ["doctor"]):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as end:
        assert not end.code
    print("---")
"""
    as_json, text, _ = run_python(code).split("---\n")
    assert json.loads(as_json)["robust_lists"] is found
    assert json.loads(as_json)["warnings"] == []
    (line,) = re.findall(r"^robust lists +(.*)$", text, re.MULTILINE)
    assert line.startswith("yes: " if found else "no: ")


def test_doctor_does_not_know_of_robust_lists_without_the_native_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHMQUEUE_ENGINE")
    code = """
import sys
sys.modules["shmqueue.engine.native._core"] = None
from shmqueue import engine
print(engine.marks_dead_owners())
"""
    assert run_python(code) == "None\n"


# ---- top ----


def test_top_shows_what_goes_in_and_out(name: str, make: Make) -> None:
    queue = make(buffer_size=1 << 16)
    queue.put(0)
    with started("top", name, "--interval", "0.05") as process:
        assert process.stdout is not None
        rates: set[str] = set()

        def both_are_seen() -> bool:
            queue.put(1)
            queue.get()
            header, row = process.stdout.readline(), process.stdout.readline()  # type: ignore[union-attr]
            assert header.split() == ["NAME", "ITEMS", "LEASED", "IN/S", "OUT/S", "BYTES", "WAITING", "HOLDERS"]
            cells = row.split()
            assert (cells[0], cells[-1]) == (name, str(os.getpid()))
            rates.update(kind for kind, rate in zip(("in", "out"), cells[3:5], strict=True) if rate not in "-0")
            return rates == {"in", "out"}

        wait_until(both_are_seen, "items go in and out")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130


def test_top_as_json_is_one_look_over_an_interval(name: str, make: Make, engine: str) -> None:
    queue = make()
    queue.put("x")
    (row,) = json_of("top", "--interval", "0.01")
    assert (row["name"], row["items"], row["put_rate"], row["get_rate"]) == (name, 1, 0, 0)
    assert (row["holders"], row["orphan"], row["waiting"]) == ([os.getpid()], False, [])
    assert json_of("top", name, "--interval", "0.01")[0]["name"] == name


def test_top_tells_who_waits(name: str, make: Make) -> None:
    queue = make()
    with started("get", name) as process:
        wait_until(lambda: queue._handle.counters().getters_waiting, "it waits")
        (row,) = json_of("top", "--interval", "0.01")
        assert row["waiting"] == ["get"]
        assert process.pid in row["holders"]
        queue.put(1)
        assert process.wait(PATIENCE) == 0


def test_top_goes_on_when_a_queue_comes_and_goes(name: str, make: Make) -> None:
    with started("top", "--interval", "0.02") as process:
        assert process.stdout is not None
        wait_until(lambda: process.stdout.readline() == "no queues\n", "there is none")  # type: ignore[union-attr]
        queue = make()
        wait_until(lambda: name in process.stdout.readline(), "it is seen")  # type: ignore[union-attr]
        queue.shutdown()
        wait_until(lambda: process.stdout.readline() == "no queues\n", "it is gone")  # type: ignore[union-attr]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == -signal.SIGTERM


def test_top_holds_no_queue(name: str, segment_directory: str) -> None:
    with started("top", "--interval", "0.01") as process:
        assert process.stdout is not None
        with holder(name) as held:
            wait_until(lambda: name in process.stdout.readline(), "it is seen")  # type: ignore[union-attr]
            assert segment.holders_of(segment.path_of(name)) == [held.pid]
        assert os.listdir(segment_directory) == []
