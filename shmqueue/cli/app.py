"""The commands: arguments in, tables or JSON out. What they show is gathered in ``report`` and ``demo``."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

import shmqueue
from shmqueue import ShmQueue, ShmQueueEmpty, ShmQueueError, segment
from shmqueue.cli import report
from shmqueue.cli.demo import DemoError, run_demo

__all__ = ["run"]

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def run() -> None:
    """Run the command line; an error of shmqueue becomes one line and exit status 1."""
    try:
        commands.main(prog_name="shmqueue", standalone_mode=True)
    except (ShmQueueError, DemoError) as error:
        sys.exit(f"shmqueue: {report.sentence(error)}")


@click.group()
@click.version_option(shmqueue.__version__, prog_name="shmqueue")
def commands() -> None:
    """Queues between processes, in shared memory, opened by name.

    A queue lives as long as some process holds it.
    """


# ---- demo ----


@commands.command()
@click.option("--items", type=click.IntRange(min=2), default=3_000_000, show_default=True, help="Integers a round.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@as_json
def demo(items: int, rounds: int, as_json: bool) -> None:
    """Two programs that share only a name, side by side with multiprocessing.Queue."""
    with _progress(shown=not as_json) as progress:
        figures = run_demo(items, rounds, progress)
    if as_json:
        _print_json(figures)
    else:
        _print_demo(figures)
    if not figures["in order"]:
        sys.exit("shmqueue: items were lost or out of order")


def _print_demo(figures: dict[str, Any]) -> None:
    click.echo(f"{figures['python']}, {figures['engine']} engine, medians of {figures['rounds']} rounds in turn:")
    for name in ("ShmQueue", "multiprocessing.Queue"):
        one = figures[name]
        click.echo(f"  {name:22} {one['items per second']:>12,} items/s   ({one['items']:,} integers a round)")
    if figures["in order"]:
        click.echo("  every item arrived, in order")
    click.echo(f"  ShmQueue is {figures['ratio']} times as fast")


@contextmanager
def _progress(shown: bool) -> Iterator[Any]:
    console = Console()
    if not shown or not console.is_terminal:
        yield lambda what, done, total: None
        return
    columns = (TextColumn("{task.description:22}"), BarColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, rate="")
            elif bars.tasks[tasks[what]].completed > done:
                bars.reset(tasks[what])
            speed = bars.tasks[tasks[what]].speed
            bars.update(tasks[what], completed=done, rate=f"{speed:,.0f} items/s" if speed else "")

        yield show


# ---- looking ----


@commands.command("ls")
@as_json
def list_queues(as_json: bool) -> None:
    """List the queues that there are; what killed processes left is removed first."""
    segment.sweep_orphans()
    rows = report.all_queues()
    if as_json:
        _print_json(rows)
        return
    table = Table("name", "items", "bytes", "size", "holders", "age", "engine")
    for row in rows:
        if "problem" in row:
            table.add_row(row["name"], row["problem"])
        else:
            holders = " ".join(map(str, row["holders"]))
            figures = (f"{row[key]:,}" for key in ("items", "bytes", "size"))
            table.add_row(row["name"], *figures, holders, f"{row['age']:.0f} s", row["engine"])
    Console().print(table)


@commands.command()
@click.argument("name")
@as_json
def stat(name: str, as_json: bool) -> None:
    """Show everything about the queue NAME."""
    data = report.one_queue(name)
    if as_json:
        _print_json(data)
    else:
        _print_pairs(data | data.pop("statistics"))


@commands.command()
@click.option("--sweep", is_flag=True, help="Remove what killed processes left.")
@as_json
def doctor(sweep: bool, as_json: bool) -> None:
    """Say which engine serves and why, and how much memory there is."""
    data = report.installation()
    if sweep:
        data["swept"] = segment.sweep_orphans()
    if as_json:
        _print_json(data)
    else:
        _print_pairs({key: value for key, value in data.items() if value not in (None, [])})


# ---- items ----


@commands.command()
@click.argument("name")
@click.argument("items", metavar="JSON...", nargs=-1, required=True)
@click.option("--wait", is_flag=True, help="Stay until the items are taken.")
@click.option("--buffer-size", type=click.IntRange(min=1), default=segment.SYSTEM_PAGESIZE, help="Bytes, if it is new.")
def put(name: str, items: tuple[str, ...], wait: bool, buffer_size: int) -> None:
    """Put values, each given as JSON, into the queue NAME."""
    values = [_from_json(item) for item in items]
    report.use_engine_of(name)
    with ShmQueue(name, buffer_size=buffer_size) as queue:
        if queue.refs == 1 and not wait:
            raise ShmQueueError(
                f"nobody holds queue {name!r}: the items would be gone when this command ends; "
                "--wait stays until they are taken"
            )
        queue.put_many(values)
        while wait and not queue.empty():
            time.sleep(0.01)


@commands.command()
@click.argument("name")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many items to take.")
@click.option("--follow", is_flag=True, help="Take items until interrupted.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait for each item; without it, for ever.")
@click.option("--no-pickle", is_flag=True, help="Refuse items that were pickled.")
def get(name: str, count: int, follow: bool, timeout: float | None, no_pickle: bool) -> None:
    """Take items from the queue NAME and print each as a line of JSON, waiting for them where there are none."""
    report.use_engine_of(name)
    with ShmQueue(name, allow_pickle=not no_pickle) as queue:
        taken = 0
        while follow or taken < count:
            try:
                item = queue.get(timeout=timeout)
            except ShmQueueEmpty as error:
                raise ShmQueueError(str(error)) from None
            taken += 1
            click.echo(_as_json(item))


@commands.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
def rm(names: tuple[str, ...]) -> None:
    """Take the names of queues away. Those who hold them go on, the next one to use a name makes a new queue."""
    for name in names:
        report.remove(name)


# ---- JSON and tables ----


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON ({error}); a string needs its quotes: '\"text\"'") from None


def _as_json(item: Any) -> str:
    try:
        return json.dumps(item, ensure_ascii=False)
    except (TypeError, ValueError):
        return json.dumps({"repr": repr(item)}, ensure_ascii=False)


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))


def _print_pairs(data: dict[str, Any]) -> None:
    for key, value in data.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        click.echo(f"{key.replace('_', ' '):20} {shown}")
