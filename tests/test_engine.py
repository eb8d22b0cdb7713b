"""Which engine serves, how a missing one says so, and that bytes from shared memory are never trusted."""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import overwrite, run_python

import shmqueue
from shmqueue import ShmQueue, engine, segment
from shmqueue.engine import native as native_package

Make = Callable[..., ShmQueue]

WITHOUT_NATIVE = """
import os, sys, warnings
sys.modules["shmqueue.engine.native._core"] = None
import shmqueue
"""


def test_the_native_engine_is_the_one_that_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHMQUEUE_ENGINE", raising=False)
    assert engine.NAME == "native"
    assert engine.REASON is None


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch, make: Make) -> None:
    for choice in ("portable", "native"):
        monkeypatch.setenv("SHMQUEUE_ENGINE", choice)
        assert choice == engine.NAME
        assert make(choice)._segment.header.shape.engine == choice


def test_an_unknown_choice_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SHMQUEUE_ENGINE", "fast")
    with pytest.raises(shmqueue.ShmQueueValueError, match="must be 'native' or 'portable', not 'fast'"):
        ShmQueue(name)


def test_without_the_compiled_module_queues_work_and_say_so_once(name: str) -> None:
    code = (
        WITHOUT_NATIVE
        + """
os.environ.pop("SHMQUEUE_ENGINE", None)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with shmqueue.ShmQueue(sys.argv[1]) as q, shmqueue.ShmQueue(sys.argv[1]) as r:
        q.put(1)
        print(r.get(), shmqueue.engine.NAME)
print(*[f"{warning.category.__name__}: {warning.message}" for warning in caught], sep="\\n")
print(shmqueue.engine.REASON)
"""
    )
    result, warning, reason = run_python(code, name).splitlines()
    assert result == "1 portable"
    assert warning == (
        "PortableEngineWarning: shmqueue uses its portable engine, which is much slower than the native one, "
        f"because {reason}"
    )
    assert "does not load" in reason


def test_a_module_that_was_not_compiled_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler, header = tmp_path / "no-compiler", tmp_path / "Python.h"
    monkeypatch.setenv("CC", f"{compiler} -m64")
    assert native_package._why_not_compiled() == f"there was no C compiler (here is no {str(compiler)!r})"
    monkeypatch.setenv("CC", sys.executable)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert native_package._why_not_compiled() == f"there was no Python.h (here is no {str(header)!r})"
    header.touch()
    assert native_package._why_not_compiled() == "the compilation failed"


def test_asking_for_a_missing_native_engine_is_an_error(name: str) -> None:
    code = (
        WITHOUT_NATIVE
        + """
os.environ["SHMQUEUE_ENGINE"] = "native"
try:
    shmqueue.ShmQueue(sys.argv[1])
except shmqueue.ShmQueueValueError as error:
    print(error)
"""
    )
    assert "SHMQUEUE_ENGINE asks for the native engine, which is not available: " in run_python(code, name)


def test_a_native_segment_without_the_native_engine_is_refused(make: Make, name: str, native: None) -> None:
    make()
    code = (
        WITHOUT_NATIVE
        + """
os.environ["SHMQUEUE_ENGINE"] = "portable"
try:
    shmqueue.ShmQueue(sys.argv[1])
except shmqueue.ShmQueueRefusedError as error:
    print(error)
"""
    )
    assert "belongs to the native engine and this process uses the portable one" in run_python(code, name)


