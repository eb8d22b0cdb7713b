"""Processes that sleep or wake others are killed: one that sleeps beside them is woken, at the latest after its slice.

The C program ``native/lost_wakeups.c`` kills and stops at chosen points of the native engine's code;
``lost_wakeups_python`` does to queues of any engine, in Python, what can be done from there.

Fails if: a process that sleeps is not woken in the time that it is due, or computes while it sleeps; a deadline is
missed; an item is left, lost, doubled or out of order after the deaths.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from . import lost_wakeups_python
from .builds import FIRST_FAULT, compile_program
from .busy import at_least
from .outcome import Mutant, Options, Outcome

__all__ = ["MUTANTS", "TITLE", "run"]

TITLE = "Death of sleepers and wakers"
SLICE = 100.0  # milliseconds, WAIT_SLICE_NS
PARTS = ("native", "python")
PARTS_IN_C = ("native",)
PATIENCE = at_least(90.0)  # seconds, for the program to end after its time

NATIVE = "shmqueue/engine/native/"

MUTANTS = (
    Mutant(
        "a sleep has no slices",
        NATIVE + "os.c",
        "value, &time, NULL, 0);",
        "value, length == WAIT_SLICE_NS ? NULL : &time, NULL, 0);",
    ),
    Mutant(
        "a sleep that the system denies is none",
        NATIVE + "os.c",
        "    if (errno != ETIMEDOUT) {",
        "    if (errno == ENOMEM) {",
        part="python",
    ),
    Mutant(
        "a sleep that the system denies is over when its slice is",
        NATIVE + "os.c",
        "        if (atomic_load(word) != seen) {\n            return WAIT_WOKEN;",
        "        if (atomic_load(word) != seen && left <= 0) {\n            return WAIT_WOKEN;",
        part="python",
    ),
    Mutant(
        "no flag is raised before a sleep",
        NATIVE + "side.c",
        "    atomic_exchange(&ledgers->waiting, 1);\n    enum wait_result",
        "    enum wait_result",
    ),
    Mutant(
        "a putter raises no flag",
        NATIVE + "room.c",
        "    atomic_fetch_or(&segment->get.ledgers.waiting, WAITING_FOR_ROOM);\n",
        "",
    ),
    Mutant(
        "putters are woken for more room than they need",
        NATIVE + "room.c",
        "want->position = put->position + room > ring->capacity ? put->position + room - ring->capacity : 0;",
        "want->position = put->position + room > ring->capacity ? put->position + room : 0;",
    ),
    Mutant(
        "putters are woken for more items than they put",
        NATIVE + "room.c",
        "want->count = put->count + room > maxsize ? put->count + room - maxsize : 0;",
        "want->count = put->count + room > maxsize ? put->count + room + 1 - maxsize : 0;",
    ),
    Mutant(
        "a shutdown waits for the get lock",
        NATIVE + "queue.c",
        "        struct patience none = {0};",
        "        struct patience none = patience;",
    ),
    Mutant(
        "a shutdown leaves putters asleep",
        NATIVE + "queue.c",
        "    side_wake_putters(ring); /* a putter that asks",
        "    /* a putter that asks",
    ),
    Mutant(
        "what is left of a queue that was shut down is counted",
        NATIVE + "tally.c",
        "    if (statistics->put.shut == SHUT_IMMEDIATE) {",
        "    if (statistics->put.shut == SHUT_IMMEDIATE && statistics->done == UINT64_MAX) {",
    ),
    Mutant(
        "the flag is not raised again when more may sleep",
        NATIVE + "side.c",
        "        atomic_exchange(&ledgers->waiting, 1);\n        if (atomic_load(&ledgers->sequence)",
        "        if (atomic_load(&ledgers->sequence)",
    ),
    Mutant(
        "nobody looks whether something was committed while the flag was down",
        NATIVE + "side.c",
        "        if (atomic_load(&ledgers->sequence) != committed) {",
        "        if (false && committed != 0) {",
    ),
    Mutant(
        "the flag is taken down after the commit",
        NATIVE + "side.h",
        "    store_load_barrier_after_locked();\n    if (asleep",
        "    store_load_barrier_after_locked();\n    atomic_exchange(&side->ledgers.waiting, 0);\n    if (asleep",
    ),
    Mutant(
        "a consumer that was woken passes nothing on",
        NATIVE + "side.c",
        "        pass_on(ring->segment);",
        "        (void)pass_on;",
    ),
    Mutant(
        "a joiner raises no flag",
        NATIVE + "queue.c",
        "        atomic_exchange(&tally->waiting, 1);\n",
        "",
    ),
    Mutant(
        "the end of the last lease wakes no joiner",
        NATIVE + "tally.h",
        "    if (put <= dropped + atomic_load(&ring->segment->tally.done)) {",
        "    if (put < dropped + atomic_load(&ring->segment->tally.done)) {",
    ),
    Mutant(
        "the quick end of a lease wakes no putter",
        NATIVE + "quick_lease.c",
        "    side_end_get(ring, self, settled.position, settled.count);\n",
        "    side_end_get(ring, self, 0, 0);\n",
    ),
    Mutant(
        "who has slept at a lock forgets that others may",
        NATIVE + "lock.c",
        "        waiters = FUTEX_WAITERS;\n",
        "",
    ),
    Mutant(
        "the kernel is not told of the lock",
        NATIVE + "lock.h",
        "*(void *volatile *)&self->robust->list_op_pending = word ? (char *)word - self->offset : NULL;",
        "*(void *volatile *)&self->robust->list_op_pending = word && !word ? (char *)word - self->offset : NULL;",
    ),
    Mutant(
        "an owner that is stopped is taken for dead",
        NATIVE + "os.c",
        "return state == 'Z' || state == 'X';",
        "return state == 'Z' || state == 'X' || state == 'T';",
    ),
    Mutant(
        "an owner is known by its id alone",
        NATIVE + "os.c",
        "(!find_ours(address, &ours) || find_same_file(tid, &ours) != GONE)",
        "(!find_ours(address, &ours) || find_same_file(tid, &ours) != GONE || tid != 0)",
    ),
    Mutant(
        "a process does not look for its own id when it opens a queue",
        NATIVE + "open.c",
        "        lock_disown(&segment->put.guard.lock, lock_self());\n"
        "        lock_disown(&segment->get.guard.lock, lock_self());\n",
        "",
    ),
)


def run(options: Options) -> Outcome:
    outcome = Outcome()
    native = options.engine == "native" and options.includes("native")
    if native and shutil.which("gcc") is None:
        outcome.figures["native/lost_wakeups.c"] = "not run: gcc is missing"
    elif native:
        _run_program(options, outcome)
    if options.includes("python") and not outcome.faults:  # what is broken below would only take its time up here
        lost_wakeups_python.run(options, outcome)
    return outcome


def _run_program(options: Options, outcome: Outcome) -> None:
    seconds = options.seconds * 0.9 if options.is_long else 0.0  # 0: each scene once
    with tempfile.TemporaryDirectory(prefix="shmqueue-lost-wakeups-") as scratch:
        # what a call needs of libc is found before: finding it would be many instructions that are not ours
        flags = ("-O2", "-Wl,-z,now", *(() if options.is_long else FIRST_FAULT))
        program = compile_program("lost_wakeups", Path(scratch), flags)
        command = [str(program), str(options.seed), str(seconds), *(["thoroughly"] if options.is_long else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + PATIENCE, check=False)
        except subprocess.TimeoutExpired as error:
            outcome.fault(f"native/lost_wakeups.c did not end: {error.output!r}")
            return
    worst = 0.0
    for line in done.stdout.splitlines():
        what, _, value = line.partition(": ")
        if what == "fault":
            outcome.fault(value)
        elif what == "scene":
            name, _, numbers = value.rpartition(": ")
            plays, missed, stall = numbers.split()
            hits = f", {missed} of them too slow to tell" if int(missed) else ""
            outcome.figures[name] = f"{plays} times{hits}, worst stall {stall} ms"
            outcome.count("scenes played", int(plays))
            worst = max(worst, float(stall))
        elif what == "groups":
            groups, members, items, in_doubt, longest = value.split()
            outcome.figures["groups killed"] = f"{groups}, {members} busy processes in all"
            outcome.figures["items of groups"] = int(items)
            outcome.figures["items lost with a consumer that was killed"] = int(in_doubt)
            outcome.figures["longest call of a survivor of a group, ms"] = float(longest)
        elif what == "not played":
            name, _, reason = value.partition(": ")
            outcome.figures[name] = f"not run: {reason}"
        elif what == "overshoot":
            outcome.figures["deadlines while an owner was stopped: late by, ms"] = float(value)
        elif what == "notable":
            outcome.figures["stalls longer than a slice and 150 ms"] = int(value)
    if done.returncode not in {0, 1}:
        outcome.fault(f"native/lost_wakeups.c ended with {done.returncode}: {done.stderr}")
    outcome.figures["worst stall of all, ms"] = f"{worst} (a slice is {SLICE:.0f})"
