"""What no test can try, each order of steps of several processes: Promela models, which Spin explores to the end.

The models lie in models/*.pml and say there which function each part stands for. A check is a model with numbers of
processes, deaths and so on; the short form leaves out the large ones.

Fails if: Spin finds an order of steps that violates a claim, finds none where there must be one, or never reaches a
statement of a model.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .busy import at_least
from .outcome import Mutant, Options, Outcome

TITLE = "Models: every order of steps, deaths included"
MODELS = Path(__file__).resolve().parent / "models"

PATIENCE = at_least(90.0)  # seconds for one check of the short form
LONG_PATIENCE = 3600.0
MEMORY = 2000  # MiB for one check of the short form
LONG_MEMORY = 8000
DEPTH = 1_000_000


@dataclass(frozen=True)
class Check:
    """A model and its parameters.

    ``liveness``: what the model's ltl formula says comes true on each fair path; else no assertion fails and nobody is
    stuck. ``fails``: it must not hold, or the model would not need what the parameters leave out.
    """

    model: str
    what: str
    parameters: str
    liveness: bool = False
    fails: bool = False
    long: bool = False

    @property
    def definitions(self) -> list[str]:
        return [f"-D{parameter}" for parameter in self.parameters.split()] + ["-DLIVENESS"] * self.liveness


CHECKS = (
    Check("lock", "which wake-ups a death may lose", "USERS=3 ROUNDS=1 DEATHS=1 DEADLINES=0 SLICE=lost"),
    Check("lock", "one owner at a time", "USERS=3 ROUNDS=1 DEATHS=1 DEADLINES=1 SLICE=true"),
    Check("lock", "none without a death", "USERS=3 ROUNDS=1 DEATHS=0 DEADLINES=1 SLICE=false"),
    Check("lock", "slices are needed", "USERS=3 ROUNDS=1 DEATHS=1 DEADLINES=0 SLICE=false", fails=True),
    Check("lock", "everybody ends", "USERS=2 ROUNDS=2 DEATHS=1 DEADLINES=1 SLICE=true", liveness=True),
    Check("lock", "with a blind kernel", "USERS=2 ROUNDS=2 DEATHS=2 DEADLINES=0 SLICE=true BLIND=1", liveness=True),
    Check("lock", "two rounds", "USERS=3 ROUNDS=2 DEATHS=1 DEADLINES=1 SLICE=lost", long=True),
    Check("lock", "two deaths", "USERS=3 ROUNDS=1 DEATHS=2 DEADLINES=1 SLICE=lost", long=True),
    Check("lock", "four threads", "USERS=4 ROUNDS=1 DEATHS=0 DEADLINES=1 SLICE=false", long=True),
    Check("lock", "three end", "USERS=3 ROUNDS=1 DEATHS=1 DEADLINES=1 SLICE=true", liveness=True, long=True),
    Check("lock", "a blind kernel, three", "USERS=3 ROUNDS=2 DEATHS=2 DEADLINES=0 SLICE=true BLIND=1", long=True),
    Check(
        "commit",
        "one putter, one getter",
        "PUTTERS=1 GETTERS=1 ITEMS=3 BATCH=2 TAKES=3 CAPACITY=2 DEATHS=1 QUITS=1 SLICE=lost",
    ),
    Check(
        "commit",
        "two and two, no death",
        "PUTTERS=2 GETTERS=2 ITEMS=1 BATCH=1 TAKES=1 CAPACITY=2 DEATHS=0 QUITS=0 SLICE=false COARSE=1 TIRED=1",
    ),
    Check(
        "commit",
        "two putters",
        "PUTTERS=2 GETTERS=1 ITEMS=1 BATCH=1 TAKES=2 CAPACITY=1 DEATHS=1 QUITS=0 SLICE=lost COARSE=1",
    ),
    Check(
        "commit",
        "two putters that want different room",
        "PUTTERS=2 GETTERS=1 ITEMS=3 BATCH=2 TAKES=1 CAPACITY=2 DEATHS=0 QUITS=0 SLICE=false COARSE=1",
    ),
    Check(
        "commit",
        "two putters that want different room, one death",
        "PUTTERS=2 GETTERS=1 ITEMS=3 BATCH=2 TAKES=1 CAPACITY=2 DEATHS=1 QUITS=0 SLICE=lost COARSE=1",
        long=True,
    ),
    Check(
        "commit",
        "two getters",
        "PUTTERS=1 GETTERS=2 ITEMS=2 BATCH=2 TAKES=1 CAPACITY=2 DEATHS=1 QUITS=0 SLICE=lost COARSE=1 TIRED=1",
    ),
    Check(
        "commit",
        "slices are needed",
        "PUTTERS=1 GETTERS=2 ITEMS=1 BATCH=1 TAKES=1 CAPACITY=1 DEATHS=1 QUITS=0 SLICE=false COARSE=1",
        fails=True,
    ),
    Check(
        "commit",
        "all is taken",
        "PUTTERS=1 GETTERS=1 ITEMS=2 BATCH=2 TAKES=2 CAPACITY=2 DEATHS=0 QUITS=0 SLICE=true",
        liveness=True,
    ),
    Check(
        "commit",
        "two getters, step by step",
        "PUTTERS=1 GETTERS=2 ITEMS=2 BATCH=2 TAKES=2 CAPACITY=2 DEATHS=1 QUITS=1 SLICE=lost",
        long=True,
    ),
    Check(
        "commit",
        "a full ring",
        "PUTTERS=1 GETTERS=2 ITEMS=2 BATCH=1 TAKES=2 CAPACITY=1 DEATHS=1 QUITS=0 SLICE=lost",
        long=True,
    ),
    Check(
        "commit",
        "two and two, step by step",
        "PUTTERS=2 GETTERS=2 ITEMS=1 BATCH=1 TAKES=1 CAPACITY=2 DEATHS=0 QUITS=0 SLICE=false",
        long=True,
    ),
    Check(
        "commit",
        "two and two, one death",
        "PUTTERS=2 GETTERS=2 ITEMS=1 BATCH=1 TAKES=1 CAPACITY=2 DEATHS=1 QUITS=0 SLICE=lost COARSE=1 TIRED=1",
        long=True,
    ),
    Check(
        "commit",
        "all is taken by the rest",
        "PUTTERS=1 GETTERS=2 ITEMS=1 BATCH=1 TAKES=2 CAPACITY=1 DEATHS=1 QUITS=0 SLICE=true",
        liveness=True,
        long=True,
    ),
    Check("life_cycle", "without O_TMPFILE", "USERS=3 ROUNDS=1 DEATHS=1 TEMPORARY=1"),
    Check("life_cycle", "three at once", "USERS=3 ROUNDS=1 DEATHS=1"),
    Check("life_cycle", "two, twice", "USERS=2 ROUNDS=2 DEATHS=2"),
    Check("life_cycle", "everybody ends", "USERS=2 ROUNDS=2 DEATHS=1", liveness=True),
    Check("life_cycle", "three, twice", "USERS=3 ROUNDS=2 DEATHS=2", long=True),
    Check("life_cycle", "three end", "USERS=3 ROUNDS=1 DEATHS=1 TEMPORARY=1", liveness=True, long=True),
    Check("life_cycle", "three, twice, without O_TMPFILE", "USERS=3 ROUNDS=2 DEATHS=1 TEMPORARY=1", long=True),
)


PARTS = tuple(dict.fromkeys(check.model for check in CHECKS))


def _mutant(model: str, name: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"tests/safety/models/{model}.pml", old, new, part=model)


MUTANTS = (
    _mutant(
        "lock",
        "who slept takes the lock without the mark",
        "take((me + 1) | (seen & WAITERS) | waiters);",
        "take((me + 1) | (seen & WAITERS));",
    ),
    _mutant(
        "lock",
        "the lock is not announced until it is released",
        "        atomic { wake_one(); owes[me] = false };\nreleased:",
        "        announced[me] = false;\n        atomic { wake_one(); owes[me] = false };\nreleased:",
    ),
    _mutant(
        "lock",
        "the living are marked dead",
        ":: gone[(seen & TID) - 1] -> /* tkill() and /proc say so */",
        ":: true ->",
    ),
    _mutant(
        "commit",
        "a ledger is read without looking at the sequence again",
        ":: atomic { side[s].sequence == before ->",
        ":: atomic { true ->",
    ),
    _mutant("commit", "no barrier between commit and flag", "#define LOCKED 1", "#define LOCKED 0"),
    _mutant(
        "commit",
        "the flag stays down though more sleep",
        ":: atomic { committed != 0; side[s].waiting = true };",
        ":: committed != 0;",
    ),
    _mutant("commit", "the bell does not move", "    bell++;\n", "    skip;\n"),
    _mutant(
        "commit",
        "a putter that wants more raises the position",
        "want = (room < want -> room : want)",
        "want = (room < want -> want : want)",
    ),
    _mutant(
        "commit",
        "a putter does not look again when its flag is up",
        "        side[GET].waiting = true;\n\n        ledger_read(GET);\n",
        "        side[GET].waiting = true;\n\n        seen = known;\n",
    ),
    _mutant(
        "commit",
        "a putter sleeps on the bell as it is in the end",
        "            :: bell == noted -> asleep[me] = true;",
        "            :: true -> asleep[me] = true;",
    ),
    _mutant(
        "commit",
        "who is woken does not pass it on",
        ":: atomic { CURRENT(PUT) - seen <= 1 -> seen = 0; goto get }",
        ":: atomic { seen = 0; goto get }",
    ),
    _mutant(
        "life_cycle",
        "attaching does not look whether the name is still there",
        ":: path != handle -> close_handle(); goto start",
        ":: links[handle] == 0 && path == handle -> close_handle(); goto start",
    ),
    _mutant(
        "life_cycle",
        "the number of links stands for the name",
        ":: path != handle -> close_handle(); goto start",
        ":: links[handle] == 0 -> close_handle(); goto start",
    ),
    _mutant(
        "life_cycle",
        "whatever has the name is removed",
        "        :: path == probe ->\n            atomic { links[path]",
        "        :: path != NONE ->\n            atomic { links[path]",
    ),
)


def why_not() -> str | None:
    """What is missing."""
    if _spin() is None:
        return "there is no spin (Debian's package spin, or $SHMQUEUE_TEST_SPIN)"
    return None if shutil.which("gcc") else "there is no gcc, which compiles what spin makes"


def _spin() -> str | None:
    return os.environ.get("SHMQUEUE_TEST_SPIN") or shutil.which("spin")


def run(options: Options) -> Outcome:
    """Explore them; ``--seconds 60`` and more also the large ones. After the first fault no other one is begun."""
    outcome = Outcome()
    failed = threading.Event()

    def explore(check: Check) -> _Result | None:
        if failed.is_set():
            return None
        result = _explore(check, options.is_long)
        if result.trouble or bool(result.violation) != check.fails:
            failed.set()
        return result

    chosen = [check for check in CHECKS if options.includes(check.model) and (options.is_long or not check.long)]
    todo = _in_turn(chosen)
    with ThreadPoolExecutor(2) as pool:
        found = list(zip(todo, pool.map(explore, todo), strict=True))
    done = [(check, result) for check, result in found if result is not None]
    done.sort(key=lambda pair: CHECKS.index(pair[0]))
    for check, result in done:
        outcome.count("checks")
        outcome.count("states explored", result.states)
        outcome.count("transitions", result.transitions)
        outcome.note_worst("deepest path", result.depth)
        name = f"{check.model}: {check.what}"
        what = "fails, as it must" if check.fails and result.violation else f"{result.states:,} states"
        outcome.figures[name] = (
            f"{what}, {result.transitions:,} transitions, depth {result.depth:,}, {result.seconds:.1f} s"
        )
        if result.trouble:
            outcome.fault(f"{name}: {result.trouble}")
        elif check.fails and not result.violation:
            outcome.fault(f"{name}: no violation was found, but there must be one ({check.parameters})")
        elif result.violation and not check.fails:
            outcome.fault(f"{name}: {result.violation} ({check.parameters})")
    if len(done) == len(todo):
        _count_unreached(done, outcome)
    else:
        outcome.figures["checks not begun"] = len(todo) - len(done)
    return outcome


def _in_turn(checks: list[Check]) -> list[Check]:
    """One of each model, then the next ones: a fault in any of them is found soon."""
    place = {check: [c for c in checks if c.model == check.model].index(check) for check in checks}
    return sorted(checks, key=lambda check: (check.long, place[check]))


def _count_unreached(done: list[tuple[Check, _Result]], outcome: Outcome) -> None:
    """A statement of a process that no check reaches shows nothing. (Those of an inline are not for every process.)"""
    for model in dict.fromkeys(check.model for check, _ in done):
        sets = [r.unreached for check, r in done if check.model == model and r.unreached is not None]
        unreached = set.intersection(*sets) if sets else set()
        text = (MODELS / f"{model}.pml").read_text(encoding="utf-8")
        inlines = text[: text.index("\nproctype ")].count("\n") + 1
        unreached = {statement for statement in unreached if int(re.split(r"[: ]", statement)[1]) > inlines}
        outcome.count("statements never reached", len(unreached))
        for statement in sorted(unreached):
            outcome.fault(f"never reached: {statement}")


@dataclass
class _Result:
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    violation: str = ""  # what spin found against the model
    trouble: str = ""  # why nothing can be said
    unreached: set[str] | None = field(default=None)  # of an exploration that came to its end


def _explore(check: Check, is_long: bool) -> _Result:
    with tempfile.TemporaryDirectory(prefix="shmqueue-model-") as scratch:
        shutil.copy(MODELS / f"{check.model}.pml", scratch)
        mode = ["-DNFAIR=3"] if check.liveness else ["-DSAFETY"]
        mode.append(f"-DMEMLIM={LONG_MEMORY if is_long else MEMORY}")
        commands = [
            [str(_spin()), *check.definitions, "-a", f"{check.model}.pml"],
            ["gcc", "-O2" if check.long else "-O0", "-w", *(["-DCOLLAPSE"] * check.long), *mode, "pan.c", "-o", "pan"],
        ]
        for command in commands:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return _Result(trouble=f"{' '.join(command)}: {done.stdout}{done.stderr}")
        command = ["./pan", f"-m{DEPTH}", "-w24" if check.long else "-w22", *(["-a", "-f"] if check.liveness else [])]
        begin = time.monotonic()
        try:
            done = subprocess.run(
                command,
                cwd=scratch,
                capture_output=True,
                text=True,
                check=False,
                timeout=LONG_PATIENCE if is_long else PATIENCE,
            )
        except subprocess.TimeoutExpired as late:
            return _Result(trouble=f"not at its end after {late.timeout:.0f} s")
        result = _parse(done.stdout, check.model)
        result.seconds = time.monotonic() - begin
        return result


def _parse(text: str, model: str) -> _Result:
    """What pan prints; large numbers come as 1.2e+08."""

    def number(pattern: str) -> int:
        found = re.search(pattern, text)
        return int(float(found[1])) if found else 0

    result = _Result(
        states=number(r"([\d.e+]+) states, stored"),
        transitions=number(r"([\d.e+]+) transitions"),
        depth=number(r"depth reached (\d+)"),
    )
    errors = re.search(r"errors: (\d+)", text)
    if errors is None or result.states == 0:
        result.trouble = f"pan came to no end: {text[-500:]}"
    elif int(errors[1]):
        found = re.search(r"^pan:\d+: (.*)$", text, re.MULTILINE)
        result.violation = found[1] if found else "a violation"
    elif re.search(r"max search depth too small|Search not completed|out of memory|-DMEMLIM", text):
        result.trouble = "not exhausted: the depth or the memory did not suffice"
    else:
        lines = re.findall(rf'^\t({model}\.pml:\d+), state \d+, "(.*)"$', text, re.MULTILINE)
        result.unreached = {f"{where} {what}" for where, what in lines if what not in {"-end-", "(killed[me])"}}
    return result
