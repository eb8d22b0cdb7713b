"""Side by side: the same is done to every queue class that is installed, and only ours must stand it.

``cd tests && python -m safety.side_by_side --markdown [--peers]`` prints the table of ``README.md`` here.

Fails if: a queue of this project is stuck after a kill, loses more than the item that the killed consumer had, or takes
an item that it must refuse.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import click

from .busy import at_least
from .outcome import Mutant, Options, Outcome
from .side_by_side_peers import LEFT_OUT, OURS, PEERS, STANDARD, Peer
from .side_by_side_trials import Aftermath, Trials

__all__ = ["MUTANTS", "TITLE", "markdown", "run"]

TITLE = "Side by side"
TRIALS = 15
SHORT_TRIALS = 3
PATIENCE = 2.0  # seconds
OUR_PATIENCE = at_least(5.0)  # seconds: that we are stuck is a fault, that the machine is busy is none

KILLS = ("nobody killed", "idle consumer killed", "busy consumer killed", "busy producer killed")
ITEMS = ("item that can never fit", "item that cannot be pickled")

MUTANTS = (
    Mutant(
        "a lock's owner gives the id of a thread that never dies",
        "shmqueue/engine/native/lock.h",
        "atomic_compare_exchange_strong_explicit(word, &seen, self->tid, memory",
        "atomic_compare_exchange_strong_explicit(word, &seen, 1, memory",
    ),
    Mutant(
        "a get takes nothing away",
        "shmqueue/engine/native/leases.h",
        "    leases_commit(ring, take);\n}\n\n/* For a putter",
        "    ring_get_abort(ring, take);\n}\n\n/* For a putter",
    ),
)


@dataclass
class Row:
    """What came of one class: the cells of its row in the table, and what is a fault if it is ours."""

    cells: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def _sum_up(results: Sequence[Aftermath]) -> str:
    """A cell: how often it was stuck, and what was lost or doubled otherwise."""
    stuck = sum(not result.went_on for result in results)
    lost = [result.lost or 0 for result in results]
    doubled = [result.doubled or 0 for result in results]
    parts = [f"stuck {stuck} of {len(results)}"] if stuck else [f"goes on, {len(results)} of {len(results)}"]
    if any(lost):
        parts.append(f"lost up to {max(lost):,}")
    if any(doubled):
        parts.append(f"doubled up to {max(doubled):,}")
    return "; ".join(parts)


def _kill(peer: Peer, trials: int, patience: float, seed: int) -> Row:
    row = Row()
    trial = Trials(peer, patience, seed)
    # ours, every other time, at a moment at which it has a lock, as far as can be told
    kinds: tuple[tuple[str, Callable[[int], Aftermath], int], ...] = (
        (KILLS[0], lambda _: trial.kill_nobody(), 0),
        (KILLS[1], lambda _: trial.kill_idle_consumer(), 0),
        (KILLS[2], lambda i: trial.kill_busy_consumer(peer.is_ours and i % 2 == 0), 1),
        (KILLS[3], lambda i: trial.kill_busy_producer(peer.is_ours and i % 2 == 0), 0),
    )
    for what, kill, may_lose in kinds:
        if what == KILLS[3] and peer.producers < 2:
            row.cells[what] = "one producer only"
            continue
        results: list[Aftermath] = []
        for i in range(trials):
            results.append(kill(i))
            last = results[-1]
            if not last.went_on or (last.lost or 0) > may_lose or last.doubled:
                row.faults.append(f"{what}: {_sum_up([last])}")
                if peer.is_ours:
                    return row
        row.cells[what] = _sum_up(results)
    return row


def _compare(peer: Peer, trials: int, patience: float, seed: int) -> Row:
    """All trials of one class."""
    row = _kill(peer, trials, patience, seed)
    if peer.is_ours and row.faults:  # which takes its time, and is enough
        return row
    trial = Trials(peer, patience, seed)
    row.cells[ITEMS[0]] = trial.put_too_large()
    row.cells[ITEMS[1]] = trial.put_unpicklable()
    if row.cells[ITEMS[0]] == "blocks":
        row.faults.append("an item that can never fit blocks")
    if not row.cells[ITEMS[1]].startswith("raises"):
        row.faults.append(f"an item that cannot be pickled {row.cells[ITEMS[1]]}")
    return row


def run(options: Options) -> Outcome:
    """Long: everything that is installed. Short: ours, and what the standard library's does in one trial."""
    outcome = Outcome()
    for peer in (*OURS, *(STANDARD + PEERS if options.is_long else ())):
        if not peer.is_installed():
            outcome.figures[peer.name] = "not installed"
            continue
        if peer.is_ours:
            row = _compare(peer, TRIALS if options.is_long else SHORT_TRIALS, OUR_PATIENCE, options.seed)
            for fault in row.faults:
                outcome.fault(f"{peer.name}: {fault}")
        else:
            row = _compare(peer, TRIALS, PATIENCE, options.seed)
        for what, cell in row.cells.items():
            outcome.figures[f"{peer.name}: {what}"] = cell
        if outcome.faults and not options.is_long:
            return outcome
    if options.is_long:
        outcome.figures |= {f"{name}: left out": why for name, why in LEFT_OUT.items()}
    else:
        stuck = not Trials(STANDARD[0], 0.5, options.seed).kill_idle_consumer().went_on
        outcome.figures[f"{STANDARD[0].name}: {KILLS[1]}"] = "stuck" if stuck else "goes on"
    return outcome


def markdown(peers: Iterable[Peer], trials: int, patience: float, seed: int) -> str:
    """The table, a row for each class that is installed."""
    columns = (*KILLS, *ITEMS)
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for peer in peers:
        if peer.is_installed():
            cells = _compare(peer, trials, OUR_PATIENCE if peer.is_ours else patience, seed).cells
            lines.append(f"| {peer.name} | " + " | ".join(cells.get(column, "") for column in columns) + " |")
            print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


@click.command(name="python -m safety.side_by_side")
@click.option("--markdown", "as_markdown", is_flag=True, required=True, help="Print the table for README.md.")
@click.option("--peers", is_flag=True, help="Other packages that are installed, too.")
@click.option("--trials", default=TRIALS, show_default=True, help="Of each kind.")
@click.option("--patience", default=PATIENCE, show_default=True, help="Seconds after which others count as stuck.")
@click.option("--seed", default=0, help="Of the random moments.")
def main(as_markdown: bool, peers: bool, trials: int, patience: float, seed: int) -> None:
    """Do the same to each queue class, and print what came of it."""
    click.echo(markdown((*OURS, *STANDARD, *(PEERS if peers else ())), trials, patience, seed))
    for name, why in LEFT_OUT.items() if peers else ():
        click.echo(f"\nLeft out: {name}: {why}.")


if __name__ == "__main__":
    main()
