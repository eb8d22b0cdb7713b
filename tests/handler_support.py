"""For tests of what a signal handler raises: a handler that raises, and a signal at any line of an action."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

FAILURES = [RuntimeError, TypeError, ValueError, TimeoutError, FileNotFoundError, BlockingIOError]
"""What code of the package catches, by these types or all of them."""


@contextmanager
def raised_by_a_handler(failure: type[BaseException]) -> Iterator[None]:
    """Have a handler of SIGUSR1 raise it."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise failure("the handler's")

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def at_line(number: int, action: Callable[[], object], failure: type[BaseException], files: Collection[str]) -> bool:
    """Run the action, and have the handler raise before its line of that number in these files. False: it has fewer."""
    lines = 0
    where = ""

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines, where
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            lines += 1
            if lines == number:
                where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGUSR1)
        return trace

    return _interrupted(action, failure, sys.settrace, trace, lambda: where)


def at_call(number: int, action: Callable[[], object], failure: type[BaseException], files: Collection[str]) -> bool:
    """As ``at_line``, where Python runs handlers: a function of the files begins, or one that it called has returned.

    A line is not always such a place: no handler runs between the end of a ``with`` block and the call of ``__exit__``.
    """
    calls = 0
    where = ""

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls, where
        is_a_place = event == "call" or (event == "c_return" and not _is_entered(argument))
        if is_a_place and frame.f_code.co_filename in files and not _is_finalizing(frame):
            calls += 1
            if calls == number:
                where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                signal.raise_signal(signal.SIGUSR1)

    return _interrupted(action, failure, sys.setprofile, profile, lambda: where)


def _is_entered(function: object) -> bool:
    """Whether a with statement has called it. From 3.15 on that returns like a call, but no handler runs after it."""
    return sys.version_info >= (3, 15) and getattr(function, "__name__", "") == "__enter__"


_FINALIZERS = frozenset({"__del__", "forget"})  # the second one is that of a WeakRegistry


def _is_finalizing(frame: FrameType | None) -> bool:
    """Whether Python would print what is raised: in a finalizer, or in a generator, which may just be closed by its."""
    names = []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names[0] == "<genexpr>" or not _FINALIZERS.isdisjoint(names)


def _interrupted(
    action: Callable[[], object],
    failure: type[BaseException],
    install: Callable[[Any], None],
    hook: Callable[[FrameType, str, object], object],
    place: Callable[[], str],
) -> bool:
    gc.disable()  # finalizers of other tests' objects have no caller
    install(hook)
    try:
        action()
    except failure as error:
        assert str(error) == "the handler's"  # noqa: PT017 - not every point raises it
        return True
    finally:
        install(None)
        gc.enable()
    assert not place(), f"the exception was swallowed: it came at {place()}"
    return False
