"""The clocks that deadlines and ages go by.

Tests freeze time by replacing ``time.monotonic`` and what is the same function in other modules. A queue is shared with
processes that know nothing of it, and a frozen deadline never comes, so the functions here are of a second copy of the
built-in module ``time``: they are not the same, and real even if this module is imported while time is frozen.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from importlib.machinery import BuiltinImporter
from types import ModuleType

__all__ = ["monotonic", "wall_ns"]


def _copy_of_time() -> ModuleType:
    """Another module object with the functions of ``time``; ``time`` itself where it is not built in."""
    spec = BuiltinImporter.find_spec("time")
    if spec is None or spec.loader is None:
        return time
    try:
        copy = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(copy)
    except ImportError:  # an interpreter that makes each built-in module once
        return time
    return copy if hasattr(copy, "monotonic") and hasattr(copy, "time_ns") else time


_time = _copy_of_time()

monotonic: Callable[[], float] = _time.monotonic
"""Seconds on the clock that nobody sets."""

wall_ns: Callable[[], int] = _time.time_ns
"""Nanoseconds since 1970, negative before: the clock that is set, and may step back."""
