"""The C files: each includes only what lies below it, and no two functions share a name."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

NATIVE = Path(__file__).parents[1] / "shmqueue/engine/native"
SOURCES = sorted(path for path in NATIVE.iterdir() if path.suffix in {".c", ".h"})
LAYERS = (  # from the bottom, as ring.h lists them; those in a row may not include each other
    "layout",
    "os",
    "lock",
    "ledger",
    "ring",
    "side",
    "tally space growing trimming",
    "take",
    "lease_table",
    "spilling",
    "leases",
    "lending",
    "holders writers",
    "records",
    "dropping",
    "get",
    "quick_lease",
    "reservations",
    "room",
    "put",
    "queue open",
    "wait_any",
    "msgpack_fast python_alone",
    "python_ring",
    "python_plain python_loan python_seen",
    "python_at_hand",
)
RANK = {name: rank for rank, row in enumerate(LAYERS) for name in row.split()}
HEADER_OF = {"growing": "space", "trimming": "space"}  # the rest have one of their own
TOP = len(LAYERS)  # module.c and the python_*.c, which no other file includes


def rank_of(path: Path) -> int:
    return RANK.get(path.stem, TOP) if path.stem in RANK or path.stem.startswith(("module", "python_")) else -1


def test_each_file_has_its_place() -> None:
    assert [path.name for path in SOURCES if rank_of(path) < 0] == []


def test_includes_go_downwards_only() -> None:
    upwards = []
    for path in SOURCES:
        for name in re.findall(r'^#include "(\w+)\.h"', path.read_text(encoding="utf-8"), re.MULTILINE):
            own = path.suffix == ".c" and name == HEADER_OF.get(path.stem, path.stem)
            if not own and RANK[name] >= rank_of(path):
                upwards.append(f"{path.name} includes {name}.h")
    assert upwards == []


FUNCTION = re.compile(r"^(?!#|typedef)\w[\w *]*?\b(\w+)\([^;{}=]*\)\s*\{", re.MULTILINE)


def test_no_two_functions_share_a_name() -> None:
    defined = {(name, path) for path in SOURCES for name in FUNCTION.findall(path.read_text(encoding="utf-8"))}
    names = Counter(name for name, _ in defined)
    assert names["ring_put"] == 1
    assert [name for name, times in names.items() if times > 1] == []
