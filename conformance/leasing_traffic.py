"""The concurrent contract of leases: consumers that lease, acknowledge, requeue and get, killed at any moment."""

from __future__ import annotations

import os
import queue as standard_queue
import random
import time
from typing import Any

from .clauses import Broken
from .history import Operation, Order, Violation
from .leasing_history import find_leasing_violation, unfinished
from .profiles import Profile
from .target import Target
from .traffic import Logbook, Run, judge_run
from .workers import PATIENCE

__all__ = ["consume_leases", "drain_leases", "run_leasing_traffic"]

_QUIET = 0.5  # seconds for which nothing must come once everything has come


def _lease(queue: Any, log: Logbook, **options: Any) -> Any:
    """A lease, logged; None if there is nothing."""
    log.write("lease", "-")
    try:
        lease = queue.lease(**options)
    except standard_queue.Empty:
        log.write("empty", "-")
        return None
    log.write("ok", lease.item, lease.attempt)
    return lease


def _end(lease: Any, log: Logbook, how: str) -> None:
    log.write(how, lease.item)
    log.write("ok" if getattr(lease, how)() is True else "refused", lease.item)


def consume_leases(queue: Any, path: str, stop: str, can_wait: bool) -> None:
    """Take values until one is ``stop``: most by leases, of which some are requeued, and some by a get."""
    log = Logbook(path)
    chance = random.Random(path)
    while True:
        hasty = can_wait and chance.random() < 0.2
        if chance.random() < 0.1:
            log.write("get", "-")
            value = queue.get()
            log.write("ok", value)
            if value == stop:
                break
            continue
        lease = _lease(queue, log, block=not hasty)
        if lease is None:
            continue
        _end(lease, log, "requeue" if lease.item != stop and chance.random() < 0.2 else "ack")
        if lease.item == stop:
            break
    log.close()


def drain_leases(queue: Any, path: str, expected: str, patience: float) -> None:
    """Take values until all that the file ``expected`` lists have come, and then nothing for a while.

    ``patience``: seconds without one of them after which they count as lost.
    """
    log = Logbook(path)
    with open(expected, encoding="ascii") as file:
        left = set(file.read().split())
    quiet_since = time.monotonic()
    while time.monotonic() - quiet_since < (patience if left else _QUIET):
        lease = _lease(queue, log, timeout=_QUIET)
        if lease is not None:
            left.discard(lease.item)
            _end(lease, log, "ack")
            quiet_since = time.monotonic()
    log.close()


class _LeasingRun(Run):
    consume = staticmethod(consume_leases)

    def drain(self) -> None:
        expected = os.path.join(self._directory, "expected")
        with open(expected, "w", encoding="ascii") as file:
            file.write("\n".join(map(str, unfinished(self.history()))))
        self._await(self._start(drain_leases, expected, max(PATIENCE, self._profile.noticed)))


def run_leasing_traffic(target: Target, profile: Profile, *, operations: int, kills: int) -> Broken | None:
    """Let two producers and two consumers with leases run, and judge the history; arguments as ``run_traffic``."""

    def judge(history: list[Operation], run: Run) -> Violation | None:
        order = Order.PER_PRODUCER if profile.reordering else Order.TOTAL
        return find_leasing_violation(
            history, run.deaths, order=order, empties=not profile.early_empty, returns_anywhere=profile.returns_anywhere
        )

    return judge_run(_LeasingRun, "lease-linear", target, profile, operations, kills, judge)
