"""The command itself: its help, its exit statuses, and output that any terminal and any reader can take."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
from collections.abc import Callable

import pytest
from cli_support import (
    COMMAND,
    HERE,
    error_of,
    holder,
    json_of,
    output_of,
    path_is_held_by,
    run,
    started,
    usage_error_of,
)
from support import PATIENCE, Call, is_asleep, overwrite, wait_until

import shmqueue
from shmqueue import ShmQueue, segment

Make = Callable[..., ShmQueue]

pytestmark = pytest.mark.usefixtures("native")

STATUSES = ["0", "1", "2", "3", "4", "5", "6", "7", "64", "130", "141"]


def on_terminal(*arguments: str, columns: int = 80) -> list[str]:
    """The lines that a command writes on a terminal of ``columns`` columns."""
    fcntl, termios = pytest.importorskip("fcntl"), pytest.importorskip("termios")
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        process = subprocess.Popen([*COMMAND, *arguments], cwd=HERE, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        output = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # Linux says so when the last one has closed the other end
                break
            if not chunk:
                break
            output += chunk
        process.wait(PATIENCE)
    finally:
        os.close(ours)
    # What moves the cursor begins another line.
    return [line for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]", output.decode()) if line]


def test_a_get_on_a_terminal_says_that_the_queue_was_not_there(name: str) -> None:
    """Else a mistyped name waits without a word."""
    putter = Call(_put_when_it_is_there, name)
    lines = on_terminal("get", name)
    putter.result()
    assert len(lines) == 2
    assert f"no queue called {name!r}" in lines[0]
    assert lines[1] == "7"


def _put_when_it_is_there(name: str) -> None:
    wait_until(lambda: os.path.exists(segment.path_of(name)), "the queue is there")
    with ShmQueue(name, create=False) as q:
        q.put(7)


# ---- help ----


def test_it_tells_its_version_and_how_long_a_queue_exists() -> None:
    assert output_of("--version").split()[-1] == shmqueue.__version__
    assert "exists while at least one process has it open" in " ".join(output_of("--help").split())
    assert "There must be a queue of that name, unless" in " ".join(output_of("put", "--help").split())


@pytest.mark.parametrize("command", [(), ("put",), ("get",), ("peek",), ("clear",), ("rm",), ("stat",), ("top",)])
def test_the_help_lists_the_exit_statuses(command: tuple[str, ...]) -> None:
    text = output_of(*command, "--help").split("Exit statuses:")[1]
    assert [line.split()[0] for line in text.splitlines() if line.strip()] == STATUSES


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from shmqueue.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=HERE, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 3
    assert f"needs {missing}: install this project with its cli extra" in done.stderr
    assert "pip install '.[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


# ---- exit statuses ----


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nonsense",),
        ("nonsense",),
        ("get",),
        ("get", "x" * 181),
        ("get", "x", "--buffer-size", "12 apples"),
        ("get", "x", "--buffer-size", "0"),
        ("get", "x", "--buffer-size", "2M", "--max-bytes", "1M"),
        ("get", "x", "--count", "0"),
        ("get", "x", "--count", "1", "--follow"),
        ("put", "x"),
        ("rm",),
        ("rm", "x", "--orphans"),
        ("top", "--interval", "0"),
    ],
)
def test_wrong_arguments_end_with_64(arguments: tuple[str, ...]) -> None:
    assert usage_error_of(*arguments).startswith("Error: ")


@pytest.mark.parametrize("command", ["stat", "peek", "clear", "rm", "top"])
def test_a_queue_that_does_not_exist_ends_with_4(command: str, name: str, segment_directory: str) -> None:
    assert error_of(command, name, status=4) == f"Error: there is no queue called {name!r}\n"
    assert os.listdir(segment_directory) == []


@pytest.mark.parametrize("command", ["stat", "peek", "clear", "get", "put"])
def test_a_corrupted_queue_ends_with_5(command: str, name: str, make: Make) -> None:
    make()
    overwrite(segment.path_of(name), 0, b"damaged!")
    assert "magic" in error_of(command, name, *(["1"] if command == "put" else []), status=5)
    output_of("rm", name)


def test_a_queue_that_was_shut_down_ends_with_7(name: str, make: Make) -> None:
    queue = make()
    queue.put(1)
    queue.shutdown_all()
    assert name in error_of("put", name, "2", status=7)
    done = run("get", name, "--follow")
    assert (done.returncode, done.stdout) == (7, "1\n")
    assert name in error_of("peek", name, status=7)


def test_an_engine_that_there_is_not_ends_with_3(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "fastest")
    assert "'fastest'" in error_of("get", name, status=3)


@pytest.mark.parametrize("arguments", [("get", "NAME"), ("put", "NAME", "1", "--wait"), ("top",)])
def test_ctrl_c_ends_with_130_and_without_a_traceback(arguments: tuple[str, ...], name: str, make: Make) -> None:
    queue = make()
    with started(*[name if argument == "NAME" else argument for argument in arguments]) as process:
        if arguments[0] != "top":
            wait_until(lambda: path_is_held_by(name, 2), "it has the queue open")
        wait_until(lambda: _sleeps_in_command(process.pid), "it waits")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""
    queue.clear()


def _sleeps_in_command(pid: int) -> bool:
    """Whether it sleeps, and has come so far that Ctrl-C is an exception of Python."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        caught = next(int(line.split()[1], 16) for line in file if line.startswith("SigCgt:"))
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        has_rich = "_core." in file.read()
    return bool(caught >> (signal.SIGINT - 1) & 1) and has_rich and is_asleep(pid)


