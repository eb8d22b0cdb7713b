"""Whose exception it is: that of the code which was called, or of a signal handler that ran in the middle of it.

What an item's own code raises is turned into another error, or leads to another try. What a handler raises is none of
that code's affair: it goes to the caller as it is, whatever its type.
"""

from __future__ import annotations

import sys
from types import FrameType, TracebackType
from typing import TypeVar

__all__ = ["is_of_handler", "not_of_handler"]

_E = TypeVar("_E", bound=BaseException)


def not_of_handler(*kinds: type[_E]) -> tuple[type[_E], ...]:
    """What to catch: ``except not_of_handler(OSError):`` lets an OSError pass that a signal handler has raised.

    Returns the kinds; none if the exception that is looked at is of one of them, and a handler's.
    """
    error = sys.exc_info()[1]
    return () if isinstance(error, kinds) and is_of_handler(error) else kinds


def is_of_handler(error: BaseException) -> bool:
    """Whether a signal handler, written in Python, has raised it.

    A handler is called with the frame that it interrupts. So one of the frames that the exception has passed has a
    frame among its arguments; where they are kept elsewhere the answer is False. (So has a trace function, which is not
    the item's code either.)
    """
    passed: TracebackType | None = error.__traceback__
    # The first frame is the caller's, which has caught it: a look at its variables would keep them, this one included.
    passed = passed and passed.tb_next
    while passed is not None:
        if _has_frame(passed.tb_frame):
            return True
        passed = passed.tb_next
    return False


def _has_frame(frame: FrameType) -> bool:
    code = frame.f_code
    named = code.co_argcount + code.co_kwonlyargcount
    arguments = [frame.f_locals.get(name) for name in code.co_varnames[:named]]
    if code.co_flags & _VARARGS:
        others = frame.f_locals.get(code.co_varnames[named])
        arguments.extend(others if type(others) is tuple else ())
    return any(isinstance(argument, FrameType) for argument in arguments)


_VARARGS = 0x04  # inspect.CO_VARARGS, whose module takes long to import
