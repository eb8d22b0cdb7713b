"""Exceptions at every point of the Python layer: what was interrupted happened whole or not at all, and kept nothing.

Each class of queues goes through it in processes of its own, beside a neighbour process that looks at the queue after
each exception: what it finds must be what the counts say, and it must be able to put and to get at once. The rules:

* A put that raises because memory is short, or because the item cannot be serialized, has put nothing. One that a
  signal interrupts has put its items whole or not at all.
* A get that raises because memory is short has taken nothing, unless what it took could not be loaded.
* The engine runs no signal handler between taking an item and returning it. A handler that raises after that, in the
  Python function around the engine or in its caller, loses the item, as with every queue of the standard library; so
  an interrupted get costs at most its own item, and one that has to wait costs none. What the portable engine did under
  its lock is taken back.

Fails if: one of these rules does not hold, another process cannot use the queue at once, or something is left over: a
reference, a block of memory, a descriptor, a mapping.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import partial

from shmqueue.segment import sweep_orphans

from .busy import at_least
from .interruption_calls import TARGETS, Target
from .interruption_items import check_items
from .interruption_leaks import check_calls, check_life, check_life_interrupted
from .interruption_points import CRASHES_WITHOUT_CELLS, check_instructions, check_memory, why_no_memory_failures
from .interruption_process import run_apart
from .interruption_signals import check_blocked, check_busy
from .outcome import Mutant, Options, Outcome

TITLE = "Exceptions at every point"

_AT_HAND, _GET, _ITEMS = (f"shmqueue/engine/native/python_{name}.c" for name in ("at_hand", "get", "items"))

_MUTANTS = (
    Mutant(
        "get lock kept when there is no memory for the item",
        _GET,
        "    if (*result == NULL) {\n        ring_get_abort(&self->ring, take);\n        status",
        "    if (*result == NULL) {\n        status",
    ),
    Mutant(
        "item taken before there is memory for it",
        _GET,
        "    if (*result == NULL) {\n        ring_get_abort(&self->ring, take);\n        status",
        "    if (*result == NULL) {\n        ring_get_pass(take);\n        ring_get_commit(&self->ring, take);\n"
        "        status",
    ),
    Mutant(
        "reference to what a get_many returns kept",
        _AT_HAND,
        "    bool done = one != NULL && PyList_Append(list, one) == 0;\n    Py_XDECREF(one);\n",
        "    bool done = one != NULL && PyList_Append(list, one) == 0;\n",
    ),
    Mutant(
        "number of items put made after the commit",
        _ITEMS,
        "    if (is_all) {\n        return all;\n    }\n",
        "",
    ),
    Mutant(
        "pickler shared with an item that uses the queue",
        "shmqueue/compat/_forking_pickler.py",
        "pickler = _idle_picklers.pop()",
        "pickler = _idle_picklers[-1]",
    ),
    Mutant(
        "descriptor kept that a segment was mapped through",
        "shmqueue/segment/held_file.py",
        "                        _for_a_while.pop(fresh, None)\n                        fresh.close()\n",
        "                        _for_a_while.pop(fresh, None)\n",
    ),
    Mutant(
        "packer used again after it had no memory for its result",
        "shmqueue/plain.py",
        "packer = _idle_packers.pop()",
        "packer = _idle_packers[-1]",
        engine="portable",
    ),
)
_MUTANTS_OF_OLD_PYTHONS = (
    Mutant(
        "collector left on under the lock",
        "shmqueue/engine/native/python_ring.h",
        "    return PyGC_Disable();",
        "    return 0;",
    ),
)
_MUTANTS_WITHOUT_MEMORY = (
    Mutant(
        "portable lock kept when there is no memory to release it",
        "shmqueue/engine/portable_commit.py",
        "owner.let_go(hold)",
        "pass",
        engine="portable",
    ),
)
MUTANTS = _MUTANTS if sys.version_info >= (3, 12) else _MUTANTS + _MUTANTS_OF_OLD_PYTHONS + _MUTANTS_WITHOUT_MEMORY
"""Since Python 3.12 the collector runs between bytecodes only, and need not be switched off; and the interpreter does
not survive it when the portable engine has no memory.
"""

_PATIENCE = at_least(40.0)  # seconds beyond its share after which a check counts as hung

_ENOUGH = 50  # faults, after which a long run ends; a short one ends after the first check that has any

_Check = Callable[[Outcome], None]


def run(options: Options) -> Outcome:
    outcome = Outcome()
    share = options.seconds / len(TARGETS)
    without = why_no_memory_failures(options.engine)
    if without is not None:
        outcome.figures["allocation failures"] = f"not run: {without}"
    elif CRASHES_WITHOUT_CELLS:
        outcome.figures["allocation failures in puts of lists and tuples"] = "not run: this Python crashes at some"
    for target in TARGETS:
        for what, part, check in _checks(target, options, share, without is None):
            run_apart(f"{target.name}, {what}", check, outcome, part + _PATIENCE)
            sweep_orphans()  # of interrupted opens, whose process has ended
            if len(outcome.faults) > (_ENOUGH if options.is_long else 0):
                return outcome
    return outcome


def _checks(target: Target, options: Options, share: float, memory_fails: bool) -> list[tuple[str, float, _Check]]:
    everything = {"seconds": math.inf} if options.is_long and options.engine == "native" else {}
    checks: list[tuple[str, float, Callable[..., None], dict[str, float | int]]] = [
        ("hostile items", 0.0, check_items, {}),
        ("instructions", 0.25, check_instructions, {"seed": options.seed} | everything),
        ("signals while it waits", 0.1, check_blocked, {"seed": options.seed}),
        ("signals while it is busy", 0.1, check_busy, {"seed": options.seed}),
        ("leaks", 0.15, check_calls, {}),
        ("life", 0.05, check_life, {}),
        ("life interrupted", 0.15, check_life_interrupted, {}),
    ]
    if memory_fails:
        # There are few in the native engine: always all of them.
        checks.insert(
            0, ("no memory", 0.2, check_memory, {} if options.engine == "portable" else {"seconds": math.inf})
        )
    return [
        (what, part * share, partial(check, target, **(({"seconds": part * share} if part else {}) | more)))
        for what, part, check, more in checks
    ]
