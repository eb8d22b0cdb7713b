"""A process is killed at every instruction of every operation, and a survivor goes on as if nothing had been.

``native/crash_points.c`` does it, by ptrace, in a few processes; this adds up what they print.

Fails if: an operation is found done in part after a death, or neither whole nor undone; a survivor stays blocked or
finds a lock that nobody frees; the counts, the used bytes or the room of the queue are wrong afterwards.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from .builds import FIRST_FAULT, compile_program
from .outcome import Mutant, Options, Outcome

TITLE = "Death at every instruction"

RANDOM_SHARE = 0.6  # of the time, after which no more instructions are chosen at random
NATIVE = "shmqueue/engine/native/"


def why_not() -> str | None:
    if shutil.which("gcc") is None:
        return "gcc is needed"
    if platform.machine() not in {"x86_64", "i386", "i486", "i586", "i686"}:
        return f"the breakpoints are those of x86, and this is {platform.machine()}"
    return None


def run(options: Options) -> Outcome:
    return run_deaths("crash_points", options, RANDOM_SHARE, options.seed)


def run_deaths(name: str, options: Options, random_share: float, seed: int) -> Outcome:
    """Compile ``native/<name>.c``, run it, and add up what it prints."""
    outcome = Outcome()
    if options.engine != "native":
        outcome.figures["portable engine"] = "not run: its instructions are Python's"
        return outcome
    seconds = 0.0 if options.is_long else options.seconds * random_share
    with tempfile.TemporaryDirectory(prefix=f"shmqueue-{name.replace('_', '-')}-") as scratch:
        flags = ("-O2", "-Wl,-z,now", *(() if options.is_long else FIRST_FAULT))  # no lazy binding among the steps
        program = compile_program(name, Path(scratch), flags)
        command = [str(program), str(seconds), str(int(options.is_long)), str(seed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        what, _, value = line.partition(": ")
        if what == "fault":
            outcome.fault(value)
        elif what.startswith("worst"):
            outcome.note_worst(what, int(value))
        else:
            outcome.count(what, int(value))
    if done.returncode not in {0, 1}:
        outcome.fault(f"the program ended with {done.returncode}")
    return outcome


LEDGER_COMMIT = """\
    atomic_store_explicit(&ledgers->count[slot], count, memory_order_release);
    atomic_store_explicit(&ledgers->dropped[slot], dropped, memory_order_release);
    atomic_store_explicit(&ledgers->arena[slot], arena, memory_order_release);
    atomic_store_explicit(&ledgers->sequence, next, memory_order_release);
"""
LEDGER_POSITION = "    atomic_store_explicit(&ledgers->position[slot], position, memory_order_release);\n"
PUT_COMMIT = """\
    write_records(span, arena_offset(ring, put.arena, put.position), put.position, records, count);
    put.position += bytes;
    put.count += count;
"""
QUICK_PUT = """\
    memcpy(arena + arena_offset_in(ring, &ring->put_lap, put.arena, put.position), record, (size_t)bytes);
    note_high_water(ring, put.count + 1);
    bool asleep = side_claim_sleeping_getter(&side->ledgers);
    uint32_t committed =
        ledger_write(&side->ledgers, put.sequence, put.position + bytes, put.count + 1, put.shut, put.arena);
"""
ENTER = """\
    struct arena *arenas = ring->segment->arenas;
    atomic_store_explicit(&arenas[put->arena].end,"""
RESERVE = """\
        error = allocate(ring, arena, reserved, next);
        if (error == 0) {
"""
PUNCH_LOWER = "        atomic_store(&ring->segment->arenas[arena].reserved, kept);\n"
PUNCH = "        (void)!fallocate(ring->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, length);\n"
RELEASE = "    uint32_t was = atomic_exchange_explicit(word, 0, memory_order_release);\n"

IS_IN_C = True
MUTANTS = (
    Mutant(
        "count-published-apart",
        NATIVE + "ledger.h",
        LEDGER_COMMIT,
        LEDGER_COMMIT.replace("count[slot], count", "count[slot], ledgers->count[slot ^ 1]")
        + "    atomic_store_explicit(&ledgers->count[slot], count, memory_order_release);\n",
    ),
    Mutant(
        "position-in-the-current-slot",
        NATIVE + "ledger.h",
        LEDGER_POSITION,
        LEDGER_POSITION + LEDGER_POSITION.replace("[slot]", "[slot ^ 1]"),
    ),
    Mutant(
        "commit-before-payload",
        NATIVE + "put.c",
        PUT_COMMIT,
        """\
    uint64_t begin = arena_offset(ring, put.arena, put.position), position = put.position;
    put.position += bytes;
    put.count += count;
    ledger_commit(&side->ledgers, &put);
    write_records(span, begin, position, records, count);
""",
    ),
    Mutant(
        "quick-commit-before-payload",
        NATIVE + "put.c",
        QUICK_PUT,
        QUICK_PUT[QUICK_PUT.index("    note_high_water") :] + QUICK_PUT[: QUICK_PUT.index("    note_high_water")],
    ),
    Mutant(
        "quick-get-forgets-what-was-dropped",
        NATIVE + "get.h",
        "take->sequence, position, count, take->dropped, take->arena);",
        "take->sequence, position, count, 0, take->arena);",
    ),
    Mutant(
        "lock-not-announced",
        NATIVE + "lock.h",
        "    uint32_t seen = 0;\n    lock_announce(self, word);\n",
        "    uint32_t seen = 0;\n",
    ),
    Mutant("lock-let-go-in-silence", NATIVE + "lock.h", RELEASE, "    lock_announce(self, NULL);\n" + RELEASE),
    Mutant(
        "dead-owner-not-followed",
        NATIVE + "lock.h",
        "    while (lock_is_free(seen, self)) {",
        "    while (seen == FUTEX_WAITERS) {",
    ),
    Mutant(
        "arena-entered-before-its-end-is-known",
        NATIVE + "growing.c",
        ENTER,
        """\
    struct arena *arenas = ring->segment->arenas;
    struct snapshot early = *put;
    early.arena = arena;
    ledger_commit(&ring->segment->put.ledgers, &early);
    atomic_store_explicit(&arenas[put->arena].end,""",
    ),
    Mutant(
        "reserved-before-allocated",
        NATIVE + "growing.c",
        RESERVE,
        "        atomic_store(&ring->segment->arenas[arena].reserved, next);\n" + RESERVE,
    ),
    Mutant("punched-before-lowered", NATIVE + "trimming.c", PUNCH_LOWER + PUNCH, PUNCH + PUNCH_LOWER),
    Mutant(
        "shutdown-not-finished",
        NATIVE + "dropping.c",
        "    if (put.shut != SHUT_IMMEDIATE || is_empty) {\n        return RING_OK;\n",
        "    if (put.shut != SHUT_IMMEDIATE || is_empty || put.count >= take->next.count) {\n        return RING_OK;\n",
    ),
)
