"""What the fixed little programs have in common: a queue to try, workers, and the list of the programs."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from .clauses import Broken
from .profiles import Profile
from .target import Target
from .trial import NOTICED
from .workers import Hung, Reply, Team, Worker

__all__ = ["SCENARIOS", "Scenario", "Scene", "decides", "require"]


class Scene:
    """A target, and what is needed to try something with it."""

    def __init__(self, target: Target, profile: Profile, decided: Counter[str]) -> None:
        self.target, self.profile, self._decided = target, profile, decided

    @property
    def has_processes(self) -> bool:
        """Whether the workers are processes."""
        return self.target.start_method != "threads"

    def check(self, key: str, holds: bool, what: str) -> None:
        """Say that a clause was put to the test, and how that ended."""
        self._decided[key] += 1
        if not holds:
            raise Broken(key, what)

    @contextlib.contextmanager
    def queue(self, maxsize: int = 0, name: str | None = None) -> Iterator[Any]:
        """A queue, closed at the end."""
        queue = self.target.make(self.profile, maxsize, name)
        try:
            yield queue
        finally:
            self.target.dispose(self.profile, queue)

    @contextlib.contextmanager
    def team(self, queue: Any, size: int) -> Iterator[Team]:
        """Workers whose slot 0 is the queue."""
        team = Team([queue], self.target.context(), size)
        try:
            yield team
        finally:
            team.close()

    def kill(self, worker: Worker) -> bool:
        """Kill a worker, and wait until its death must have been noticed. False where they are threads: none dies."""
        if self.has_processes:
            worker.kill()
            time.sleep(NOTICED)
        return self.has_processes


Scenario = Callable[[Scene], None]

SCENARIOS: dict[str, Scenario] = {}
"""What decides each clause that is decided here."""


def decides(key: str) -> Callable[[Scenario], Scenario]:
    """What registers a scenario as that of a clause."""

    def register(scenario: Scenario) -> Scenario:
        SCENARIOS[key] = scenario
        return scenario

    return register


def require(scene: Scene, key: str, what: str, call: Callable[..., Reply], *arguments: Any, **options: Any) -> Reply:
    """What a call came to that has to succeed."""
    try:
        reply = call(*arguments, **options)
    except Hung:
        scene.check(key, False, f"{what}: it does not return")
        raise
    scene.check(key, not reply.errors, f"{what}: {reply}")
    return reply
