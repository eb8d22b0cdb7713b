"""Numbers that callers pass: sizes and counts, which are whole, and timeouts, which need not be.

Any type that says it is such a number will do, numpy's too. It knows nothing of queues.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from shmqueue.exceptions import ShmQueueTypeError, ShmQueueValueError
from shmqueue.interruptions import not_of_handler

__all__ = ["NUMBER_MOST", "real_seconds", "require_int", "require_seconds", "require_span", "whole_number"]

NUMBER_MOST = (1 << 62) - 1
"""A size or count above it is no limit: nothing comes near."""

_USUAL = (int, float)
_LONG = 1e9  # seconds


def whole_number(name: str, value: Any) -> int:
    """The value of the argument called ``name``, as an int.

    Raises:
        ShmQueueTypeError: it is not a whole number, or a bool.
    """
    if isinstance(value, bool):
        raise ShmQueueTypeError(f"{name} must be an int, not the bool {value!r}")
    try:
        return int(operator.index(value))
    except not_of_handler(TypeError):
        raise ShmQueueTypeError(f"{name} must be an int, not {value!r:.60} ({type(value).__name__})") from None


def require_int(name: str, value: Any, least: int | None) -> int:
    """The value of the argument called ``name``, a size or count.

    Args:
        value: an int, or whatever says that it is one (``operator.index``); a bool is none.
        least: the smallest that is allowed; None, negative numbers count as 0.

    Raises:
        ShmQueueTypeError: it is not a whole number.
        ShmQueueValueError: it is less than ``least``.
    """
    number = whole_number(name, value)
    if least is not None and number < least:
        raise ShmQueueValueError(f"{name} must be at least {least}, not {number}")
    return min(max(0, number), NUMBER_MOST)


def real_seconds(timeout: Any) -> float:
    """A timeout as a float: of any real number, infinite ones included.

    Raises:
        ShmQueueTypeError: it is no real number.
        ShmQueueValueError: it is NaN.
    """
    if type(timeout) is not float:
        if isinstance(timeout, (str, bytes, bytearray, complex)) or not _says_it_is_a_number(type(timeout)):
            raise ShmQueueTypeError(
                f"timeout must be a number of seconds or None, not {timeout!r:.60} ({type(timeout).__name__})"
            )
        try:
            timeout = float(timeout)
        except not_of_handler(OverflowError):
            timeout = math.inf if timeout > 0 else -math.inf
        except not_of_handler(TypeError, ValueError) as error:
            raise ShmQueueTypeError(f"timeout must be a number of seconds or None: {error}") from error
    if timeout != timeout:
        raise ShmQueueValueError("timeout must be a number of seconds, not NaN")
    return timeout  # type: ignore[no-any-return]


def require_seconds(timeout: Any, block: Any) -> float:
    """A timeout in seconds that is not negative; 0 for a call that must not block, which ignores its timeout.

    Raises:
        ShmQueueTypeError: it is no real number, or a bool.
        ShmQueueValueError: it is negative or NaN.
    """
    if not block:
        return 0.0
    if type(timeout) in _USUAL and 0 <= timeout <= _LONG:
        return timeout  # type: ignore[no-any-return]
    if type(timeout).__name__ in ("bool", "bool_"):  # numpy has some of its own
        raise ShmQueueTypeError(f"timeout must be a number of seconds or None, not the bool {timeout!r}")
    seconds = real_seconds(timeout)
    if seconds < 0:
        raise ShmQueueValueError(f"'timeout' must be a non-negative number of seconds, not {seconds}")
    return seconds


def require_span(name: str, value: Any, is_zero_allowed: bool = False) -> float:
    """The value of the argument called ``name``: finite seconds, more than 0 unless it is allowed.

    Raises:
        ShmQueueTypeError: it is no real number.
        ShmQueueValueError: it is negative, infinite or NaN, or 0 if that is not allowed.
    """
    if isinstance(value, bool):
        raise ShmQueueTypeError(f"{name} must be a number of seconds, not the bool {value!r}")
    try:
        seconds = real_seconds(value)
    except ShmQueueTypeError:
        raise ShmQueueTypeError(
            f"{name} must be a number of seconds, not {value!r:.60} ({type(value).__name__})"
        ) from None
    except ShmQueueValueError:
        seconds = math.nan
    if not (0 <= seconds < math.inf and (seconds or is_zero_allowed)):
        least = "0 or more" if is_zero_allowed else "more than 0"
        raise ShmQueueValueError(f"{name} must be a number of seconds, finite and {least}, not {seconds}")
    return seconds


def _says_it_is_a_number(kind: type) -> bool:
    return hasattr(kind, "__float__") or hasattr(kind, "__index__")
