"""Calls of the portable engine that are interrupted at any line of its code where CPython could do so."""

from __future__ import annotations

import dis
import functools
import importlib
import inspect
import linecache
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

from shmqueue.engine import portable_lock
from shmqueue.engine.portable import PortableEngine

_MODULES = [
    "engine.portable",
    "engine.portable_calls",
    "engine.portable_commit",
    "engine.portable_get",
    "engine.portable_loan",
    "engine.portable_lock",
    "engine.portable_memory",
    "engine.portable_put",
    "engine.portable_records",
    "engine.portable_returns",
    "engine.portable_state",
    "engine.portable_waiting",
    "segment.handle",
    "segment.held_file",
    "segment.sidecar",
    "segment.files",
    "segment.locks",
    "segment.reserving",
]
_FILES = {importlib.import_module(f"shmqueue.{name}").__file__ for name in _MODULES}

_BREATHS: list[tuple[Callable[..., object], str, str]] = [
    (PortableEngine._counted, "finally:", "= before"),
    (PortableEngine._do_last_acts, "finally:", "= before"),
    (PortableEngine._commit, "= moves[", "copy(*"),
    (PortableEngine._commit, "= plans[", "hold.last ="),
    (portable_lock.Owner.acquire, "dead = ", "hold.marked ="),
    (portable_lock.Owner._finish, "is_ours =", "act(*"),
]
"""Runs of lines in which CPython calls no signal handlers: a look at the hold and what depends on it, for instance."""


def _lines_within_a_breath() -> dict[CodeType, set[int]]:
    """The lines of each function before which no signal handler can be called."""
    lines: dict[CodeType, set[int]] = {}
    for function, start, end in _BREATHS:
        source, first = inspect.getsourcelines(function)
        at_start = next(index for index, line in enumerate(source) if start in line)
        at_end = next(index for index, line in enumerate(source) if end in line and index > at_start)
        lines.setdefault(function.__code__, set()).update(range(first + at_start + 1, first + at_end + 1))
    return lines


_SPARED = _lines_within_a_breath()


@functools.cache
def _exits(code: CodeType) -> frozenset[int]:
    """Where the line of a ``with`` begins again, to call ``__exit__``: offsets of instructions.

    No signal handler is called before that, so a real exception cannot leave a lock taken there.
    """
    starts: dict[int, list[int]] = {}
    for offset, line in dis.findlinestarts(code):
        if line is not None:
            starts.setdefault(line, []).append(offset)
    lines = (line for line in starts if linecache.getline(code.co_filename, line).lstrip().startswith("with "))
    return frozenset(offset for line in lines for offset in starts[line][1:])


def at_line(
    number: int, action: Callable[[], object], interrupt: Callable[[], object], everywhere: bool = False
) -> bool:
    """Run the action, and ``interrupt`` before its line of that number in the engine. False: it has fewer lines.

    The lines before which CPython calls no signal handlers are left out, unless ``everywhere``: also the end of each
    ``with``.
    """
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if frame.f_code.co_filename not in _FILES:
            return None
        code = frame.f_code
        if event == "line" and (
            everywhere or not (frame.f_lineno in _SPARED.get(code, ()) or frame.f_lasti in _exits(code))
        ):
            lines += 1
            if lines == number:
                interrupt()  # which is not traced itself
        return trace

    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(None)
    return lines >= number
