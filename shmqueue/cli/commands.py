"""The commands and their options. Each one hands over to the module that does its work and to the one that shows it."""

from __future__ import annotations

import warnings
from typing import Any

import click

import shmqueue
from shmqueue import ShmQueueError
from shmqueue.cli import demo as demonstration
from shmqueue.cli import inspection, installation, output, transfer
from shmqueue.cli.bench.command import Wish, run_bench
from shmqueue.cli.bench.workloads import PEERS, PYPI, WORKLOADS
from shmqueue.cli.demo_view import print_report, view_for

__all__ = ["commands"]

_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_buffer_option = click.option(
    "--buffer-size",
    type=click.IntRange(min=1),
    metavar="BYTES",
    help="Room for items, if the queue is made by this; without it the queue grows as it needs to.",
)


class _Commands(click.Group):
    """What is the same for all commands: errors are one line, Ctrl-C is silent."""

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = _show_warning
        try:
            return super().invoke(ctx)
        except ShmQueueError as error:
            raise click.ClickException(inspection.one_line(error)) from error
        except KeyboardInterrupt:
            ctx.exit(_INTERRUPTED)


def _show_warning(message: Warning | str, *details: object, **more: object) -> None:
    _complain(f"Warning: {message}")


def _complain(text: str) -> None:
    click.echo(text, err=True)


