"""What all commands have in common: exit statuses, errors of one line, Ctrl-C, and text that any terminal can show."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from shmqueue import ShmQueueError
from shmqueue.cli.exits import EXIT_STATUSES, Exit, Failure, exit_status_of, one_line
from shmqueue.cli.signals import Terminated

__all__ = ["Commands", "QueueCommand", "complain"]


class Commands(click.Group):
    """The group that runs the commands. ``elsewhere``: those that are imported when they are asked for, and where."""

    def __init__(self, *args: Any, elsewhere: dict[str, str], **extra: Any) -> None:
        super().__init__(*args, **extra)
        self._elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._elsewhere:
            command: click.Command = getattr(importlib.import_module(self._elsewhere[cmd_name]), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **extra: Any) -> Any:
        if sys.stdout is None:
            sys.stdout = _ClosedOutput()
        _show_everything()
        return super().main(*args, **extra)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _exit_statuses():  # this prints the help
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        warnings.showwarning = _show_warning
        with _exit_statuses():
            return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        _write_exit_statuses(formatter)


class QueueCommand(click.Command):
    """A command that uses queues; its help has the exit statuses."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        _write_exit_statuses(formatter)


def _write_exit_statuses(formatter: click.HelpFormatter) -> None:
    with formatter.section("Exit statuses"):
        formatter.write_dl([(str(int(status)), meaning) for status, meaning in EXIT_STATUSES.items()])


class _ClosedOutput(io.TextIOBase):
    """Stands for standard output that was closed when the process began: a command that prints fails."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return False

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "standard output is closed")


@contextmanager
def _exit_statuses() -> Iterator[None]:
    """Whatever ends the command ends it with the exit status that stands for it, and one line if it is an error."""
    try:
        try:
            yield
        finally:
            _flush()
    except click.UsageError as error:
        error.exit_code = int(Exit.USAGE)  # type: ignore[misc, unused-ignore]
        raise
    except Failure:
        raise
    except click.ClickException as error:
        error.exit_code = int(Exit.FAILURE)  # type: ignore[misc, unused-ignore]
        raise
    except KeyboardInterrupt:
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None
    except BrokenPipeError:
        _discard_output()
        raise click.exceptions.Exit(Exit.PIPE_CLOSED) from None
    except Terminated as ended:
        ended.end_process()
        raise click.exceptions.Exit(128 + ended.number) from None
    except (ShmQueueError, OSError) as error:
        if not isinstance(error, ShmQueueError):
            _discard_output()  # it may be standard output that failed, which would fail again at the end
        raise Failure(one_line(error), exit_status_of(error)) from error


def _show_everything() -> None:
    """What a terminal's encoding does not have is shown as an escape sequence."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _show_warning(message: Warning | str, *details: object, **more: object) -> None:
    complain(f"Warning: {message}")


def complain(text: str) -> None:
    """Tell the user something that is not a result."""
    click.echo(text, err=True)


def _flush() -> None:
    if sys.stdout is not None:
        sys.stdout.flush()


def _discard_output() -> None:
    """Have the interpreter flush at its end what could not be written into nothing."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass
