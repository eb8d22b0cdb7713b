"""The sequential contract: a hypothesis state machine draws programs for a trial and shrinks those that fail."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from .clauses import Broken
from .fixed_programs import programs_for
from .leasing_trial import LeasingTrial
from .profiles import Profile
from .target import Target
from .values import values
from .workers import Team

__all__ = ["Findings", "Stage", "explore", "run_fixed_programs"]

MAXSIZES = (0, 1, 2, 5)
WORKERS = 3
BATCH = 8  # queues of each size in a batch
STEPS = 30
_LEASE_FORMS = ["plain", "plain", "plain", "no block", "timeout", "negative"]


class Stage:
    """Hands out queues that nobody has used, with workers that have them.

    Queues are made in batches, and workers started with a whole batch: a queue of multiprocessing cannot be given to a
    process that runs already.
    """

    def __init__(self, target: Target, profile: Profile) -> None:
        self._target, self._profile = target, profile
        self._sizes = MAXSIZES if profile.has("full") else (0,)
        self._queues: list[Any] = []
        self._free: dict[int, list[int]] = {}
        self._team: Team | None = None

    @property
    def has_processes(self) -> bool:
        """Whether the workers are processes."""
        return self._target.start_method != "threads"

    def take(self, maxsize: int) -> tuple[Team, int, int]:
        """A team, a slot and the maxsize of the queue in it."""
        size = maxsize if maxsize in self._sizes else 0
        if self._team is None or not self._free[size]:
            self._renew()
        assert self._team is not None
        return self._team, self._free[size].pop(), size

    def _renew(self) -> None:
        self.close()
        for size in self._sizes:
            slots = range(len(self._queues), len(self._queues) + BATCH)
            self._free[size] = list(slots)
            self._queues += [self._target.make(self._profile, size) for _ in slots]
        self._team = Team(self._queues, self._target.context(), WORKERS)

    def close(self) -> None:
        """End the workers and close the queues."""
        if self._team is not None:
            self._team.close()
            self._team = None
        for queue in self._queues:
            self._target.dispose(self._profile, queue)
        self._queues, self._free = [], {}


@dataclass
class Findings:
    """What came of it: the broken clauses with their shortest programs, and how often each clause was tested."""

    broken: dict[str, Broken] = field(default_factory=dict)
    decided: Counter[str] = field(default_factory=Counter)
    examples: int = 0


class QueueMachine(RuleBasedStateMachine):
    """Draws the steps of a trial."""

    stage: Stage
    profile: Profile
    has_processes: bool
    findings: Findings
    best: list[Broken]
    on_example: Callable[[], None]

    @initialize(maxsize=st.sampled_from(MAXSIZES))
    def begin(self, maxsize: int) -> None:
        self.trial: LeasingTrial | None = None
        if self.best and time.monotonic() - self.first_failure > self.shrink_seconds:
            return
        self.on_example()
        team, slot, size = self.stage.take(maxsize)
        ignored = set(self.findings.broken)
        self.trial = LeasingTrial(team, slot, self.profile, size, ignored, self.findings.decided)

    shrink_seconds: float
    first_failure = 0.0

    def _do(self, step: Callable[[LeasingTrial], None]) -> None:
        trial = self.trial
        if trial is None or trial.is_over:
            return
        try:
            step(trial)
        except Broken as broken:
            cls = type(self)
            if not self.best:
                cls.first_failure = time.monotonic()
            if not self.best or len(broken.program) <= len(self.best[0].program):
                self.best[:] = [broken]
            raise

    def teardown(self) -> None:
        trial = getattr(self, "trial", None)
        if trial is not None and not trial.is_left_clean:
            self.stage.close()

    # Preconditions look at the profile alone. What happened so far is looked at in the steps: it need not be the same
    # the next time, and hypothesis has to be able to draw the same program again.

    @rule(worker=st.integers(0, WORKERS - 1), value=values, form=st.sampled_from(["plain", "nowait", "no block"]))
    def put(self, worker: int, value: Any, form: str) -> None:
        self._do(lambda trial: trial.put(worker, value, form if self.profile.has("timeout") else "plain"))

    @precondition(lambda self: self.profile.has("timeout"))
    @rule(worker=st.integers(0, WORKERS - 1), value=values, form=st.sampled_from(["timeout", "negative", "keywords"]))
    def put_with_timeout(self, worker: int, value: Any, form: str) -> None:
        self._do(lambda trial: trial.put(worker, value, form))

    @rule(worker=st.integers(0, WORKERS - 1), form=st.sampled_from(["plain", "nowait", "no block"]))
    def get(self, worker: int, form: str) -> None:
        self._do(lambda trial: trial.get(worker, form if self.profile.has("timeout") else "plain"))

    @precondition(lambda self: self.profile.has("timeout"))
    @rule(worker=st.integers(0, WORKERS - 1), form=st.sampled_from(["timeout", "negative", "keywords"]))
    def get_with_timeout(self, worker: int, form: str) -> None:
        self._do(lambda trial: trial.get(worker, form))

    @rule(worker=st.integers(0, WORKERS - 1), items=st.lists(values, min_size=2, max_size=6))
    def put_several(self, worker: int, items: list[Any]) -> None:
        for item in items:
            self._do(lambda trial, item=item: trial.put(worker, item, "plain"))  # type: ignore[misc]

    @rule(worker=st.integers(0, WORKERS - 1))
    def fill(self, worker: int) -> None:
        self._do(lambda trial: trial.fill(worker))

    @rule(worker=st.integers(0, WORKERS - 1))
    def drain(self, worker: int) -> None:
        self._do(lambda trial: trial.drain(worker))

    @rule(worker=st.integers(0, WORKERS - 1), method=st.sampled_from(["qsize", "empty", "full"]))
    def look(self, worker: int, method: str) -> None:
        if self.profile.has(method):
            self._do(lambda trial: trial.look(worker, method))

    @precondition(lambda self: self.profile.has("join"))
    @rule(worker=st.integers(0, WORKERS - 1))
    def task_done(self, worker: int) -> None:
        self._do(lambda trial: trial.task_done(worker))

    @precondition(lambda self: self.profile.has("join"))
    @rule(worker=st.integers(0, WORKERS - 1))
    def join(self, worker: int) -> None:
        self._do(lambda trial: trial.start_join(worker))

    @precondition(lambda self: self.profile.has_leases)
    @rule(worker=st.integers(0, WORKERS - 1), form=st.sampled_from(_LEASE_FORMS))
    def lease(self, worker: int, form: str) -> None:
        self._do(lambda trial: trial.lease(worker, form))

    @precondition(lambda self: self.profile.has_leases)
    @rule(which=st.integers(0, 7))
    def ack(self, which: int) -> None:
        self._do(lambda trial: trial.end_lease(which, "ack"))

    @precondition(lambda self: self.profile.has_leases)
    @rule(which=st.integers(0, 7))
    def requeue(self, which: int) -> None:
        self._do(lambda trial: trial.end_lease(which, "requeue"))

    @precondition(lambda self: self.profile.has_leases)
    @rule(worker=st.integers(0, WORKERS - 1), raises=st.booleans())
    def lease_in_a_block(self, worker: int, raises: bool) -> None:
        self._do(lambda trial: trial.use_block(worker, raises))

    @precondition(lambda self: self.profile.has("shutdown"))
    @rule(worker=st.integers(0, WORKERS - 1), immediate=st.booleans())
    def shutdown(self, worker: int, immediate: bool) -> None:
        self._do(lambda trial: trial.shutdown(worker, immediate))

    @precondition(lambda self: self.has_processes)
    @rule(worker=st.integers(0, WORKERS - 1), kill=st.booleans())
    def replace(self, worker: int, kill: bool) -> None:
        def step(trial: LeasingTrial) -> None:
            # What a killed process still had in its feeder's buffer is lost, which that queue does not promise to keep,
            # and one that ends waits until the pipe has taken it.
            keeps = self._may_lose(trial, worker) if kill else trial.is_clogged
            if self._may_go(trial, worker) and not keeps:
                trial.replace(worker, kill)

        self._do(step)

    @precondition(lambda self: self.has_processes and self.profile.has_leases)
    @rule(which=st.integers(0, 7))
    def kill_holder(self, which: int) -> None:
        def step(trial: LeasingTrial) -> None:
            worker = trial.holder(which)
            if worker is not None and self._may_go(trial, worker) and not self._may_lose(trial, worker):
                trial.replace(worker, True)

        self._do(step)

    @precondition(lambda self: self.has_processes and self.profile.closed is not None)
    @rule(worker=st.integers(0, WORKERS - 1))
    def close(self, worker: int) -> None:
        def step(trial: LeasingTrial) -> None:
            if self._may_go(trial, worker) and not self._may_lose(trial, worker):
                trial.close(worker)

        self._do(step)

    def _may_go(self, trial: LeasingTrial, worker: int) -> bool:
        return trial.replaced < 2 and trial.is_idle(worker) and trial.has_clear_order(worker) and trial.is_soon(worker)

    def _may_lose(self, trial: LeasingTrial, worker: int) -> bool:
        return self.profile.reordering and trial.has_put(worker)


_names = itertools.count(1)


def explore(
    target: Target,
    profile: Profile,
    *,
    examples: int,
    seed_number: int,
    on_example: Callable[[], None] = lambda: None,
    rounds: int = 8,
    shrink_seconds: float = 40.0,
) -> Findings:
    """Run programs until one breaks a clause, note its shortest form, and go on without that clause.

    In the end come the fixed programs, which reach what the drawn ones may have missed.

    Args:
        examples: programs in each round.
        seed_number: of the random numbers; the same one draws the same programs.
        on_example: called at the start of each.
        rounds: how many clauses may turn out to be broken.
        shrink_seconds: after which a failing program is not made shorter any more.
    """
    findings = Findings()
    stage = Stage(target, profile)
    try:
        for number in range(rounds):
            best = _explore_once(stage, profile, findings, examples, seed_number + number, on_example, shrink_seconds)
            if best is None or best.clause.key in findings.broken:
                break
            best.__traceback__ = best.__context__ = None  # whose frames would keep the queues alive
            findings.broken[best.clause.key] = best
        if rounds > 1 or not findings.broken:
            run_fixed_programs(stage, profile, findings)
    finally:
        stage.close()
    return findings


def run_fixed_programs(stage: Stage, profile: Profile, findings: Findings) -> None:
    """Run the programs that are the same in each run, and note the clauses that they break."""
    for maxsize, program in programs_for(profile, stage.has_processes):
        team, slot, size = stage.take(maxsize)
        trial = LeasingTrial(team, slot, profile, size, set(findings.broken), findings.decided)
        try:
            program(trial)
        except Broken as broken:
            broken.__traceback__ = broken.__context__ = None
            findings.broken[broken.clause.key] = broken
        if not trial.is_left_clean:
            stage.close()


def _explore_once(
    stage: Stage,
    profile: Profile,
    findings: Findings,
    examples: int,
    seed_number: int,
    on_example: Callable[[], None],
    shrink_seconds: float,
) -> Broken | None:
    best: list[Broken] = []
    attributes = {
        "stage": stage,
        "profile": profile,
        "has_processes": stage.has_processes,
        "findings": findings,
        "best": best,
        "on_example": staticmethod(on_example),
        "shrink_seconds": shrink_seconds,
    }
    machine = seed(seed_number)(type(f"QueueMachine{next(_names)}", (QueueMachine,), attributes))
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except Exception:
        if not best:
            raise
    findings.examples += examples
    return best[0] if best else None
