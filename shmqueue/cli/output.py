"""How the commands show what they found: tables for people, JSON for programs. Nothing is looked up here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shmqueue.cli.inspection import Listed, Look
from shmqueue.cli.installation import Doctor

__all__ = ["print_doctor", "print_json", "print_list", "print_look", "readable_bytes"]

_WIDE = 10_000  # characters: what is read by a program is never wrapped or cut


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def print_json(data: Any) -> None:
    """Print plain data, or a dataclass of it, as JSON."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        data = dataclasses.asdict(data)
    print(json.dumps(data, indent=2))


def print_list(queues: Sequence[Listed]) -> None:
    """One line for each queue; the column of problems only where there are any."""
    if not queues:
        print("no queues")
        return
    columns = ["NAME", "ITEMS", "BYTES", "SIZE", "HOLDERS", "AGE", "ENGINE"]
    with_problems = any(queue.problem for queue in queues)
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("ITEMS", "BYTES", "SIZE", "AGE") else "left")
    if with_problems:
        table.add_column("PROBLEM")
    for queue in queues:
        cells = [_shown(queue.name), *_figures(queue)]
        table.add_row(*map(Text, cells), *([Text(queue.problem or "")] if with_problems else []))
    _console().print(table)


def _figures(queue: Listed) -> list[str]:
    holders, look = _pids(queue.holders), queue.look
    if look is None:
        return ["-", "-", "-", holders, "-", "-"]
    counters = look.counters
    return [
        str(counters.qsize),
        str(counters.occupancy),
        f"{look.grows_from}..{look.buffer_size}" if look.grows_from else str(look.buffer_size),
        holders,
        _readable_seconds(look.age),
        look.engine,
    ]


def print_look(look: Look) -> None:
    """Everything about one queue, a line for each figure."""
    figures = look.as_json()
    statistics = figures.pop("statistics")
    figures["name"] = _shown(look.name)
    figures["path"] = _shown(look.path)
    figures["age"] = _readable_seconds(look.age)
    figures["holders"] = _pids(look.holders) if look.holders else "nobody: the queue is gone now"
    figures["maxsize"] = look.maxsize or "as many as fit"
    _print_pairs({**figures, **statistics})


def print_doctor(doctor: Doctor) -> None:
    """A line for each finding, then the warnings."""
    pairs: dict[str, Any] = {
        "engine": doctor.engine or "none",
        "python": doctor.python,
        "platform": doctor.platform,
        "directory": _shown(doctor.directory),
        "free": "unknown" if doctor.free is None else f"{doctor.free} bytes ({readable_bytes(doctor.free)})",
        "orphans": ", ".join(map(_shown, doctor.orphans)) or "none",
        **doctor.versions,
    }
    if doctor.reason is not None:
        pairs = {"engine": pairs.pop("engine"), "reason": doctor.reason, **pairs}
    if doctor.swept:
        pairs["swept"] = ", ".join(map(_shown, doctor.swept))
    _print_pairs(pairs)
    for warning in doctor.warnings:
        print(f"warning: {warning}")


def _print_pairs(pairs: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in pairs.items():
        table.add_row(Text(name.replace("_", " ")), Text(str(value)))
    _console().print(table)


def _shown(text: str) -> str:
    """A name may contain anything, and a terminal obeys some of it."""
    return text if text.isprintable() else repr(text)


def _pids(holders: Sequence[int]) -> str:
    return ", ".join(map(str, holders)) or "-"


def readable_bytes(size: int) -> str:
    """A number of bytes in the largest binary unit of which there is at least one."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    power = min(max(0, size.bit_length() - 1) // 10, len(units) - 1)
    amount = size / 1024**power
    return f"{amount:.0f} {units[power]}" if amount == int(amount) else f"{amount:.1f} {units[power]}"


def _readable_seconds(seconds: float) -> str:
    whole = int(seconds)
    for size, unit, smaller_size, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // smaller_size}{smaller}"
    return f"{whole}s"
