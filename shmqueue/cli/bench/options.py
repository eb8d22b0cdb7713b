"""``shmqueue bench``: its options."""

from __future__ import annotations

from typing import Any

import click

from shmqueue.cli.bench.command import Wish, run_bench
from shmqueue.cli.bench.workloads import WORKLOADS
from shmqueue.cli.sizes import Seconds

__all__ = ["bench"]


_file = click.Path(dir_okay=False, writable=True)


def _pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Values like ``NAME=PATH``, as a dict."""
    pairs = dict(value.partition("=")[::2] for value in values)
    for name, path in pairs.items():
        if not path:
            raise click.BadParameter(f"{name}=PATH: the path of a Python interpreter is missing")
    return pairs


@click.command(short_help="Measure throughput, latency and processor time.")
@click.option(
    "--peers",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    metavar="DIRECTORY",
    help="Measure other packages' queues too, by the adapters there: tests/peers of a checkout.",
)
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
    type=Seconds(min=0, min_open=True),
    help="About how long each measurement takes; 0.5, quick 0.15.",
)
@click.option(
    "--deadline",
    type=Seconds(min=0, min_open=True),
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
