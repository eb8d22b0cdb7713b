"""All checks of a profile on one target, and what each clause came to."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .clauses import CLAUSES, Broken, Clause
from .leasing_traffic import run_leasing_traffic
from .machine import explore
from .profiles import LEASING, PROFILES, VIEWING, Profile
from .scenarios import SCENARIOS, Scene
from .target import Target
from .timeline import Bar
from .traffic import run_traffic
from .workers import Hung

__all__ = [
    "TRAFFIC",
    "Amount",
    "Result",
    "Verdict",
    "amount_of_steps",
    "kills_of",
    "missing_methods",
    "profile_for",
    "run_suite",
    "undecidable",
    "with_capabilities",
]

OPERATIONS = 2_000  # puts of each producer for every 50 examples, at least this many
KILLS = 12

Traffic = Callable[..., Broken | None]
TRAFFIC: tuple[tuple[str, Traffic, int], ...] = (
    ("linear", run_traffic, 0),
    ("killed-busy", run_traffic, KILLS),
    ("lease-linear", run_leasing_traffic, KILLS),
)
"""The clauses that runs of several workers at once decide, by what, and how many of them are killed."""


class Verdict(enum.Enum):
    """What a clause came to."""

    KEPT = "kept"
    BROKEN = "broken"
    UNDECIDED = "not decided"
    ABSENT = "not promised"


@dataclass(frozen=True)
class Result:
    """What a clause came to, how often it was put to the test, and why it was broken, not decided or not promised.

    Of a broken one also the program and the history that show it, where they are known.
    """

    clause: Clause
    verdict: Verdict
    tests: int = 0
    why: str = ""
    program: tuple[str, ...] = ()
    history: tuple[Bar, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The same, as JSON has it."""
        return {
            "clause": self.clause.number,
            "key": self.clause.key,
            "sentence": self.clause.sentence,
            "verdict": self.verdict.value,
            "tests": self.tests,
            "why": self.why,
            "program": list(self.program),
            "history": [bar._asdict() for bar in self.history],
        }


@dataclass(frozen=True)
class Amount:
    """How much to try: programs drawn, the seed of the random numbers that draw them, and how long to shorten one."""

    examples: int = 100
    seed: int = 0
    shrink_seconds: float = 40.0


_FAMILIES = {"multiprocessing": "multiprocessing", "asynchronous": "asyncio"}
"""Of the standard library's modules, by the last part of a module's name; for others it is queue."""


def profile_for(spec: str) -> Profile:
    """The profile of the standard queue that a target has the name of.

    Raises:
        ValueError: it has none of those.
    """
    module, _, name = spec.partition(":")
    family = _FAMILIES.get(module.rpartition(".")[2], "queue")
    for candidate in (f"{family}.{name}", name):
        if candidate in PROFILES:
            return PROFILES[candidate]
    raise ValueError(f"say what to expect of {spec!r} with --profile: one of {', '.join(PROFILES)}")


def amount_of_steps(profile: Profile, amount: Amount) -> int:
    """How often ``run_suite`` calls its ``tick``, roughly."""
    return amount.examples + len(SCENARIOS.keys() & profile.clauses) + 2


