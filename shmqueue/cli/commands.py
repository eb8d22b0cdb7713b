"""The commands and their options. Each one hands over to the module that does its work and to the one that shows it.

What draws on the terminal, examines the installation, or measures is imported by the commands that need it: with all of
it, each command takes twice as long to start.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import click

import shmqueue
from shmqueue import ShmQueueError, inspection, segment
from shmqueue.cli import conversion, output, transfer
from shmqueue.cli import inspection as looks
from shmqueue.cli.exits import Exit, Failure, exit_status_of, one_line
from shmqueue.cli.group import Commands, QueueCommand, complain
from shmqueue.cli.sizes import Seconds, Size

__all__ = ["commands"]


class _QueueName(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        # A terminal that is no UTF-8 one passes the same bytes, which Python decodes in another way.
        name = os.fsencode(value).decode("utf-8", sys.getfilesystemencodeerrors())
        try:
            segment.path_of(name)
        except ShmQueueError as error:
            self.fail(one_line(error), param, ctx)
        return name


_FORMS: dict[str | None, conversion.Parse] = {
    None: conversion.as_json,
    "text": conversion.as_text,
    "bytes": conversion.as_bytes,
}

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_name_argument = click.argument("name", type=_QueueName())
_no_pickle_option = click.option(
    "--no-pickle", is_flag=True, help="Refuse items that were pickled: loading one can run any program."
)


def _room_options(command: Any) -> Any:
    for option in (
        click.option(
            "--max-bytes",
            type=Size(least=0),
            metavar="SIZE",
            help="If this makes the queue, let it grow to SIZE; 0, to all memory that there is for it.",
        ),
        click.option(
            "--buffer-size",
            type=Size(),
            metavar="SIZE",
            help="If this makes the queue, the bytes for items (65536, 64k, 1M); it grows as needed by default.",
        ),
    ):
        command = option(command)
    return command


def _room(buffer_size: int | None, max_bytes: int | None) -> transfer.Room:
    if max_bytes and buffer_size and max_bytes < buffer_size:
        raise click.UsageError("--max-bytes must be at least --buffer-size, or 0")
    return transfer.Room(buffer_size, max_bytes)


@click.group(
    cls=Commands,
    elsewhere={"bench": "shmqueue.cli.bench.options"},
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="A queue exists while at least one process has it open; when the last one closes it, its items are gone. "
    "If all processes that had it open were killed, the items stay until a program opens the queue again, or rm "
    "removes it. A queue made with --keep stays in any case, until rm removes it.",
)
@click.version_option(shmqueue.__version__, prog_name="shmqueue")
def commands() -> None:
    """Queues between processes, in shared memory, opened by name."""


@commands.command(short_help="Send integers between two programs, and time it.")
@click.option(
    "--items",
    type=click.IntRange(min=2),
    help="Items in each round; multiprocessing.Queue gets a tenth of them, or 200000 if that is more and there are as "
    "many. Without this, as many as take --seconds.",
)
@click.option(
    "--seconds",
    type=Seconds(min=0, min_open=True),
    default=1.5,
    show_default=True,
    help="About how long each of the six rounds takes.",
)
@click.option(
    "--deadline",
    type=Seconds(min=0),
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
    from shmqueue.cli import demo as demonstration
    from shmqueue.cli.demo_view import print_report, view_for

    view = view_for(as_json)
    with view:
        report = demonstration.run(items, seconds, deadline, view)
    if as_json:
        output.print_json(report.as_json())
    else:
        print_report(report)


@commands.command(short_help="List the queues.")
@click.option("--all-users", is_flag=True, help="List the queues of other users too.")
@_json_option
def ls(all_users: bool, as_json: bool) -> None:
    """List the queues, with their items and the process id of each handle.

    ITEMS can be taken; LEASED are further ones that processes work on and have not acknowledged.

    Queues that no process has open are listed too: an orphan is one whose processes were killed.
    """
    queues = looks.list_queues(all_users)
    if as_json:
        output.print_json([queue.as_json() for queue in queues])
    else:
        output.print_list(queues, all_users)


@commands.command(cls=QueueCommand)
@_name_argument
@_json_option
def stat(name: str, as_json: bool) -> None:
    """Show all figures of a queue."""
    look = looks.look_at(name)
    if as_json:
        output.print_json(look.as_json())
    else:
        output.print_look(look)


@commands.command(cls=QueueCommand, short_help="Show what goes in and out of queues, live.")
@click.argument("names", metavar="[NAME]...", nargs=-1, type=_QueueName())
@click.option(
    "--interval",
    type=Seconds(min=0.01),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--count", type=click.IntRange(min=1), help="Show the figures so often, then end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, once, after one interval.")
def top(names: tuple[str, ...], interval: float, count: int | None, as_json: bool) -> None:
    """Show how many items are in queues, and how many go in and out, until Ctrl-C.

    WAITING says whether a put or a get may be blocked. Without a terminal each look is printed as lines.
    """
    from shmqueue.cli.top import run_top

    run_top(names, interval=interval, count=count, as_json=as_json)


@commands.command(
    cls=QueueCommand, short_help="Put items.", context_settings={"ignore_unknown_options": True}
)  # negative numbers are no options
@_name_argument
@click.argument("values", metavar="VALUE...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--text", "form", flag_value="text", help="Each value is a string, not JSON.")
@click.option("--bytes", "form", flag_value="bytes", help="Each value is bytes, not JSON.")
@click.option(
    "--timeout",
    type=Seconds(min=0),
    metavar="SECONDS",
    help="Longest time to wait for room; no limit by default.",
)
@click.option("--wait", is_flag=True, help="Make the queue if there is none, and keep it open until it is empty.")
@click.option("--keep", is_flag=True, help="Make the queue if there is none, one that stays until rm removes it.")
@_room_options
def put(
    name: str,
    values: tuple[str, ...],
    form: str | None,
    timeout: float | None,
    wait: bool,
    keep: bool,
    buffer_size: int | None,
    max_bytes: int | None,
) -> None:
    """Put JSON values, all of them or none if they fit the queue together.

    With - as the only value it reads standard input, one item a line, and puts each as it comes.

    There must be a queue of that name, unless --wait or --keep makes it. If no other process has it open the items
    stay in it until one opens it.
    """
    parse = _FORMS[form]
    room = _room(buffer_size, max_bytes)
    if values == ("-",):
        if sys.stdin is None:
            raise Failure("standard input is closed")
        items_of_input = conversion.items_of_lines(iter(sys.stdin.buffer), parse)
        transfer.put_items(name, items_of_input, wait=wait, keep=keep, timeout=timeout, room=room)
        return
    try:
        items = [parse(os.fsencode(value)) for value in values]
    except ValueError as error:
        raise Failure(one_line(error), Exit.USAGE) from error
    transfer.put_items(name, items, wait=wait, keep=keep, timeout=timeout, room=room)


@commands.command(cls=QueueCommand, short_help="Take items and print them as JSON.")
@_name_argument
@click.option("--count", type=click.IntRange(min=1), help="How many items to take; 1 by default.")
@click.option("--follow", is_flag=True, help="Take items until Ctrl-C.")
@click.option(
    "--timeout",
    type=Seconds(min=0),
    metavar="SECONDS",
    help="Longest time to wait for an item; no limit by default.",
)
@_no_pickle_option
@click.option("--skip", is_flag=True, help="Drop items that cannot be loaded, and say so.")
@_room_options
def get(
    name: str,
    count: int | None,
    follow: bool,
    timeout: float | None,
    no_pickle: bool,
    skip: bool,
    buffer_size: int | None,
    max_bytes: int | None,
) -> None:
    """Take items and print each as a line of JSON.

    Makes the queue if there is none, and waits. What JSON cannot express is printed as {"repr": "..."}.

    An item is taken when it can be printed: when the reader of a pipe has read the line before and waits for more. One
    that cannot be loaded stays in the queue. If the reader closes the pipe with a line unread, that item goes back, to
    the end of the queue.

    If no other process has the queue open, the items that this command leaves stay until one opens it.
    """
    if follow and count is not None:
        raise click.UsageError("--count and --follow exclude each other")
    transfer.get_items(
        name,
        count=None if follow else count or 1,
        timeout=timeout,
        allow_pickle=not no_pickle,
        skip=skip,
        room=_room(buffer_size, max_bytes),
    )


@commands.command(cls=QueueCommand, short_help="Print the oldest item and leave it in the queue.")
@_name_argument
@click.option(
    "--timeout",
    type=Seconds(min=0),
    default=0.0,
    show_default=True,
    metavar="SECONDS",
    help="Time to wait for an item.",
)
@_no_pickle_option
def peek(name: str, timeout: float, no_pickle: bool) -> None:
    """Print the oldest item as a line of JSON, and leave it in the queue."""
    transfer.peek_item(name, timeout=timeout, allow_pickle=not no_pickle)


@commands.command(cls=QueueCommand, short_help="Drop all items of a queue.")
@_name_argument
def clear(name: str) -> None:
    """Drop all items of a queue, and print how many there were.

    Items that living processes have leased stay theirs. A queue that no process has open stays, empty.
    """
    click.echo(transfer.clear_queue(name))


@commands.command(cls=QueueCommand, short_help="Remove queues.")
@click.argument("names", metavar="[NAME]...", nargs=-1, type=_QueueName())
@click.option("--orphans", is_flag=True, help="Remove all queues that no process has open, with their items.")
def rm(names: tuple[str, ...], orphans: bool) -> None:
    """Remove the names of queues, corrupted ones included.

    Processes that have such a queue open go on with it; the next one to use the name makes a new queue. Queues made
    with --keep are no orphans. --orphans also removes files that belong to no queue, such as stray lock files.
    """
    if bool(names) == orphans:
        raise click.UsageError("give the names of queues, or --orphans")
    if orphans:
        strays = inspection.remove_strays()  # before: an orphan's own lock file goes with it
        output.print_removed(inspection.remove_orphans(), strays)
        return
    failures = []
    for name in names:
        try:
            inspection.remove_queue(name)
        except ShmQueueError as error:
            failures.append(error)
    for failure in failures[:-1]:
        complain(f"Error: {one_line(failure)}")
    if failures:
        raise Failure(one_line(failures[-1]), exit_status_of(failures[-1]))


@commands.command(short_help="Show what is wrong with the installation, if anything.")
@click.option("--sweep", is_flag=True, help="First remove the orphans, as rm --orphans.")
@_json_option
@click.pass_context
def doctor(ctx: click.Context, sweep: bool, as_json: bool) -> None:
    """Show which engine new queues get and why, where queues are, and what is wrong.

    Something wrong: no native engine where there could be one, a directory that takes no file, little memory, queues
    that cannot be opened. The exit status is 3 then. Orphans, which other programs have left, are only noted.
    """
    from shmqueue.cli import installation

    findings = installation.examine_installation(sweep)
    if as_json:
        output.print_json(findings)
    else:
        output.print_doctor(findings)
    if findings.warnings:
        ctx.exit(Exit.FAILURE)
