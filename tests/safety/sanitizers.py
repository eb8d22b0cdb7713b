"""The engine's core under the sanitizers: as threads on one mapping, and on segments with wrong bytes in them.

``native/threads.c`` lets putters, getters and an onlooker loose, ``native/fuzz.c`` corrupts segments, and
``byte_flips`` does the same to queues of both engines in Python. Each runs in a process of its own and prints lines
"figure: number" and "fault: sentence"; a sanitizer that finds something ends it.

Fails if: a sanitizer reports something; a call on wrong bytes reads or writes outside of the segment, does not return
in time, or keeps a lock; threads lose, double or reorder an item.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .builds import FIRST_FAULT, compile_program
from .busy import at_least
from .outcome import Mutant, Options, Outcome

TITLE = "Threads and wrong bytes, under the sanitizers"

PATIENCE = at_least(60.0)  # seconds beyond its time after which a program is ended, and a fault
GUARDS = ("-Wl,--wrap=mmap,--wrap=munmap",)
ASAN = ("-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TSAN = ("-O1", "-fsanitize=thread")
SANITIZERS = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=0:max_allocation_size_mb=64",  # a leak check would need ptrace
    "TSAN_OPTIONS": "halt_on_error=1",
    "UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1",
}
TELLING = re.compile(r"ERROR: |WARNING: Thread|runtime error: |SUMMARY: |Invalid |uninitialised|#[01] ")


@dataclass(frozen=True)
class Check:
    """One program under one tool.

    ``share`` is its part of the time; 0, it belongs to a long run only. ``items`` is how many each putter puts in a
    round of ``threads``. What ``tools`` names must be installed.
    """

    name: str
    program: str
    share: float
    flags: tuple[str, ...] = ()
    compiler: str = "gcc"
    items: int = 600
    tools: tuple[str, ...] = ()
    wrapper: tuple[str, ...] = ()
    engine: str = ""

    def command(self, scratch: Path, options: Options) -> list[str]:
        """Compile, and say what to run."""
        seconds = options.seconds * (1.0 if options.part else self.share or 0.2)
        if self.program == "byte_flips":
            return [sys.executable, "-m", f"{__package__}.byte_flips", str(options.seed), str(seconds), self.engine]
        into = scratch / re.sub(r"\W+", "-", self.name)
        into.mkdir()
        flags = self.flags if options.is_long else self.flags + FIRST_FAULT
        program = str(compile_program(self.program, into, flags, self.compiler))
        if "-DFUZZ_LIBFUZZER" in self.flags:
            return [program, f"-seed={options.seed or 1}", f"-max_total_time={int(seconds)}", "-max_len=400", str(into)]
        more = [str(self.items)] if self.program == "threads" else []
        return [*self.wrapper, program, str(options.seed), str(seconds), *more]


VALGRIND = ("valgrind", "-q", "--error-exitcode=9", "--fair-sched=yes")
LIBFUZZER = ("-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-DFUZZ_LIBFUZZER")
CHECKS = (
    Check("threads, ThreadSanitizer", "threads", 0.2, TSAN),
    Check("wrong bytes, ASan and UBSan", "fuzz", 0.4, (*ASAN, *GUARDS)),
    Check("wrong bytes, plain", "fuzz", 0.1, ("-O2", *GUARDS)),
    Check("threads, ASan and UBSan", "threads", 0.1, ASAN),
    Check("threads, plain", "threads", 0.1, ("-O2",), items=2000),
    Check("threads, valgrind", "threads", 0.02, ("-O2",), items=100, tools=("valgrind",), wrapper=VALGRIND),
    Check("byte flips, native", "byte_flips", 0.1, engine="native"),
    Check("byte flips, portable", "byte_flips", 0.1, engine="portable"),
    Check("threads, clang's ThreadSanitizer", "threads", 0.0, TSAN, "clang", tools=("clang",)),
    Check("wrong bytes, clang's ASan and UBSan", "fuzz", 0.0, (*ASAN, *GUARDS), "clang", tools=("clang",)),
    Check("wrong bytes, libFuzzer", "fuzz", 0.0, (*LIBFUZZER, *GUARDS), "clang", tools=("clang",)),
)
PARTS = tuple(check.name for check in CHECKS)
PARTS_IN_C = tuple(check.name for check in CHECKS if check.program != "byte_flips")


def run(options: Options) -> Outcome:
    outcome = Outcome()
    over = threading.Event()  # a short run is over with its first fault
    with tempfile.TemporaryDirectory(prefix="shmqueue-sanitizers-") as scratch, ThreadPoolExecutor(2) as pool:
        chosen = [check for check in CHECKS if options.includes(check.name)]
        results = list(pool.map(lambda check: _run(check, Path(scratch), options, over), chosen))
    for result in results:
        outcome.figures.update(result.figures)
        outcome.faults.extend(result.faults)
    return outcome


def why_not() -> str | None:
    return None if shutil.which("gcc") else "gcc is missing: the programs cannot be compiled"


def _run(check: Check, scratch: Path, options: Options, over: threading.Event) -> Outcome:
    result = Outcome()
    missing = [tool for tool in check.tools if shutil.which(tool) is None]
    if missing:
        result.figures[f"{check.name}: not run"] = f"{', '.join(missing)} is not installed"
    elif over.is_set():
        result.figures[f"{check.name}: not run"] = "another one had found a fault"
    elif check.share == 0 and not options.is_long:
        result.figures[f"{check.name}: not run"] = f"only from {options.LONG:.0f} seconds on"
    else:
        _run_program(check, check.command(scratch, options), options, result)
        if result.faults and not options.is_long:
            over.set()
    return result


def _run_program(check: Check, command: list[str], options: Options, result: Outcome) -> None:
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env=os.environ | SANITIZERS,
        cwd=Path(__file__).resolve().parents[1],
    ) as process:
        try:
            output, errors = process.communicate(timeout=options.seconds + PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            result.fault(f"{check.name}: did not end in time (seed {options.seed})")
    if "unexpected memory mapping" in errors:
        result.figures[f"{check.name}: not run"] = "ThreadSanitizer does not get along with this kernel's addresses"
        return
    for line in output.splitlines():
        what, _, value = line.partition(": ")
        if what == "fault":
            result.fault(f"{check.name}: {value} (seed {options.seed})")
        elif re.fullmatch(r"[\d.]+", value):
            result.figures[f"{check.name}: {what}"] = float(value) if "." in value else int(value)
    if (runs := re.search(r"Done (\d+) runs", errors)) is not None:  # libFuzzer's
        result.figures[f"{check.name}: trials"] = int(runs[1])
    if process.returncode != 0 and (not result.faults or TELLING.search(errors)):
        result.fault(f"{check.name}: exit status {process.returncode}: {_gist(errors)} (seed {options.seed})")


def _gist(errors: str) -> str:
    """The lines that say what was found, and where."""
    lines = [line.strip() for line in errors.splitlines()]
    telling = [line for line in lines if TELLING.search(line)]
    return " | ".join(telling[:8] or lines[-8:])


NATIVE = "shmqueue/engine/native/"
WRONG_BYTES, RACES = "wrong bytes, ASan and UBSan", "threads, ThreadSanitizer"  # the parts that find them
MUTANTS = (
    Mutant(
        "a record's length is not checked",
        NATIVE + "records.c",
        "if (!read_head(bytes, used, &take->length, &take->method) || "
        "take->length > span.size - record_head(take->length)) {",
        "if (!read_head(bytes, used, &take->length, &take->method) && take->length == UINT64_MAX) {",
        part=WRONG_BYTES,
    ),
    Mutant(
        "the bytes in the queue are not checked against its capacity",
        NATIVE + "ledger.h",
        "if (put->position < get->position || put->position - get->position > capacity) {",
        "if (put->position < get->position && capacity == 0) {",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a get ledger's arena is not checked",
        NATIVE + "get.c",
        "    if (take->arena >= ring->arenas) {",
        "    if (take->arena == UINT32_MAX) {",
        part=WRONG_BYTES,
    ),
    Mutant(
        "the second mapping of an arena begins one page late",
        NATIVE + "space.c",
        "start + (off_t)before);",
        "start + (off_t)(before + (size > whole_pages(1) ? whole_pages(1) : 0)));",
        part=RACES,
    ),
    Mutant(
        "counts are not checked against positions",
        NATIVE + "ledger.h",
        "if (records > bytes / RECORD_HEADER_SIZE || (records == 0 && bytes != 0)) {",
        "if (records == UINT64_MAX && bytes == 0) {",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a commit is published without release",
        NATIVE + "ledger.h",
        """    atomic_store_explicit(&ledgers->position[slot], position, memory_order_release);
    atomic_store_explicit(&ledgers->count[slot], count, memory_order_release);
    atomic_store_explicit(&ledgers->dropped[slot], dropped, memory_order_release);
    atomic_store_explicit(&ledgers->arena[slot], arena, memory_order_release);
    atomic_store_explicit(&ledgers->sequence, next, memory_order_release);
