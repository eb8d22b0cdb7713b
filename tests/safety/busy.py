"""Patience for a busy machine: a limit that tells a process that is stuck from one that does not get to run."""

from __future__ import annotations

import os

__all__ = ["at_least"]

_MOST = 10.0
_MOST_MORE = 300.0  # seconds: what hangs must not take longer because of what hung before it and still computes
_CROWD = min(_MOST, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def at_least(seconds: float) -> float:
    """The limit on an idle machine, in seconds; so many times longer as this one has more to do than processors.

    Never more than 10 times, nor more than 300 s longer.
    """
    return round(min(seconds * _CROWD, seconds + _MOST_MORE), 1)
