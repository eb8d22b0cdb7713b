"""How often, and after which pauses, an operation is tried again after the broker went away."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from shmqueue.arguments import require_int, require_span
from shmqueue.broker.urls import require_options
from shmqueue.exceptions import ShmQueueValueError

__all__ = ["RetryPolicy"]

_MAX_RETRIES = 10
_INTERVALS = {"interval_start": 0.0, "interval_step": 0.2, "interval_max": 1.0}


class RetryPolicy(NamedTuple):
    """The keys of kombu's retry policies. ``is_default``: ``max_retries`` was not given."""

    max_retries: int | None
    interval_start: float
    interval_step: float
    interval_max: float
    is_default: bool

    @classmethod
    def of(cls, given: Any) -> RetryPolicy:
        """The policy that ``connect`` was given, a mapping or None.

        Raises:
            ShmQueueTypeError, ShmQueueValueError: it has an unknown key or an impossible value.
        """
        policy = require_options("retry_policy", given)
        unknown = policy.keys() - {"max_retries", *_INTERVALS}
        if unknown:
            raise ShmQueueValueError(f"retry_policy has {', '.join(sorted(unknown))}, which means nothing")
        most = policy.get("max_retries", _MAX_RETRIES)
        if most is not None:
            most = require_int("max_retries of retry_policy", most, least=0)
        start, step, longest = (
            require_span(f"{key} of retry_policy", policy.get(key, usual), is_zero_allowed=True)
            for key, usual in _INTERVALS.items()
        )
        return cls(most, start, step, longest, "max_retries" not in policy)

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures, 1 or more."""
        return min(self.interval_start + (failures - 1) * self.interval_step, self.interval_max, threading.TIMEOUT_MAX)

    def is_spent(self, failures: int, has_deadline: bool) -> bool:
        """Whether there were as many failures as may be. With a deadline of the caller's, that alone is the default."""
        if self.max_retries is None or (has_deadline and self.is_default):
            return False
        return failures > self.max_retries
