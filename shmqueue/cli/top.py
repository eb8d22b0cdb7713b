"""What the ``top`` command shows: how fast items go through queues. It looks at them now and then and holds none."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from shmqueue import ShmQueueError, segment
from shmqueue.cli.inspection import Look, look_at
from shmqueue.cli.layout import shown, table, width_of_output
from shmqueue.cli.output import holders_text, print_json

__all__ = ["Rates", "run_top"]

_COLUMNS = ("NAME", "ITEMS", "LEASED", "IN/S", "OUT/S", "BYTES", "WAITING", "HOLDERS")
_RIGHT = {"ITEMS", "LEASED", "IN/S", "OUT/S", "BYTES"}


@dataclass(frozen=True)
class Rates:
    """A queue, and items a second that went in and out since the look before; None where there was none."""

    look: Look
    put_rate: float | None
    get_rate: float | None

    def as_json(self) -> dict[str, Any]:
        """The figures; rates are in items a second."""
        return {
            "name": self.look.name,
            "items": self.look.items,
            "leased": self.look.leased.held,
            **self.look.leases_as_json(),
            "occupancy": self.look.counters.occupancy,
            "put_rate": self.put_rate,
            "get_rate": self.get_rate,
            "waiting": self.look.waiting,
            "holders": self.look.holders,
            "orphan": self.look.is_orphan,
        }


class _Watch:
    """Looks at some queues, or at all, and remembers the look before."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._before: dict[bytes, tuple[float, Look]] = {}

    def look(self) -> list[Rates]:
        """All that are there now. One that comes and goes is not missed by its name, nor taken for the one before."""
        found, now = [], {}
        for name in self._names or segment.list_names():
            try:
                look = look_at(name)
            except (ShmQueueError, OSError):
                if self._names and not self._before:
                    raise  # the one that was asked for was never there
                continue  # gone just now, or a file that ls tells about
            at = time.monotonic()
            now[look.uuid] = at, look
            found.append(self._rates(at, look))
        self._before = now
        return found

    def _rates(self, at: float, look: Look) -> Rates:
        if look.uuid not in self._before:
            return Rates(look, None, None)
        before_at, before = self._before[look.uuid]
        seconds = max(at - before_at, 1e-9)
        put = (look.counters.put_count - before.counters.put_count) / seconds
        got = max(0, look.taken - before.taken) / seconds
        return Rates(look, round(put, 1), round(got, 1))


def run_top(names: Sequence[str], *, interval: float, count: int | None, as_json: bool) -> None:
    """Show queues until Ctrl-C: live on a terminal, as lines elsewhere.

    Args:
        names: of the queues; none, all that there are.
        interval: seconds between two looks.
        count: how often to show them, None for ever; with ``as_json`` once.

    Raises:
        ShmQueueNotFoundError, ShmQueueRefusedError, ShmQueueCorruptedError: of a queue that was named.
    """
    watch = _Watch(names)
    watch.look()
    if as_json:
        time.sleep(interval)
        print_json([rates.as_json() for rates in watch.look()])
    elif sys.stdout.isatty():
        _show_live(watch, interval, count)
    else:
        _show_lines(watch, interval, count)


def _show_live(watch: _Watch, interval: float, count: int | None) -> None:
    console = Console(highlight=False, markup=False)
    with Live(console=console, screen=count is None, auto_refresh=False) as live:
        while count is None or count > 0:
            time.sleep(interval)
            text = "\n".join(_lines(watch.look(), width_of_output()))
            live.update(Text(text, overflow="fold"), refresh=True)  # rich cuts a longer name off otherwise
            count = None if count is None else count - 1


def _show_lines(watch: _Watch, interval: float, count: int | None) -> None:
    while count is None or count > 0:
        time.sleep(interval)
        print(*_lines(watch.look(), width_of_output()), sep="\n", flush=True)
        count = None if count is None else count - 1


def _lines(queues: Sequence[Rates], width: int) -> list[str]:
    return table(_COLUMNS, map(_cells, queues), _RIGHT, width) if queues else ["no queues"]


def _cells(queue: Rates) -> list[str]:
    look = queue.look
    return [
        shown(look.name),
        str(look.items),
        str(look.leased.held),
        _rate(queue.put_rate),
        _rate(queue.get_rate),
        str(look.counters.occupancy),
        "+".join(look.waiting) or "-",
        holders_text(look.holders, look.keep),
    ]


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.0f}"