""",
        """    atomic_store_explicit(&ledgers->position[slot], position, memory_order_relaxed);
    atomic_store_explicit(&ledgers->count[slot], count, memory_order_relaxed);
    atomic_store_explicit(&ledgers->dropped[slot], dropped, memory_order_relaxed);
    atomic_store_explicit(&ledgers->arena[slot], arena, memory_order_relaxed);
    atomic_store_explicit(&ledgers->sequence, next, memory_order_relaxed);
""",
        part=RACES,
    ),
    Mutant(
        "a record's length is not checked by the quick way",
        NATIVE + "get.c",
        "take->head.length <= RECORD_QUICK_MAX && take->head.length <= used - RECORD_HEADER_SIZE;",
        "take->head.length <= RECORD_LONG;",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a get ledger's arena is not checked by the quick way",
        NATIVE + "get.c",
        "    if (arena >= ring->arenas || atomic_load",
        "    if (atomic_load",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a quick get reads its ledger again, and does not check it",
        NATIVE + "get.h",
        "        ring_get_of_quick(take, &whole);\n",
        "        ring_get_of_quick(take, &whole);\n"
        "        whole.next = ledger_read_own(&ring->segment->get.ledgers);\n",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a quick put believes what was copied by a fork",
        NATIVE + "put.c",
        "put.shut == SHUT_NOT && ring->put_epoch == self->epoch &&\n",
        "put.shut == SHUT_NOT &&\n",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a quick get believes what was copied by a fork",
        NATIVE + "get.c",
        "        ring->get_epoch != take->self->epoch || atomic_load",
        "        atomic_load",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a quick put takes the room that another one claims",
        NATIVE + "put.c",
        "                    atomic_load_explicit(&side->guard.claimant, memory_order_relaxed) == 0 &&\n"
        "                    room_is_known",
        "                    room_is_known",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a quick put goes on after a shutdown",
        NATIVE + "put.c",
        "put.arena < ring->arenas && put.shut == SHUT_NOT && ",
        "put.arena < ring->arenas && ",
        part=WRONG_BYTES,
    ),
    Mutant(
        "the quick end of a lease forgets the others",
        NATIVE + "quick_lease.c",
        "GET(side->next.entries[GET(side->ledgers.sequence) & 1]) == 1;",
        "GET(side->next.entries[GET(side->ledgers.sequence) & 1]) >= 1;",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a lease may name a place outside of the data",
        NATIVE + "lease_table.h",
        "    SET(entry->window, 0);\n",
        "",
        part=WRONG_BYTES,
    ),
    Mutant(
        "the quick way is taken beside leases",
        NATIVE + "get.c",
        "    take->arena = atomic_load_explicit(&side->ledgers.arena[slot], memory_order_relaxed);\n",
        "    take->arena = atomic_load_explicit(&side->ledgers.arena[slot], memory_order_relaxed) & ~LEDGER_LEASES;\n",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a mark is stored without an atomic",
        NATIVE + "put.c",
        "atomic_store_explicit(&ring->segment->put.guard.high_water, put_count - ring->get_as_seen.count,\n"
        "                              memory_order_relaxed);",
        "*(volatile uint64_t *)&ring->segment->put.guard.high_water = put_count - ring->get_as_seen.count;",
        part=RACES,
    ),
    Mutant(
        "where a leased record lies is not checked",
        NATIVE + "lease_table.c",
        "    return place->arena < ring->arenas;\n}",
        "    return true;\n}",
        part=WRONG_BYTES,
    ),
    Mutant(
        "the number of leases is not checked",
        NATIVE + "lease_table.c",
        "take->entries > LAYOUT_LEASES ||\n"
        "        take->entries * sizeof(struct lease) > GET(ring->segment->leases.reserved)",
        "take->entries == UINT32_MAX",
        part=WRONG_BYTES,
    ),
    Mutant(
        "the number of an entry to put back is not checked",
        NATIVE + "lease_table.c",
        "if (is_uncommitted && changed <= LAYOUT_LEASES) {",
        "if (is_uncommitted) {",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a leased record's length is not checked",
        NATIVE + "leases.c",
        "    if (record_head(length) > room || length > room - record_head(length) ||\n",
        "    if (record_head(length) > room ||\n",
        part=WRONG_BYTES,
    ),
    Mutant(
        "a record is moved while its holder looks at it",
        NATIVE + "spilling.c",
        "atomic_load_explicit(&oldest->in_place, memory_order_acquire) != BYTES_MAY_MOVE)",
        "atomic_load_explicit(&oldest->in_place, memory_order_acquire) > BYTES_IN_PLACE)",
        part=RACES,
    ),
    Mutant(
        "a lock is released without release",
        NATIVE + "lock.h",
        "uint32_t was = atomic_exchange_explicit(word, 0, memory_order_release);",
        "uint32_t was = atomic_exchange_explicit(word, 0, memory_order_relaxed);",
        part=RACES,
    ),
)
