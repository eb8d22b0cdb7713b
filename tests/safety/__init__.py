"""Nothing gets stuck, nothing is lost: each group of these checks does the worst to a queue and counts what breaks.

``cd tests && python -m safety GROUP`` runs one and prints its figures; ``--seconds`` makes it long. ``--mutant`` runs
it on a copy of the project with one seeded fault, which it must find: that is how we know that it can fail.

Each group is a module whose docstring ends with what it fails for, and which has

* ``TITLE``: what it shows;
* ``MUTANTS``: the faults that it must find;
* ``run(options)``: does it, and returns an ``Outcome``;
* ``PARTS``, where it can run one part of itself alone: their names;
* ``IS_IN_C``, where it runs no Python of the product: True; or ``PARTS_IN_C``, the parts that run none;
* ``why_not()``, where it needs a tool that a machine may lack: what is missing, or None.
"""

from __future__ import annotations

GROUPS = (
    "crash_points",
    "lease_crash_points",
    "lost_wakeups",
    "kill_stress",
    "models",
    "litmus",
    "sanitizers",
    "interruption",
    "resource_limits",
    "foreign_files",
    "life_cycle",
    "side_by_side",
)