def _pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Values like ``NAME=PATH``, as a dict."""
    pairs = dict(value.partition("=")[::2] for value in values)
    for name, path in pairs.items():
        if name not in (*PEERS, PYPI):
            raise click.BadParameter(f"{name!r} is none of {', '.join((*PEERS, PYPI))}")
        if not path:
            raise click.BadParameter(f"{name}=PATH: the path of a Python interpreter is missing")
    return pairs


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="A queue lives as long as somebody holds it: when its last holder ends, its items are gone. When all "
    "holders were killed, the next program that opens the name has the items, unless another use of this package "
    "swept them away before.",
)
@click.version_option(shmqueue.__version__, prog_name="shmqueue")
def commands() -> None:
    """Queues between processes, in shared memory, opened by name."""


@commands.command()
@click.option(
    "--items",
    type=click.IntRange(min=2),
    help="Items in each round; multiprocessing.Queue gets a tenth of them, or 200000 if that is more and there are as "
    "many. Without this, as many as take --seconds.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=1.5,
    show_default=True,
    help="About how long each of the six rounds takes.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    help="Seconds after which everything is ended.",
)
@_json_option
def demo(items: int | None, seconds: float, deadline: float, as_json: bool) -> None:
    """Send integers between two programs, and compare with multiprocessing.Queue.

    A producer and a consumer, which share nothing but a name, exchange integers through a queue, and the consumer
    checks that each one arrives, in order. The same work then goes through multiprocessing.Queue, between two processes
    of its own. Both do it three times in turn; what is compared are the medians of the rates.
    """
    view = view_for(as_json)
    with view:
        report = demonstration.run(items, seconds, deadline, view)
    if as_json:
        output.print_json(report.as_json())
    else:
        print_report(report)


_file = click.Path(dir_okay=False, writable=True)


@commands.command()
@click.option("--peers", is_flag=True, help="Measure the other packages' queues that are installed too.")
@click.option(
    "--peer-python",
    "pythons",
    multiple=True,
    metavar="NAME=PATH",
    callback=_pairs,
    help="Run a peer with this interpreter, which has its package; pypi-shmqueue=PATH is PyPI's shmqueue.",
)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(list(WORKLOADS)),
    metavar="NAME",
    help=f"Measure this only; may be repeated. One of {', '.join(WORKLOADS)}.",
)
@click.option("--quick", is_flag=True, help="Fewer workloads and rounds: at most 30 seconds.")
@click.option("--rounds", type=click.IntRange(min=1), help="How often everything is measured; 5, quick 3.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="About how long each measurement takes; 0.5, quick 0.15.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    help="Seconds after which a measurement is ended, and reported to hang; 30, quick 5.",
)
@click.option("--json", "json_file", type=_file, metavar="FILE", help="Write all figures, of each round.")
@click.option("--markdown", "markdown_file", type=_file, metavar="FILE", help="Write the tables as Markdown.")
@click.option("--svg", "svg_file", type=_file, metavar="FILE", help="Write a chart.")
def bench(**options: Any) -> None:
    """Measure throughput, latency and processor time, beside multiprocessing.Queue.

    Every queue does the same work, in processes of its own, round by round in turn; shown are medians, and how many
    times better they are than those of multiprocessing.Queue. Every item is checked. A queue that hangs is ended, and
    said to hang.
    """
    run_bench(Wish(**options))


@commands.command()
@_json_option
def ls(as_json: bool) -> None:
    """List the queues, with the bytes in use and the process id of each handle.

    Queues that nobody holds any more are swept away first.
    """
    queues = inspection.list_queues()
    if as_json:
        output.print_json([queue.as_json() for queue in queues])
    else:
        output.print_list(queues)


@commands.command()
@click.argument("name")
@_json_option
def stat(name: str, as_json: bool) -> None:
    """Tell everything about a queue.

    If all its holders were killed this is its last use: it is freed when the command ends.
    """
    look = inspection.look_at(name)
    if as_json:
        output.print_json(look.as_json())
    else:
        output.print_look(look)


@commands.command(context_settings={"ignore_unknown_options": True})  # negative numbers are no options
@click.argument("name")
@click.argument("values", metavar="JSON...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--wait", is_flag=True, help="Make the queue if need be, and hold it until it is empty.")
@_buffer_option
def put(name: str, values: tuple[str, ...], wait: bool, buffer_size: int | None) -> None:
    """Put JSON values, all of them or none if they fit the queue together.

    A queue lives as long as somebody holds it. If nobody does, the items would be gone when this command ends, so it
    refuses to put them, unless it is told to --wait.
    """
    items = [transfer.parse_json(value) for value in values]
    transfer.put_items(name, items, wait=wait, buffer_size=buffer_size)


@commands.command()
@click.argument("name")
@click.option("--count", type=click.IntRange(min=1), help="How many items to take; 1 unless told otherwise.")
@click.option("--follow", is_flag=True, help="Take items until Ctrl-C.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait for each item; for ever without this.")
@click.option("--no-pickle", is_flag=True, help="Refuse items that were pickled: loading one can run any program.")
@_buffer_option
def get(
    name: str, count: int | None, follow: bool, timeout: float | None, no_pickle: bool, buffer_size: int | None
) -> None:
    """Take items and print each as a line of JSON.

    Makes the queue if it does not exist yet, and waits. What JSON cannot express is printed as {"repr": "..."}. A queue
    lives as long as somebody holds it: if nobody else does, the items that this command leaves are gone when it ends.
    """
    if follow and count is not None:
        raise click.UsageError("--count and --follow exclude each other")
    transfer.get_items(
        name,
        count=None if follow else count or 1,
        timeout=timeout,
        allow_pickle=not no_pickle,
        buffer_size=buffer_size,
        show=click.echo,
        complain=_complain,
    )


@commands.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.pass_context
def rm(ctx: click.Context, names: tuple[str, ...]) -> None:
    """Take the names of queues away, damaged ones included.

    Those who hold such a queue go on with it; the next one to use the name makes a new one.
    """
    failed = False
    for name in names:
        try:
            inspection.remove_name(name)
        except ShmQueueError as error:
            _complain(f"Error: {inspection.one_line(error)}")
            failed = True
    if failed:
        ctx.exit(1)


@commands.command()
@click.option("--sweep", is_flag=True, help="Remove the queues that nobody holds.")
@_json_option
def doctor(sweep: bool, as_json: bool) -> None:
    """Tell which engine serves and why, where queues lie, and what was left behind there."""
    findings = installation.examine_installation(sweep)
    if as_json:
        output.print_json(findings)
    else:
        output.print_doctor(findings)