PUT, GET = 256, 512  # offsets of the sides in a native segment, see layout.h
LEDGERS = 128
U64_MAX = 2**64 - 1


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (PUT + LEDGERS + 8, U64_MAX), (PUT + LEDGERS + 8, 1 << 40), (PUT + LEDGERS + 8, 3),
        (PUT + LEDGERS + 24, U64_MAX), (PUT + LEDGERS + 24, 0),
        (GET + LEDGERS + 8, U64_MAX), (GET + LEDGERS + 8, 1 << 40),
        (GET + LEDGERS + 24, U64_MAX),
        (4096, U64_MAX), (4096, 100),
    ],
)  # fmt: skip
@pytest.mark.parametrize("call", ["get", "get_many", "clear", "put"])
def test_bytes_that_contradict_themselves_poison_the_handle(
    make: Make, name: str, native: None, offset: int, value: int, call: str
) -> None:
    q = make()
    q.put(b"x" * 20)
    q.put(b"y" * 20)  # two commits: slot 0 of the put ledgers is the current one again
    path = segment.path_of(name)
    overwrite(
        path, offset, struct.pack("Q" if offset < 4096 else "I", value & (U64_MAX if offset < 4096 else 0xFFFFFFFF))
    )
    fresh = make()
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: fresh.get(timeout=0),
        "get_many": lambda: fresh.get_many(9, timeout=0),
        "clear": fresh.clear,
        "put": lambda: fresh.put(b"z" * 4000, timeout=0),
    }
    # Not every call reads the corrupted field, and some changes make sense: nothing else must happen.
    harmless = (shmqueue.ShmQueueFull, shmqueue.ShmQueueEmpty, shmqueue.ShmQueueDeserializationError)
    with contextlib.suppress(*harmless):
        try:
            calls[call]()
        except shmqueue.ShmQueueCorruptedError as error:
            poisoned = str(error)
        else:
            return
        assert f"queue '{name}' is corrupted: " in poisoned
        for again in (lambda: fresh.get(timeout=0), lambda: fresh.put(1)):
            with pytest.raises(shmqueue.ShmQueueCorruptedError):
                again()


def test_a_record_longer_than_the_queue_is_never_read(make: Make, name: str, native: None) -> None:
    q = make()
    q.put(b"x" * 20)
    overwrite(segment.path_of(name), segment.HEADER_SIZE, struct.pack("I", 4000))
    with pytest.raises(shmqueue.ShmQueueCorruptedError, match="a record is longer than the bytes in the queue"):
        q.get()
    for attempt in (lambda: q.put(1), q.clear, q.qsize, q.join, q.task_done, q.snapshot, lambda: q.get_many(2)):
        with pytest.raises(shmqueue.ShmQueueCorruptedError, match="this handle does not touch it any more"):
            attempt()


def test_the_ring_itself_refuses_what_is_no_native_segment(make: Make, name: str, native: None) -> None:
    from shmqueue.engine.native import Ring

    make()
    fd = os.open(segment.path_of(name), os.O_RDWR)
    try:
        with pytest.raises(shmqueue.ShmQueueCorruptedError, match="size is not what its header says"):
            Ring(fd, 4096, name, print, name)
        with pytest.raises(OSError, match="Bad file descriptor"):
            Ring(-1, 8192, name, print, name)
    finally:
        os.close(fd)


def test_engine_arguments_are_checked(make: Make, native: None) -> None:
    ring: Any = make()._engine
    attempt: Callable[[], object]
    for attempt in (
        lambda: ring.put(-1, b"", True, None), lambda: ring.put(2**32, b"", True, None),
        lambda: ring.get_many(0, True, None), lambda: ring.get(True, float("nan")),
    ):  # fmt: skip
        with pytest.raises((ValueError, OverflowError)):
            attempt()
    for attempt in (
        lambda: ring.put(0, "text", True, None), lambda: ring.put("0", b"", True, None), lambda: ring.put(0, b""),
        lambda: ring.put_many([1], True, None), lambda: ring.put_many(5, True, None), lambda: ring.get(True, "1"),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            attempt()
    assert ring.put(0, (b"a", bytearray(b"b"), memoryview(b"c")), True, None)
    assert ring.get(True, None) == (0, b"abc")
    with pytest.raises(ValueError, match="40 parts"):
        ring.put(0, (b"",) * 41, True, None)