@pytest.mark.parametrize(
    "arguments",
    [("ls",), ("stat", "NAME"), ("ls", "--json"), ("doctor",), ("--help",), ("get", "--help"), ("--version",)],
)
def test_a_reader_that_is_gone_ends_with_141(arguments: tuple[str, ...], name: str, make: Make) -> None:
    make()
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [*COMMAND, *[name if argument == "NAME" else argument for argument in arguments]],
            cwd=HERE,
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
        )
    finally:
        os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_an_error_of_one_line(name: str, make: Make) -> None:
    make()
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "ls"], cwd=HERE, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE
        )
    assert done.returncode == 3
    assert done.stderr == "Error: No space left on device\n"


# ---- any terminal ----


@pytest.mark.parametrize("encoding", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
@pytest.mark.parametrize("queue_name", ["schl\xe4nge-\u884c\u5217", "half-\udc80"])
def test_no_encoding_is_too_small_for_a_name(queue_name: str, encoding: dict[str, str], make: Make) -> None:
    queue = make(queue_name)
    queue.put("\xe4\u884c")
    for arguments in (("ls",), ("ls", "--json"), ("stat", queue_name), ("top", "--count", "1", "--interval", "0.01")):
        done = run(*arguments, **encoding)
        assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(output_of("peek", queue_name, **encoding)) == "\xe4\u884c"
    done = run("get", queue_name + "\xe4", "--timeout", "0", **encoding)
    assert (done.returncode, "is empty" in done.stderr) == (1, True)
    assert json.loads(output_of("get", queue_name, **encoding)) == "\xe4\u884c"


def test_on_a_terminal_of_80_columns_no_word_is_broken(make: Make, name: str) -> None:
    long_name = "a-queue-with-a-name-of-several-words-" + "x" * 90
    for queue_name in (name, long_name):
        make(queue_name).put(1)
    handles = [make(name) for _ in range(15)]
    foreign = segment.path_of("not-a-queue")
    with open(foreign, "wb") as file:
        file.write(b"?" * 8192)
    os.chmod(foreign, 0o600)
    try:
        for arguments in (("ls",), ("stat", name), ("top", "--count", "1", "--interval", "0.01"), ("doctor",)):
            lines = on_terminal(*arguments)
            words = set(" ".join(lines).split())
            assert not [line for line in lines if len(line) > 80 and " " in line.strip()], lines
            if arguments[0] in ("ls", "top"):
                assert name in words, lines
                assert long_name in "".join(lines), lines
                holders = [word for word in words if word.strip(",") == str(os.getpid())]
                assert holders, lines
            if arguments[0] == "ls":
                assert "not a shmqueue segment (wrong magic)" in " ".join(" ".join(lines).split())
    finally:
        os.unlink(foreign)
    assert len(handles) == 15


def test_what_is_piped_is_not_wrapped(make: Make, name: str) -> None:
    for _ in range(40):
        make(name)
    header, row = output_of("ls", COLUMNS="40").splitlines()
    assert row.count(str(os.getpid())) == 40
    assert header.split()[0] == "NAME"
    assert all(len(line.split("  ")) >= 2 for line in output_of("stat", name, COLUMNS="40").splitlines())


def test_a_name_does_not_rule_the_terminal(make: Make, name: str) -> None:
    make(name + "\x1b[31m[bold]")
    for arguments in (("ls",), ("top", "--count", "1", "--interval", "0.01")):
        output = output_of(*arguments)
        assert "\x1b" not in output
        assert "[bold]" in output


def test_looking_changes_nothing(
    name: str, make: Make, segment_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holder(name, 3) as process:
        process.kill()
        process.wait()
    before = _contents(segment_directory)
    assert list(before) == [os.path.basename(segment.path_of(name))]
    for command in ("ls", "stat", "peek", "top", "doctor"):
        arguments = [command, *([name] if command in ("stat", "peek", "top") else [])]
        if command == "top":
            arguments += ["--count", "2", "--interval", "0.01"]
        assert run(*arguments).returncode == 0
        assert _contents(segment_directory).keys() == before.keys(), command
    (row,) = json_of("ls")
    assert (row["items"], row["holders"], row["orphan"]) == (3, [], True)
    assert make().get_many(10) == [0, 1, 2]


def _contents(directory: str) -> dict[str, bytes]:
    found = {}
    for entry in os.listdir(directory):
        with open(os.path.join(directory, entry), "rb") as file:
            found[entry] = file.read()
    return found


@pytest.mark.parametrize(
    "command", [["ls"], ["stat", "{name}"], ["doctor"], ["top", "--count", "1"], ["peek", "{name}"]]
)
def test_a_closed_standard_output_is_an_error_of_one_line(make: Make, name: str, command: list[str]) -> None:
    make().put(1)
    line = shlex.join([*COMMAND, *(word.format(name=name) for word in command)]) + " >&-"
    ran = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, text=True, timeout=PATIENCE, cwd=HERE)
    assert (ran.returncode, ran.stderr) == (3, "Error: standard output is closed\n")


@pytest.mark.parametrize("command", ["get", "peek", "put"])
def test_a_timeout_that_is_no_number_is_refused(name: str, command: str) -> None:
    value = ["1"] if command == "put" else []
    assert "not a number of seconds" in usage_error_of(command, name, *value, "--timeout", "nan")
