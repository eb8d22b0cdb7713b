"""The standard library's ``logging`` and loguru on our queues."""

from __future__ import annotations

import collections
import importlib
import logging
import logging.config
import logging.handlers
import queue
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, START_METHODS, Opener, run_program, wait_for_line

from shmqueue.inspection import remove_queue

PROGRAMS = Path(__file__).parent / "programs"

pytestmark = pytest.mark.usefixtures("engine")


# ---- unrelated processes ----


def start(stack: ExitStack, *arguments: object) -> subprocess.Popen[str]:
    """The program in a process that is killed at the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, str(PROGRAMS / "logs_by_name.py"), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.communicate)
    stack.callback(process.kill)
    return process


def test_unrelated_processes_log_through_a_queue_of_a_name_into_one_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with ExitStack() as stack:
        stack.callback(remove_queue, "logs")
        loggers = {"before": start(stack, "log", "before", 100)}
        assert loggers["before"].wait(PATIENCE) == 0
        listener = start(stack, "listen", path)
        wait_for_line(listener, "ready")
        loggers |= {name: start(stack, "log", name, 100) for name in ("one", "two")}
        assert [process.wait(PATIENCE) for process in loggers.values()] == [0, 0, 0]
        listener.communicate("", PATIENCE)
        assert listener.returncode == 0
    text = path.read_text(encoding="utf-8")
    records = re.findall(r"^(before|one|two) (\d+) (.*)$", text, re.MULTILINE)
    logged = collections.defaultdict(list)
    for name, pid, message in records:
        logged[name, int(pid)].append(message)
    expected = [*(f"message {number}" for number in range(100)), "failed"]
    assert logged == {(name, process.pid): expected for name, process in loggers.items()}
    assert all(f"LookupError: of {name}\n" in text for name in loggers)


# ---- dictConfig ----


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The logger that ``configure`` configures; it has no handlers afterwards."""
    logger = logging.getLogger("test_logging")
    yield logger
    logger.handlers.clear()


def configure(**handler: Any) -> logging.handlers.QueueHandler:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {"queue": handler},
            "loggers": {"test_logging": {"handlers": ["queue"], "level": "INFO", "propagate": False}},
        }
    )
    (made,) = logging.getLogger("test_logging").handlers
    assert isinstance(made, logging.handlers.QueueHandler)
    return made


MAKES_QUEUES = sys.version_info >= (3, 12)  # before, QueueHandler was a class like others
JUDGES_BY_METHODS = not MAKES_QUEUES or hasattr(logging.config, "_is_queue_like_object")  # and not by class
MADE: dict[str, Any] = {"class": "logging.handlers.QueueHandler", **({"handlers": []} if MAKES_QUEUES else {})}


def by_object(q: Any) -> dict[str, Any]:
    return {**MADE, "queue": q}


def by_factory(q: Any) -> dict[str, Any]:
    return {**MADE, "queue": {"()": lambda: q}}


def by_factory_of_handler(q: Any) -> dict[str, Any]:
    return {"()": "logging.handlers.QueueHandler", "queue": q}


CLASSES = [
    ("queue", "Queue"),
    ("queue", "SimpleQueue"),
    ("multiprocessing", "Queue"),
    ("multiprocessing", "JoinableQueue"),
]


def takes(way: Callable[[Any], dict[str, Any]], q: Any) -> bool:
    """Whether dictConfig() makes a handler that has this queue."""
    try:
        return configure(**way(q)).queue is q
    except ValueError as error:
        assert "Invalid queue specifier" in str(error.__cause__)  # noqa: PT017
        return False


@pytest.mark.parametrize("way", [by_object, by_factory, by_factory_of_handler])
@pytest.mark.parametrize(("module", "kind"), CLASSES)
def test_dict_config_takes_our_queue_where_it_takes_the_standard_one(
    way: Callable[[Any], dict[str, Any]], module: str, kind: str, logger: logging.Logger
) -> None:
    standard = Opener(importlib.import_module(module), True)
    ours = Opener(importlib.import_module(f"shmqueue.compat.{module}"), False)
    try:
        q = getattr(ours, kind)()
        expected = takes(way, getattr(standard, kind)())
        if way is by_object and not JUDGES_BY_METHODS:
            expected = expected and isinstance(q, queue.Queue)
        assert takes(way, q) == expected
        if expected:
            logger.info("through %s", "a queue")
            assert q.get().getMessage() == "through a queue"
        if way is by_factory_of_handler or (way is by_factory and MAKES_QUEUES):
            assert expected
    finally:
        ours.close()
        standard.close()


# ---- loguru ----


@pytest.mark.parametrize("method", START_METHODS)
def test_loguru_enqueues_in_our_context(method: str, tmp_path: Path) -> None:
    """Its handler has a lock while it puts, as has a caller that waits for it to be complete, and its thread takes."""
    pytest.importorskip("loguru", reason="loguru is not installed")
    ran = run_program(PROGRAMS / "loguru_workers.py", method, "ours", within=tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [
        *(f"{name} True" for name in ("main", "worker-0", "worker-1", "worker-2")),
        "[0, 0, 0]",
    ]
