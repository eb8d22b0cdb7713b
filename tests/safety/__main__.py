"""``cd tests && python -m safety GROUP``: run one group of checks and print what it counted."""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import cast

import click
from rich.console import Console
from rich.table import Table

from . import GROUPS
from .builds import mutated_tree
from .outcome import Group, Mutant, Options, Outcome

SHM = "/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir()


@click.command(name="python -m safety")
@click.argument("group", type=click.Choice(GROUPS))
@click.option("--seconds", default=5.0, show_default=True, type=click.FloatRange(0), help="How long to go on.")
@click.option("--seed", type=int, help="Of the random numbers; by default a new one, which is printed.")
@click.option("--engine", default="native", show_default=True, type=click.Choice(["native", "portable"]))
@click.option("--start-method", default="fork", show_default=True, type=click.Choice(["fork", "spawn"]))
@click.option("--part", default="", help="Run this part of the group only; most groups have no parts.")
@click.option("--mutant", "mutant_name", help="Run on a copy of the project with this fault seeded into it.")
@click.option("--mutants", is_flag=True, help="List the faults that the group finds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    group: str,
    seconds: float,
    seed: int | None,
    engine: str,
    start_method: str,
    part: str,
    mutant_name: str | None,
    mutants: bool,
    as_json: bool,
) -> None:
    """Do the worst to a queue and count what breaks. Exits with 1 if anything did, with 3 if a tool is missing."""
    module = cast(Group, importlib.import_module(f"{__package__}.{group}"))
    if mutants:
        for mutant in module.MUTANTS:
            click.echo(f"{mutant.name}: {mutant.file}")
        return
    if (why := getattr(module, "why_not", lambda: None)()) is not None:
        click.echo(why, err=True)
        sys.exit(3)
    parts: tuple[str, ...] = getattr(module, "PARTS", ())
    if part and part not in parts:
        raise click.BadParameter(f"choose one of {', '.join(parts) or 'none'}", param_hint="--part")
    options = Options(seconds, random.randrange(1 << 32) if seed is None else seed, engine, start_method, part)
    if mutant_name is not None:
        known = {mutant.name: mutant for mutant in module.MUTANTS}
        if mutant_name not in known:
            raise click.BadParameter(f"choose one of {', '.join(known)}", param_hint="--mutant")
        mutant = known[mutant_name]
        is_in_c = getattr(module, "IS_IN_C", False) or (part or mutant.part) in getattr(module, "PARTS_IN_C", ())
        sys.exit(_run_mutated(group, mutant, options, as_json, is_in_c))
    outcome = _run(module, options)
    if as_json:
        click.echo(json.dumps({"figures": outcome.figures, "faults": outcome.faults}, indent=1))
    else:
        _print(module.TITLE, options, outcome)
    sys.exit(1 if outcome.faults else 0)


def _run(module: Group, options: Options) -> Outcome:
    """With a directory of its own for segments, which must be empty afterwards."""
    directory = tempfile.mkdtemp(prefix="shmqueue-safety-", dir=SHM)
    os.environ["SHMQUEUE_DIR"] = directory
    os.environ["SHMQUEUE_ENGINE"] = options.engine
    try:
        outcome = module.run(options)
        left = os.listdir(directory)
        outcome.figures["left in shared memory"] = len(left)
        if left:
            outcome.fault(f"left in shared memory: {left}")
    finally:
        shutil.rmtree(directory)
    return outcome


def _run_mutated(group: str, mutant: Mutant, options: Options, as_json: bool, is_in_c: bool) -> int:
    """The same command again, on the copy."""
    with tempfile.TemporaryDirectory(prefix="shmqueue-mutant-") as scratch:
        tree = mutated_tree(mutant, Path(scratch), is_in_c=is_in_c)
        engine = mutant.engine or options.engine
        arguments = [group, f"--seconds={options.seconds}", f"--seed={options.seed}", f"--engine={engine}"]
        arguments += [f"--start-method={options.start_method}", f"--part={options.part or mutant.part}"]
        arguments += ["--json"] if as_json else []
        environment = os.environ | {"PYTHONPATH": str(tree)}
        command = [sys.executable, "-m", "safety", *arguments]
        return subprocess.run(command, cwd=tree / "tests", env=environment, check=False).returncode


def _print(title: str, options: Options, outcome: Outcome) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"{title} (seed {options.seed})", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for what, value in outcome.figures.items():
        table.add_row(what, f"{value:,}" if isinstance(value, int) else str(value))
    table.add_row("faults", f"{len(outcome.faults):,}")
    console.print(table)
    for fault in outcome.faults[:50]:
        console.print(f"- {fault}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
