"""How the commands show what they found: tables for people, JSON for programs. Nothing is looked up here."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from shmqueue.cli.inspection import Listed, Look, can_see_holders
from shmqueue.cli.layout import paragraph, shown, table, width_of_output
from shmqueue.cli.sizes import readable_bytes, readable_seconds, short_size
from shmqueue.inspection import QueueInfo

if TYPE_CHECKING:
    from shmqueue.cli.installation import Doctor

__all__ = ["holders_text", "print_doctor", "print_json", "print_list", "print_look", "print_removed"]

_COLUMNS = ("NAME", "ITEMS", "LEASED", "BYTES", "MEMORY", "AGE", "ENGINE", "HOLDERS")
_RIGHT = {"ITEMS", "LEASED", "BYTES", "MEMORY", "AGE"}


def print_json(data: Any) -> None:
    """Print plain data, or a dataclass of it, as JSON."""
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        data = dataclasses.asdict(data)
    print(json.dumps(data, indent=2))


def print_list(queues: Sequence[Listed], all_users: bool) -> None:
    """One line for each queue, then what is wrong with some of them."""
    if not queues:
        print("no queues")
        return
    columns = ("NAME", "USER", *_COLUMNS[1:]) if all_users else _COLUMNS
    _print_lines(table(columns, [_cells(queue.info, all_users) for queue in queues], _RIGHT, width_of_output()))
    for queue in queues:
        if queue.info.problem is not None:
            _print_lines(paragraph(f"{shown(queue.info.name)}: {queue.info.problem}", width_of_output(), indent=2))


def _cells(info: QueueInfo, all_users: bool) -> list[str]:
    return [
        shown(info.name),
        *([str(info.user)] if all_users else []),
        _figure(info.items),
        _figure(info.leased),
        _figure(info.bytes_used),
        short_size(info.file_bytes),
        readable_seconds(max(0.0, time.time() - info.created)),
        info.engine or "-",
        holders_text(info.holders, info.keep) + ("; shut down" if info.is_shutdown else ""),
    ]


def _figure(number: int | None) -> str:
    return "-" if number is None else str(number)


def holders_text(holders: Sequence[int], keep: bool) -> str:
    """The processes that have a queue open; of an orphan, that there are none."""
    if holders:
        return ", ".join(map(str, holders))
    if not can_see_holders():
        return "unknown"
    return "none (kept)" if keep else "none (orphan)"


def print_look(look: Look) -> None:
    """Everything about one queue, a line for each figure."""
    figures = look.as_json()
    statistics = figures.pop("statistics")
    statistics["oldest_lease"] = readable_seconds(look.oldest_lease) if look.leased.held else "none"
    figures["name"] = shown(look.name)
    figures["path"] = shown(look.path)
    figures["age"] = readable_seconds(look.age)
    figures["holders"] = holders_text(look.holders, look.keep)
    figures["maxsize"] = look.maxsize or "as many as fit"
    _print_pairs({**figures, **statistics})


def print_removed(queues: Sequence[QueueInfo], strays: Sequence[str]) -> None:
    """What was removed, a line for each queue, and one for all files that belonged to none."""
    for info in queues:
        print(f"removed {_described(info)}")
    if strays:
        print(f"removed {_count_of_strays(strays)}")
    if not queues and not strays:
        print("no orphans")


def _count_of_strays(strays: Sequence[str]) -> str:
    return f"{len(strays)} {'file that belongs' if len(strays) == 1 else 'files that belong'} to no queue"


def _described(info: QueueInfo) -> str:
    items = "an unknown number of items" if info.items is None else f"{info.items} items"
    age = readable_seconds(max(0.0, time.time() - info.created))
    return f"{shown(info.name)} ({items}, {age} old, {readable_bytes(info.file_bytes)})"


def print_doctor(doctor: Doctor) -> None:
    """A line for each finding, then the warnings and the notes."""
    pairs: dict[str, Any] = {
        "engine": doctor.engine or "none",
        "python": doctor.python,
        "platform": doctor.platform,
        "directory": shown(doctor.directory),
        "free": "unknown" if doctor.free is None else f"{doctor.free} bytes ({readable_bytes(doctor.free)})",
        "file system": _abilities_text(doctor.file_system),
        "robust lists": _robust_lists_text(doctor.robust_lists),
        "orphans": ", ".join(map(_described, doctor.orphans)) or "none",
        **doctor.versions,
    }
    if doctor.reason is not None:
        pairs = {"engine": pairs.pop("engine"), "reason": doctor.reason, **pairs}
    if doctor.strays:
        pairs["strays"] = _count_of_strays(doctor.strays)
    swept = [*map(_described, doctor.swept), *([_count_of_strays(doctor.swept_strays)] if doctor.swept_strays else [])]
    if swept:
        pairs["swept"] = ", ".join(swept)
    _print_pairs(pairs)
    for line in [*(f"warning: {each}" for each in doctor.warnings), *(f"note: {each}" for each in doctor.notes)]:
        _print_lines(paragraph(line, width_of_output(), indent=2))


def _robust_lists_text(has: bool | None) -> str:
    if has is None:
        return "unknown"
    if has:
        return "yes: the lock of a process that is killed is free at once"
    return "no: the lock of a process that is killed is free after up to 0.1 s, not at once; no item is lost"


def _abilities_text(abilities: dict[str, bool] | None) -> str:
    if abilities is None:
        return "takes no files"
    has = [name.replace("_", " ") for name, able in abilities.items() if able]
    lacks = [name.replace("_", " ") for name, able in abilities.items() if not able]
    return ("has " + ", ".join(has) if has else "") + ("; has not " + ", ".join(lacks) if lacks else "")


def _print_pairs(pairs: dict[str, Any]) -> None:
    column = max(map(len, pairs)) + 2
    for name, value in pairs.items():
        _print_lines(paragraph(str(value), width_of_output(), name.replace("_", " ").ljust(column), column))


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)
