"""Programs of a trial that are the same in each run: they put the clauses to the test that no drawn program reached.

Which ones the drawn programs reach depends on the seed. With these every clause is decided, however few are drawn.
"""

from __future__ import annotations

from collections.abc import Callable

from .leasing_trial import LeasingTrial
from .profiles import Profile

__all__ = ["programs_for"]

Program = Callable[[LeasingTrial], None]


def programs_for(profile: Profile, has_processes: bool) -> list[tuple[int, Program]]:
    """The programs that a queue of this profile can run, each with the maxsize of the queue that it needs."""
    programs: list[tuple[int, Program]] = [(0, _wait_for_an_item)]
    if profile.has("timeout"):
        programs += [(0, _nothing_there), (1, _no_room), (1, _wait_for_room)]
    programs += [(2, _look(method)) for method in ("qsize", "empty", "full") if profile.has(method)]
    if profile.has("join"):
        programs.append((0, _count_tasks))
    if profile.has("shutdown"):
        programs += [(1, _shut_down(immediate)) for immediate in (False, True)]
    if has_processes:
        programs += [(0, _replace(kill)) for kill in (False, True)]
    if has_processes and "close" in profile.clauses:
        programs.append((0, _close))
    if profile.has_leases:
        programs += [(0, _lease(how)) for how in ("ack", "requeue")]
    if profile.has_leases and has_processes:
        programs.append((0, _lease_and_be_killed))
    return programs


def _wait_for_an_item(trial: LeasingTrial) -> None:
    trial.get(0, "plain")
    trial.put(1, "first", "plain")
    trial.put(1, "second", "plain")
    trial.get(2, "plain")


def _nothing_there(trial: LeasingTrial) -> None:
    for form in ("nowait", "no block", "timeout", "negative"):
        trial.get(0, form)
    trial.put(0, "item", "keywords")
    trial.get(0, "keywords")


def _no_room(trial: LeasingTrial) -> None:
    trial.put(0, "item", "plain")
    for form in ("nowait", "no block", "timeout", "negative"):
        trial.put(0, "other", form)


def _wait_for_room(trial: LeasingTrial) -> None:
    trial.put(0, "first", "plain")
    trial.put(1, "second", "plain")
    trial.get(0, "plain")
    trial.get(0, "plain")


def _look(method: str) -> Program:
    def program(trial: LeasingTrial) -> None:
        trial.look(0, method)
        trial.fill(0)
        trial.look(1, method)
        trial.drain(2)
        trial.look(0, method)

    return program


def _count_tasks(trial: LeasingTrial) -> None:
    trial.start_join(0)
    trial.put(0, "item", "plain")
    trial.start_join(1)
    trial.get(2, "plain")
    trial.task_done(2)
    trial.task_done(0)


def _shut_down(immediate: bool) -> Program:
    def program(trial: LeasingTrial) -> None:
        trial.put(0, "item", "plain")
        trial.put(1, "waiting", "plain")
        trial.shutdown(2, immediate)
        trial.put(0, "late", "plain")
        trial.get(0, "plain")
        trial.get(0, "plain")

    return program


def _replace(kill: bool) -> Program:
    def program(trial: LeasingTrial) -> None:
        trial.put(0, "first", "plain")
        trial.put(0, "second", "plain")
        trial.get(2, "plain")
        trial.replace(2, kill)

    return program


def _close(trial: LeasingTrial) -> None:
    trial.put(0, "first", "plain")
    trial.get(2, "plain")
    trial.put(0, "second", "plain")
    trial.close(2)
    trial.drain(1)


def _lease(how: str) -> Program:
    def program(trial: LeasingTrial) -> None:
        trial.lease(0, "plain")
        for item in ("first", "second"):
            trial.put(1, item, "plain")
        trial.end_lease(0, how)
        trial.lease(2, "plain")
        trial.look(1, "qsize")
        trial.end_lease(0, "ack")
        trial.use_block(1, how == "requeue")
        trial.drain(0)
        trial.start_join(1)

    return program


def _lease_and_be_killed(trial: LeasingTrial) -> None:
    for item in ("first", "second"):
        trial.put(0, item, "plain")
    trial.lease(2, "plain")
    trial.replace(2, True)
    trial.drain(1)