def run_suite(
    target: Target, profile: Profile, amount: Amount, tick: Callable[[str], None] = lambda what: None
) -> list[Result]:
    """Check every clause of a profile.

    Args:
        target: the queue class.
        profile: what is expected of it.
        amount: how much to try.
        tick: called with what is being done, once for each example and scenario.

    Returns:
        A result for every clause there is, by number.
    """
    profile = with_capabilities(target, profile)
    hopeless = undecidable(target, profile)
    decidable = profile.without(hopeless, missing_methods(target, profile))
    decided: Counter[str] = Counter()
    broken: dict[str, Broken] = {}
    scene = Scene(target, decidable, decided)
    for key in sorted(SCENARIOS.keys() & decidable.clauses, key=lambda key: CLAUSES[key].number):
        tick(CLAUSES[key].sentence)
        try:
            SCENARIOS[key](scene)
        except Broken as error:
            broken[error.clause.key] = error
        except Hung as error:
            broken[key] = Broken(key, str(error))
    findings = explore(
        target,
        decidable.without(broken),
        examples=amount.examples,
        seed_number=amount.seed,
        on_example=lambda: tick("programs of many steps"),
        shrink_seconds=amount.shrink_seconds,
    )
    broken.update(findings.broken)
    decided.update(findings.decided)
    for key, run, kills in TRAFFIC:
        if key in decidable.clauses:
            tick(CLAUSES[key].sentence)
            operations = OPERATIONS * max(1, amount.examples // 50)
            decided[key] += 1
            failure = run(target, decidable, operations=operations, kills=kills_of(target, kills))
            if failure is not None:
                broken[key] = failure
    return [_result(clause, profile, decided, broken, hopeless) for clause in CLAUSES.values()]


_DECIDED_WITH = {
    "shutdown": ("shut-put", "shut-get", "shut-now"),
    "qsize": ("qsize", "lease-qsize"),
    "full": ("full",),
    "lease": tuple(LEASING),
    "put_view": tuple(VIEWING),
    "get_view": tuple(VIEWING),
}


def kills_of(target: Target, kills: int) -> int:
    """How many workers to kill: none if they are threads."""
    return 0 if target.start_method == "threads" else kills


def with_capabilities(target: Target, profile: Profile) -> Profile:
    """The profile, with leases and views if the target has them: the standard contract does not know them."""
    queue = target.make(profile, 0)
    try:
        if callable(getattr(queue, "lease", None)):
            profile = profile.with_leases()
        return profile.with_views() if callable(getattr(queue, "put_view", None)) else profile
    finally:
        target.dispose(profile, queue)


def missing_methods(target: Target, profile: Profile) -> set[str]:
    """Methods that the profile counts on and the target lacks."""
    queue = target.make(profile, 0)
    try:
        return {method for method in profile.methods - {"timeout"} if not hasattr(queue, method)}
    finally:
        target.dispose(profile, queue)


def undecidable(target: Target, profile: Profile) -> dict[str, str]:
    """The clauses of the profile that cannot be decided for the target, and why."""
    why: dict[str, str] = {}
    if target.start_method == "threads":
        processes = (
            "argument", "inherited", "pickled", "named", "exit", "ended", "killed-idle", "killed-waiting",
            "killed-busy", "copy", "unpicklable-told", "unpicklable-harmless", "lease-killed",
        )  # fmt: skip
        why.update(dict.fromkeys(processes, "it is not for several processes"))
    elif target.start_method != "fork":
        why["inherited"] = f"start method {target.start_method}"
    if not profile.needs_name and not target.takes_name():
        why.setdefault("named", "its factory takes no name=")
    for method in missing_methods(target, profile):
        for key in _DECIDED_WITH.get(method, ()):
            why[key] = f"it has no {method}()"
    return {key: reason for key, reason in why.items() if key in profile.clauses}


def _absence(profile: Profile, key: str) -> str:
    """Why a clause of ours is not promised; "" for the others, which the standard queue does not promise."""
    if key in VIEWING:
        return "it has no put_view()" if profile.has_views else "its profile does not promise it"
    if key not in LEASING:
        return ""
    if not profile.has_leases:
        return "it has no lease()"
    return "it has no join()" if key in profile.leasing else "its profile does not promise it"


def _result(
    clause: Clause, profile: Profile, decided: Counter[str], broken: dict[str, Broken], hopeless: dict[str, str]
) -> Result:
    key = clause.key
    if key not in profile.clauses:
        return Result(clause, Verdict.ABSENT, why=_absence(profile, key))
    if key in broken:
        error = broken[key]
        return Result(clause, Verdict.BROKEN, decided[key], error.what, tuple(error.program), tuple(error.history))
    if key in hopeless:
        return Result(clause, Verdict.UNDECIDED, 0, hopeless[key])
    if not decided[key]:
        return Result(clause, Verdict.UNDECIDED, 0, "no program came to it; try more examples")
    return Result(clause, Verdict.KEPT, decided[key])
