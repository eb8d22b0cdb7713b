"""The command line, run as users run it: in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from support import PATIENCE, is_asleep, python, wait_until

import shmqueue
from shmqueue import ShmQueue, segment

Make = Callable[..., ShmQueue]

HERE = os.path.dirname(__file__)
COMMAND = [sys.executable, "-m", "shmqueue.cli"]

HOLD = """
import sys, shmqueue
q = shmqueue.ShmQueue(sys.argv[1], buffer_size=8192, maxsize=50)
for number in range(int(sys.argv[2])):
    q.put(number)
print("up", flush=True)
sys.stdin.read()
"""

pytestmark = pytest.mark.usefixtures("native")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([*COMMAND, *arguments], cwd=HERE, capture_output=True, text=True, timeout=PATIENCE * 2)


def output_of(*arguments: str) -> str:
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def json_of(*arguments: str) -> Any:
    return json.loads(output_of(*arguments, "--json"))


def error_of(*arguments: str, status: int = 1) -> str:
    """Run a command that fails with one line on its standard error."""
    done = run(*arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command, still running; killed at the end if it still runs then."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def holder(name: str, items: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Another program that holds the queue with so many integers in it."""
    with python(HOLD, name, items) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.communicate(timeout=PATIENCE)  # at the end of its input it gives the queue up


def leave_orphan(name: str) -> None:
    """Make a queue whose only holder is killed with three items in it."""
    with holder(name, 3) as process:
        process.kill()
        process.wait()
    assert os.path.exists(segment.path_of(name))


@pytest.fixture
def orphan(name: str) -> Iterator[str]:
    """The name of a queue whose only holder was killed with three items in it."""
    leave_orphan(name)
    yield name
    with suppress(FileNotFoundError):
        segment.remove_name(segment.path_of(name))


def path_is_held_by(name: str, count: int) -> bool:
    return len(segment.holders_of(segment.path_of(name))) == count


# ---- the command itself ----


def test_it_tells_its_version_and_that_a_queue_lives_as_long_as_it_is_held() -> None:
    assert output_of("--version").split()[-1] == shmqueue.__version__
    assert "lives as long as somebody holds it" in " ".join(output_of("--help").split())
    assert "lives as long as somebody holds it" in " ".join(output_of("put", "--help").split())


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from shmqueue.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert missing in done.stderr
    assert "install this project with its cli extra (from a checkout: pip install '.[cli]')" in done.stderr
    assert "Traceback" not in done.stderr


# ---- ls ----


def test_ls_shows_figures_and_the_holders_and_is_none_of_them(name: str) -> None:
    with holder(name, 5) as process:
        (row,) = json_of("ls")
        assert row["name"] == name
        assert row["holders"] == [process.pid]
        assert (row["items"], row["occupancy"], row["buffer_size"]) == (5, 5 * 9, 8192)
        assert (row["engine"], row["problem"]) == ("native", None)
        assert row["age"] >= 0
        table = output_of("ls").splitlines()
        assert table[0].split() == ["NAME", "ITEMS", "BYTES", "SIZE", "HOLDERS", "AGE", "ENGINE"]
        assert table[1].split()[:5] == [name, "5", "45", "8192", str(process.pid)]
        assert segment.holders_of(segment.path_of(name)) == [process.pid]


def test_ls_shows_each_handle_of_each_process(make: Make, name: str) -> None:
    make()
    make()
    with holder(name) as process:
        (row,) = json_of("ls")
        assert row["holders"] == sorted([os.getpid(), os.getpid(), process.pid])


def test_ls_lists_what_nobody_holds_and_leaves_it(orphan: str) -> None:
    for _ in range(2):
        (row,) = json_of("ls")
        assert (row["name"], row["items"], row["holders"]) == (orphan, 3, [])


