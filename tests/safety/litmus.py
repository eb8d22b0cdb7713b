"""Weak memory: what a processor may reorder between two threads, by the memory models that herd7 checks.

The tests lie in weak_memory/*.litmus and say there which functions each one models: C11 by its repaired model (RC11;
Lahav et al., PLDI 2017), which covers every processor that a C11 compiler serves, and x86 by its own (TSO), where one
barrier is left out. The outcome that must not happen is the test's ``exists``; a data race is a fault as well.

The slots of a ledger are stored with release and read with acquire. One fence on each side would do, and cost less on
some processors; but ThreadSanitizer does not understand fences, and its checks are worth more.

Fails if: the memory model allows the outcome that must not happen, or a data race.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from .busy import at_least
from .outcome import Mutant, Options, Outcome

TITLE = "Weak memory: every order that the memory models allow"
IS_IN_C = True
TESTS = Path(__file__).resolve().parent / "weak_memory"
PARTS = tuple(sorted(test.stem for test in TESTS.glob("*.litmus")))
PATIENCE = at_least(60.0)  # seconds for one test


def _mutant(test: str, name: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"tests/safety/weak_memory/{test}.litmus", old, new, part=test)


MUTANTS = (
    _mutant(
        "ledger_read",
        "no second look at the sequence",
        "  int again = atomic_load_explicit(sequence, memory_order_relaxed);",
        "  int again = seen;",
    ),
    _mutant(
        "ledger_read",
        "slots read without acquire",
        "    position = atomic_load_explicit(position0, memory_order_acquire);\n"
        "    count = atomic_load_explicit(count0, memory_order_acquire);",
        "    position = atomic_load_explicit(position0, memory_order_relaxed);\n"
        "    count = atomic_load_explicit(count0, memory_order_relaxed);",
    ),
    _mutant(
        "ledger_read",
        "slots written without release",
        "  atomic_store_explicit(position0, 2, memory_order_release);\n"
        "  atomic_store_explicit(count0, 2, memory_order_release);",
        "  atomic_store_explicit(position0, 2, memory_order_relaxed);\n"
        "  atomic_store_explicit(count0, 2, memory_order_relaxed);",
    ),
    _mutant(
        "record_bytes",
        "a put committed without release",
        "atomic_store_explicit(put_sequence, 1, memory_order_release)",
        "atomic_store_explicit(put_sequence, 1, memory_order_relaxed)",
    ),
    _mutant(
        "record_bytes",
        "room seen without acquire",
        "atomic_load_explicit(get_sequence, memory_order_acquire)",
        "atomic_load_explicit(get_sequence, memory_order_relaxed)",
    ),
    _mutant(
        "wake", "no barrier between commit and look", "  atomic_thread_fence(memory_order_seq_cst);\n  int r", "  int r"
    ),
    _mutant("wake", "the kernel has no barrier", "  atomic_thread_fence(memory_order_seq_cst);\n  int c", "  int c"),
    _mutant(
        "wake_bell",
        "no barrier before the second look",
        "  atomic_thread_fence(memory_order_seq_cst);\n  int l",
        "  int l",
    ),
    _mutant("wake_x86", "the lock released by a plain store", " xchgl %eax, (word)    ", " movl %eax, (word)     "),
    _mutant(
        "wake_flag_taken_down",
        "the flag taken down after the commit",
        "  if (up == 1) {\n    asleep = atomic_exchange_explicit(waiting, 0, memory_order_seq_cst);\n  }\n"
        "  atomic_store_explicit(sequence, 1, memory_order_release);",
        "  atomic_store_explicit(sequence, 1, memory_order_release);\n"
        "  if (up == 1) {\n    atomic_store_explicit(waiting, 0, memory_order_relaxed);\n  }",
    ),
    _mutant(
        "lock_handover",
        "a lock released without release",
        "atomic_exchange_explicit(word, 0, memory_order_release)",
        "atomic_exchange_explicit(word, 0, memory_order_relaxed)",
    ),
    _mutant(
        "lock_handover",
        "a lock taken without acquire",
        "(word, free, 2, memory_order_acquire,",
        "(word, free, 2, memory_order_relaxed,",
    ),
    _mutant(
        "lease_in_place",
        "a view ended without release",
        "atomic_store_explicit(in_place, 0, memory_order_release)",
        "atomic_store_explicit(in_place, 0, memory_order_relaxed)",
    ),
    _mutant(
        "lease_in_place",
        "a view's end seen without acquire",
        "atomic_load_explicit(in_place, memory_order_acquire)",
        "atomic_load_explicit(in_place, memory_order_relaxed)",
    ),
)


def why_not() -> str | None:
    """What is missing."""
    return None if _herd() else "there is no herd7 (Debian's package herdtools7, or $SHMQUEUE_TEST_HERD)"


def _herd() -> str | None:
    return os.environ.get("SHMQUEUE_TEST_HERD") or shutil.which("herd7")


def run(options: Options) -> Outcome:
    """Check each test once; there is nothing random in it."""
    outcome = Outcome()
    for path in sorted(TESTS.glob("*.litmus")):
        if not options.includes(path.stem):
            continue
        outcome.count("tests")
        trouble, executions = _check(path)
        outcome.count("executions", executions)
        outcome.figures[path.stem] = trouble or f"{executions} executions, never"
        if trouble:
            outcome.fault(f"{path.stem}: {trouble}")
    return outcome


def _check(path: Path) -> tuple[str, int]:
    """What is wrong, and how many executions there are."""
    is_c = path.read_text(encoding="utf-8").startswith("C ")
    command = [str(_herd()), *(["-model", "rc11.cat"] if is_c else []), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    found = re.search(r"^Observation \S+ (Never|Sometimes|Always) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        return f"herd7 came to no end: {done.stdout}{done.stderr}", 0
    executions = int(found[2]) + int(found[3])
    if "*undef*" in done.stdout:
        return "a data race", executions
    return "" if found[1] == "Never" else "what must not happen may happen", executions
