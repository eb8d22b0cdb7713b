"""The conformance kit keeps its word: what is right passes, and what is broken on purpose is found out."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from broken_queues import MUTANTS
from support import PATIENCE, python

from shmqueue.conformance.clauses import CLAUSES, Broken
from shmqueue.conformance.machine import Findings, Stage, explore, run_fixed_programs
from shmqueue.conformance.profiles import LEASING, PROFILES, VIEWING, Profile
from shmqueue.conformance.scenarios import SCENARIOS, Scene
from shmqueue.conformance.suite import (
    TRAFFIC,
    Amount,
    Result,
    Verdict,
    missing_methods,
    profile_for,
    run_suite,
    undecidable,
    with_capabilities,
)
from shmqueue.conformance.target import Target
from shmqueue.conformance.testing import QueueConformance

EXAMPLES = 150  # programs within which each broken queue has to be found out

OURS = [
    "shmqueue.compat.queue:Queue",
    "shmqueue.compat.multiprocessing:Queue",
    "shmqueue.compat.multiprocessing:JoinableQueue",
    "shmqueue.compat.multiprocessing:SimpleQueue",
    "shmqueue.conformance.asynchronous:Queue",
    "shmqueue:ShmQueue",
]

WITHOUT = dict.fromkeys(OURS, VIEWING) | {
    "shmqueue.compat.multiprocessing:Queue": VIEWING | {"lease-join"},
    "shmqueue.compat.multiprocessing:SimpleQueue": VIEWING | LEASING,
    "shmqueue:ShmQueue": frozenset[str](),
}
"""The clauses about leases and views that each of them does not promise."""


def broken_in(results: list[Result]) -> dict[str, str]:
    return {result.clause.key: result.why for result in results if result.verdict is Verdict.BROKEN}


def judge(target: Target, profile: Profile, clauses: set[str]) -> Broken | None:
    """How a queue breaks one of the clauses, by the checks that decide them."""
    scenarios = clauses & SCENARIOS.keys()
    for clause in scenarios:
        try:
            SCENARIOS[clause](Scene(target, profile, Counter()))
        except Broken as broken:
            return broken
    for clause, run, kills in TRAFFIC:
        if clause in clauses:
            return run(target, profile, operations=2000, kills=kills)
    only = profile.without(profile.clauses - clauses)
    found = explore(target, only, examples=EXAMPLES, seed_number=1, rounds=1, shrink_seconds=3)
    gc.collect()  # a queue that forgets to close is closed when it is collected
    return next(iter(found.broken.values()), None)


@pytest.mark.thorough
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_queue_is_caught_by_the_clause_that_it_breaks(
    mutant: type[Any], monkeypatch: pytest.MonkeyPatch, native: None
) -> None:
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    name, clauses = MUTANTS[mutant]
    profile = PROFILES[name].with_leases() if clauses & LEASING else PROFILES[name]
    profile = profile.with_views() if clauses & VIEWING else profile
    broken = judge(Target(f"broken_queues:{mutant.__name__}", "fork"), profile, clauses)
    assert broken is not None, f"{mutant.__name__} keeps {clauses} in {EXAMPLES} examples"
    print(f"\n{mutant.__name__} is caught by {broken}")


@pytest.mark.parametrize(
    ("broken", "clauses", "caught"),
    [
        ("LosesWhatAKilledProcessHad", {"lease-again"}, True),
        ("LeavesInPlace", {"lease-alone"}, True),
        pytest.param(
            "PrefersNewItems",
            {"fifo", "once", "lease-alone", "lease-again"},
            False,
            marks=pytest.mark.thorough,  # it finds nothing, so it tries everything
        ),
    ],
)
def test_a_broker_may_return_an_item_to_any_place_but_neither_lose_nor_double_it(
    broken: str, clauses: set[str], caught: bool, monkeypatch: pytest.MonkeyPatch, native: None
) -> None:
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    broker = PROFILES["broker"]
    profile = replace(PROFILES["queue.Queue"], leasing=broker.leasing, returns_anywhere=True).with_leases()
    found = judge(Target(f"broken_queues:{broken}", "fork"), profile, clauses)
    assert (found is not None) == caught, found


def test_a_broker_is_held_to_less_than_a_queue_of_one_machine() -> None:
    broker, ours = PROFILES["broker"].with_leases(), PROFILES["ShmQueue"].with_leases()
    assert broker.clauses - ours.clauses == {"lease-again"}
    assert {
        "full",
        "put-waits",
        "join",
        "lease-requeued",
        "lease-killed",
        "lease-attempt",
    } <= ours.clauses - broker.clauses


@pytest.mark.thorough
@pytest.mark.parametrize("spec", OURS)
def test_ours_keep_every_clause(spec: str, engine: str) -> None:
    results = run_suite(Target(spec, "fork"), profile_for(spec), Amount(15 if engine == "native" else 8, seed=2))
    assert broken_in(results) == {}
    assert any(result.verdict is Verdict.KEPT for result in results)
    absent = {result.clause.key for result in results if result.verdict is Verdict.ABSENT and result.why}
    assert absent == WITHOUT[spec]
    kept = {result.clause.key for result in results if result.verdict is Verdict.KEPT}
    assert kept >= SCENARIOS.keys() & (LEASING | VIEWING) - WITHOUT[spec]


@pytest.mark.parametrize("spec", [*OURS, "multiprocessing:Queue"])
def test_every_clause_is_decided_however_few_programs_are_drawn(spec: str, native: None) -> None:
    target, profile = Target(spec, "fork"), profile_for(spec)
    profile = with_capabilities(target, profile)
    profile = profile.without(undecidable(target, profile), missing_methods(target, profile))
    found = explore(target, profile, examples=1, seed_number=1)
    assert found.broken == {}
    elsewhere = SCENARIOS.keys() | {clause for clause, _, _ in TRAFFIC}
    assert profile.clauses - elsewhere - found.decided.keys() == set()


def test_a_fixed_program_finds_a_broken_clause(monkeypatch: pytest.MonkeyPatch, native: None) -> None:
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    profile = PROFILES["multiprocessing.Queue"]
    only = profile.without(profile.clauses - {"close"})
    stage, findings = Stage(Target("broken_queues:ForgetsToClose", "fork"), only), Findings()
    run_fixed_programs(stage, only, findings)
    stage.close()
    gc.collect()  # a queue that forgets to close is closed when it is collected
    assert findings.broken.keys() == {"close"}
    assert "worker 2: close() -> None" in "\n".join(findings.broken["close"].program)


class TestInOnesOwnTree(QueueConformance):
    """What a user writes to test another queue."""

    target = "queue:Queue"
    examples = 30


def run_kit(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shmqueue.conformance", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=os.path.dirname(__file__), check=False)


def test_the_command_prints_a_table_and_writes_what_it_found(tmp_path: Path) -> None:
    found, page = tmp_path / "found.json", tmp_path / "report.html"
    ran = run_kit(
        "--target", "queue:Queue", "--examples", "20", "--seed", "5", "--json", str(found), "--html", str(page)
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "seed 5" in ran.stdout
    assert CLAUSES["fifo"].sentence in ran.stdout
    (target,) = json.loads(found.read_text())["targets"]
    assert target["target"] == "queue:Queue"
    verdicts = {clause["key"]: clause["verdict"] for clause in target["clauses"]}
    assert verdicts["fifo"] == "kept"
    assert verdicts["argument"] == "not decided"
    assert CLAUSES["fifo"].sentence in page.read_text()


@pytest.mark.thorough
def test_the_command_shows_the_shortest_program_that_breaks_a_clause(native: None) -> None:
    ran = run_kit(
        "--target", "broken_queues:ListsForTuples", "--profile", "queue.Queue", "--examples", "60", "--seed", "1"
    )
    assert ran.returncode == 1
    lines = [line.strip() for line in ran.stdout.splitlines() if line.startswith("    ")]
    assert [line for line in lines if "put((" in line], ran.stdout
    assert len(lines) <= 8, lines


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("queue", "a target is module:factory"),
        ("queue.deep:Queue", "cannot import 'queue.deep'"),
        ("nowhere:Queue", "cannot import 'nowhere'"),
        ("queue:Missing", "there is no 'Missing' in 'queue'"),
        ("queue:Empty", "say what to expect of 'queue:Empty' with --profile: one of queue.Queue, "),
    ],
)
def test_the_command_says_what_is_wrong_with_a_target(spec: str, complaint: str) -> None:
    ran = run_kit("--target", spec)
    assert ran.returncode == 1
    assert complaint in ran.stderr


@pytest.mark.thorough
def test_the_same_seed_draws_the_same_programs() -> None:
    code = """
from shmqueue.conformance.machine import Findings, Stage, explore, run_fixed_programs
from shmqueue.conformance.profiles import PROFILES
from shmqueue.conformance.target import Target
findings = explore(Target("queue:Queue", "threads"), PROFILES["queue.Queue"], examples=4, seed_number=3)
print(sorted(findings.decided.items()))
"""
    outputs = []
    for _ in range(2):
        with python(code) as process:  # which waits much, to see that nothing happens
            outputs.append(process.communicate(timeout=3 * PATIENCE)[0])
            assert process.returncode == 0
    assert outputs[0] == outputs[1]