def test_ls_lists_queues_of_both_engines(make: Make, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(name + "-1").put("x")
    monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
    make(name + "-2").put("x")
    assert [(row["engine"], row["items"]) for row in json_of("ls")] == [("native", 1), ("portable", 1)]


def test_ls_says_of_a_file_that_is_no_segment_why_and_lists_the_rest(make: Make, name: str) -> None:
    make()
    foreign = segment.path_of(name + "-foreign")
    with open(foreign, "wb") as file:
        file.write(b"?" * 8192)
    os.chmod(foreign, 0o600)
    try:
        good, bad = json_of("ls")
        assert (good["name"], good["problem"]) == (name, None)
        assert (bad["name"], bad["items"]) == (name + "-foreign", None)
        assert "not a shmqueue segment" in bad["problem"]
        assert "not a shmqueue segment" in output_of("ls")
    finally:
        os.unlink(foreign)


def test_ls_does_not_let_a_name_rule_the_terminal(make: Make, name: str) -> None:
    make(name + "\x1b[31m[bold]")
    assert "\x1b[31m" not in output_of("ls")
    assert "[bold]" in output_of("ls")


# ---- stat ----


def test_stat_tells_everything(name: str) -> None:
    with holder(name, 4) as process:
        figures = json_of("stat", name)
        assert figures["path"] == segment.path_of(name)
        assert figures["holders"] == [process.pid]
        assert (figures["items"], figures["occupancy"], figures["unfinished_tasks"]) == (4, 36, 4)
        assert (figures["buffer_size"], figures["maxsize"], figures["engine"]) == (8192, 50, "native")
        assert (figures["put_pos"], figures["get_pos"], figures["same_lap"]) == (36, 0, 1)
        assert figures["statistics"]["puts"] == figures["statistics"]["high_water"] == 4
        text = output_of("stat", name)
        for shown in (name, str(process.pid), segment.path_of(name), "8192", "high water"):
            assert shown in text


def test_stat_of_an_orphan_still_sees_its_items(orphan: str) -> None:
    figures = json_of("stat", orphan)
    assert (figures["items"], figures["holders"]) == (3, [])


def test_stat_without_such_a_queue(name: str) -> None:
    assert error_of("stat", name) == f"Error: there is no queue called {name!r}\n"
    assert "1 to 180 characters" in error_of("stat", "x" * 181)


# ---- put ----


def test_put_puts_json_values(make: Make, name: str) -> None:
    queue = make(buffer_size=4096)
    assert output_of("put", name, '{"width": 640}', "[1, null]", '"text"', "-1", "2.5") == ""
    assert queue.get_many(10, timeout=0) == [{"width": 640}, [1, None], "text", -1, 2.5]


@pytest.mark.parametrize("value", ["{", "text", "1 2", "", "NaN"])
def test_put_puts_nothing_if_one_value_is_no_json(make: Make, name: str, value: str) -> None:
    queue = make()
    assert f"not a JSON value: {value!r}" in error_of("put", name, "1", value)
    assert queue.empty()


def test_put_refuses_where_the_items_would_be_gone_at_once(name: str) -> None:
    message = error_of("put", name, "1")
    assert message.startswith(f"Error: nobody holds queue {name!r}: ")
    assert "--wait" in message


def test_put_leaves_an_orphan_to_who_comes_next(orphan: str, make: Make) -> None:
    assert "nobody holds" in error_of("put", orphan, "9")
    assert make().get_many(10, timeout=0) == [0, 1, 2]


def test_put_wait_makes_the_queue_and_holds_it_until_it_is_empty(name: str, make: Make) -> None:
    with started("put", name, "1", "2", "--wait", "--buffer-size", "5000") as process:
        wait_until(lambda: path_is_held_by(name, 1), "the queue is there")
        queue = make(create=False)
        assert queue.max_buffer_size() == 8192
        assert queue.get(timeout=PATIENCE) == 1
        assert process.poll() is None
        assert queue.get(timeout=PATIENCE) == 2
        assert process.wait(PATIENCE) == 0


def test_put_of_an_item_that_can_never_fit(make: Make, name: str) -> None:
    make(buffer_size=4096)
    assert "can never fit" in error_of("put", name, json.dumps("x" * 5000))


# ---- get ----


def test_get_prints_a_line_of_json_for_each_item(make: Make, name: str) -> None:
    queue = make()
    for item in ({"a": [1, None, True]}, "ä\n", (1, 2.5), {1: 2}, b"raw", float("inf"), {3}, [{"k": b""}]):
        queue.put(item)
    assert json.loads(output_of("get", name)) == {"a": [1, None, True]}
    lines = output_of("get", name, "--count", "7").splitlines()
    assert [json.loads(line) for line in lines] == [
        "ä\n",
        [1, 2.5],
        {"repr": "{1: 2}"},
        {"repr": "b'raw'"},
        {"repr": "inf"},
        {"repr": "{3}"},
        {"repr": "[{'k': b''}]"},
    ]


def test_get_makes_the_queue_and_waits(name: str, make: Make) -> None:
    with started("get", name) as process:
        wait_until(lambda: path_is_held_by(name, 1), "the queue is there")
        make(create=False).put("at last")
        assert process.communicate(timeout=PATIENCE) == ('"at last"\n', "")
        assert process.returncode == 0


def test_get_gives_up_after_the_timeout(name: str) -> None:
    assert error_of("get", name, "--timeout", "0.01") == f"Error: queue {name!r} is empty after 0.01 s\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_get_follow_goes_on_until_it_is_told_to_end(name: str, make: Make, number: int, status: int) -> None:
    queue = make()
    with started("get", name, "--follow") as process:
        assert process.stdout is not None
        for item in range(3):
            queue.put(item)
            assert process.stdout.readline() == f"{item}\n"
        wait_until(lambda: is_asleep(process.pid), "it waits for the next item")
        process.send_signal(number)
        assert process.wait(PATIENCE) == status
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_get_follow_goes_on_after_an_item_that_cannot_be_loaded(name: str, make: Make) -> None:
    queue = make()
    queue.put({1, 2})
    queue.put("next")
    with started("get", name, "--follow", "--no-pickle") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == '"next"\n'
        process.send_signal(signal.SIGINT)
        assert "pickle" in process.communicate(timeout=PATIENCE)[1]


def test_get_no_pickle_refuses_a_pickled_item(name: str, make: Make) -> None:
    make().put({1, 2})
    assert "pickle" in error_of("get", name, "--no-pickle", "--timeout", "5")


def test_get_takes_over_the_items_of_killed_processes_and_says_what_it_drops(orphan: str) -> None:
    done = run("get", orphan)
    assert (done.returncode, done.stdout) == (0, "0\n")
    assert done.stderr.startswith(f"nobody else holds queue {orphan!r}: its other 2 items go with this command\n")


def test_get_takes_either_a_count_or_all(name: str) -> None:
    done = run("get", name, "--count", "2", "--follow")
    assert done.returncode == 2
    assert "exclude each other" in done.stderr


def test_put_and_get_use_the_engine_of_the_queue(name: str, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
    make()
    monkeypatch.setenv("SHMQUEUE_ENGINE", "native")
    output_of("put", name, "7")
    assert output_of("get", name) == "7\n"


# ---- rm ----


def test_rm_takes_the_name_away_and_the_holders_go_on(name: str, make: Make) -> None:
    old = make()
    old.put("old")
    assert output_of("rm", name) == ""
    new = make(create=True)
    assert new.empty()
    assert old.get(timeout=PATIENCE) == "old"


def test_rm_removes_a_damaged_segment(name: str, make: Make) -> None:
    make()
    with open(segment.path_of(name), "r+b") as file:
        file.write(b"damaged!")
    assert "wrong magic" in error_of("stat", name)
    output_of("rm", name)
    assert json_of("ls") == []


def test_rm_goes_on_after_a_name_that_is_not_there(name: str, make: Make) -> None:
    make()
    assert error_of("rm", name + "-none", name) == f"Error: there is no queue called {name + '-none'!r}\n"
    assert json_of("ls") == []


def test_rm_refuses_what_is_no_regular_file(name: str, segment_directory: str) -> None:
    target, link = os.path.join(segment_directory, "precious"), segment.path_of(name)
    with open(target, "w"):
        pass
    os.symlink(target, link)
    try:
        assert "not a regular file" in error_of("rm", name)
        assert os.path.islink(link)
    finally:
        os.unlink(link)
        os.unlink(target)


def test_rm_leaves_nothing_of_a_portable_queue(
    name: str, make: Make, monkeypatch: pytest.MonkeyPatch, segment_directory: str
) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
    leave_orphan(name)
    output_of("rm", name)
    assert os.listdir(segment_directory) == []


# ---- doctor ----


def test_doctor_tells_about_the_installation(segment_directory: str) -> None:
    findings = json_of("doctor")
    assert (findings["engine"], findings["reason"]) == ("native", None)
    assert findings["directory"] == segment_directory
    assert findings["free"] > 0
    assert findings["python"].endswith(sys.version.split()[0])
    assert findings["versions"].keys() == {"shmqueue", "msgpack", "shmlock"}
    assert findings["orphans"] == findings["swept"] == []
    assert "native" in output_of("doctor")


def test_doctor_lists_orphans_and_removes_them_only_when_told_to(name: str) -> None:
    with holder(name + "-held"):  # first, for any queue that is made sweeps the orphans
        orphan = name + "-orphan"
        leave_orphan(orphan)
        assert json_of("doctor")["orphans"] == [orphan]
        assert os.path.exists(segment.path_of(orphan))
        findings = json_of("doctor", "--sweep")
        assert (findings["orphans"], findings["swept"]) == ([], [orphan])
        assert not os.path.exists(segment.path_of(orphan))


def test_doctor_says_why_the_engine_is_not_the_native_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "portable")
    findings = json_of("doctor")
    assert findings["engine"] == "portable"
    assert "SHMQUEUE_ENGINE" in findings["reason"]
    monkeypatch.setenv("SHMQUEUE_ENGINE", "fastest")
    findings = json_of("doctor")
    assert findings["engine"] is None
    assert "'fastest'" in findings["reason"]


def test_doctor_finds_a_directory_that_is_not_there(monkeypatch: pytest.MonkeyPatch, segment_directory: str) -> None:
    monkeypatch.setenv("SHMQUEUE_DIR", os.path.join(segment_directory, "none"))
    findings = json_of("doctor")
    assert findings["free"] is None
    assert "none" in findings["warnings"][0]
    assert "warning: " in output_of("doctor")


# ---- demo ----


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
        wait_until(lambda: len(segment.holders_of(path)) == 3, "both programs have the queue")
        roles = {}
        for pid in segment.holders_of(path):
            with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
                command_line = file.read()
            for role in ("producer", "consumer"):
                if f"demo_{role}" in command_line:
                    roles[role] = pid
        assert roles.keys() == {"producer", "consumer"}
        yield process, roles


def all_gone(pids: dict[str, int]) -> bool:
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids.values())


@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_demo_says_which_of_its_programs_died_and_ends_the_other(role: str) -> None:
    with demo_under_way() as (process, pids):
        os.kill(pids[role], signal.SIGKILL)
        output, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1, output
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
    assert "not done when the deadline was over" in error_of("demo", "--items", "1000000000", "--deadline", "1")
