"""A worker, seen from outside: a process that is stopped, continued and killed."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess

from .kill_stress_journal import What, last_line
from .kill_stress_workers import Job

BUSY_LOOKS = 100  # a millisecond or two
_BUSY = {What.BEGIN_PUT, What.BEGIN_GET, What.BEGIN_LEASE, What.HANDED, What.BEGIN_ACK, What.BEGIN_REQUEUE}


@dataclass(eq=False)
class Victim:
    """``is_spared``: it is never killed, so that a wait cannot go unseen because all are killed before it is over.

    ``killed``: when it was not killed yet, just before, in nanoseconds of the monotonic clock.
    """

    job: Job
    process: BaseProcess
    is_spared: bool
    stopped_until: float | None = None
    killed: int | None = None

    @property
    def has_opened(self) -> bool:
        return last_line(self.job.journal)[0] >= 2  # the first line says that it is about to

    def wait_until_busy(self) -> None:
        """Until it has just begun to put or to get: most of its time it does other things. Not long."""
        before, _ = last_line(self.job.journal)
        for _ in range(BUSY_LOOKS):
            count, line = last_line(self.job.journal)
            if count > before and line is not None and line.what in _BUSY:
                return

    def kill(self) -> None:
        """Returns when it has ended."""
        if self.process.exitcode is None:
            self.killed = time.monotonic_ns()
        self.process.kill()
        self.process.join()

    def stop(self, seconds: float) -> bool:
        """Stop it until ``go_on`` finds the time over. False: it is stopped already, or has ended."""
        if self.stopped_until is not None or self.process.exitcode is not None:
            return False
        self._signal(signal.SIGSTOP)
        self.stopped_until = time.monotonic() + seconds
        return True

    def go_on(self, now: float = float("inf")) -> None:
        """Continue it if its time is over at ``now``, by the monotonic clock."""
        if self.stopped_until is not None and now >= self.stopped_until:
            self._signal(signal.SIGCONT)
            self.stopped_until = None

    def _signal(self, number: int) -> None:
        if self.process.exitcode is None:  # else its number may be another one's by now
            assert self.process.pid is not None
            os.kill(self.process.pid, number)
