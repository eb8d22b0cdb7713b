"""``python -m shmqueue.conformance``: check any queue class from the command line."""

from __future__ import annotations

import json
import random
import sys
from typing import TextIO

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .profiles import PROFILES, Profile
from .report import Column, as_json, as_markdown, print_report
from .report_html import as_html
from .suite import Amount, amount_of_steps, profile_for, run_suite
from .target import START_METHODS, Target

__all__ = ["main"]


@click.command(name="python -m shmqueue.conformance")
@click.option(
    "--target",
    "specs",
    multiple=True,
    required=True,
    help="module:factory, or module:factory=profile; may be given several times.",
)
@click.option("--profile", type=click.Choice(list(PROFILES)), help="What to expect; by default that of the same name.")
@click.option("--start-method", type=click.Choice(START_METHODS), help="How workers start; fork, or threads for queue.")
@click.option("--examples", default=100, show_default=True, type=click.IntRange(1), help="Programs to draw.")
@click.option("--seed", type=int, help="Of the random numbers; by default a new one, which is printed.")
@click.option("--json", "json_file", type=click.File("w"), help="Also write all that was found as JSON.")
@click.option("--markdown", "markdown_file", type=click.File("w"), help="Also write the table as Markdown.")
@click.option("--html", "html_file", type=click.File("w"), help="Also write a page with what was found, to look at.")
def main(
    specs: tuple[str, ...],
    profile: str | None,
    start_method: str | None,
    examples: int,
    seed: int | None,
    json_file: TextIO | None,
    markdown_file: TextIO | None,
    html_file: TextIO | None,
) -> None:
    """Tell which clauses of the standard queues' contract a queue class keeps.

    Exits with 1 if a clause is broken.
    """
    sys.path.insert(0, "")  # targets in the current directory, as `python -m` has it
    amount = Amount(examples, random.randrange(1 << 32) if seed is None else seed)
    columns = []
    said: dict[str, str] = {}
    try:
        targets = [_target(spec, start_method, profile) for spec in specs]
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as progress:
        for target, chosen in targets:
            task = progress.add_task(target.spec, total=amount_of_steps(chosen, amount))

            def tick(what: str, task: object = task, spec: str = target.spec) -> None:
                if not sys.stderr.isatty() and what != said.get(spec):
                    print(f"{spec}: {what}", file=sys.stderr, flush=True)  # there is no bar to see
                    said[spec] = what
                progress.update(task, advance=1, description=f"{spec}: {what}"[:70])  # type: ignore[arg-type]

            columns.append(Column(target, chosen, run_suite(target, chosen, amount, tick)))
            progress.remove_task(task)
    print_report(Console(width=None if sys.stdout.isatty() else 120), columns, amount)
    if html_file is not None:
        html_file.write(as_html(columns, amount))
    if markdown_file is not None:
        markdown_file.write(as_markdown(columns, amount))
    if json_file is not None:
        json.dump(as_json(columns, amount), json_file, indent=1)
    if any(column.broken for column in columns):
        sys.exit(1)


def _target(spec: str, start_method: str | None, profile_name: str | None) -> tuple[Target, Profile]:
    spec, _, own = spec.partition("=")
    name = own or profile_name
    if name and name not in PROFILES:
        raise ValueError(f"there is no profile {name!r}: choose one of {', '.join(PROFILES)}")
    default = "threads" if spec.partition(":")[0] == "queue" else "fork"
    target = Target(spec, start_method or default)
    target.factory()
    return target, PROFILES[name] if name else profile_for(spec)


if __name__ == "__main__":
    main()
