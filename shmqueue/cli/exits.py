"""Exit statuses: what a script learns of how a command ended."""

from __future__ import annotations

import enum

import click

from shmqueue import (
    ShmQueueCorruptedError,
    ShmQueueDeserializationError,
    ShmQueueEmpty,
    ShmQueueFull,
    ShmQueueNoSpaceError,
    ShmQueueNotFoundError,
    ShmQueueRefusedError,
    ShmQueueSerializationError,
    ShmQueueShutDown,
)

__all__ = ["EXIT_STATUSES", "Exit", "Failure", "exit_status_of", "one_line"]


class Exit(enum.IntEnum):
    """The exit statuses of all commands."""

    DONE = 0
    EMPTY = 1
    FULL = 2
    FAILURE = 3
    NOT_FOUND = 4
    UNUSABLE = 5
    ITEM = 6
    SHUT_DOWN = 7
    USAGE = 64
    INTERRUPTED = 130
    PIPE_CLOSED = 141


EXIT_STATUSES = {
    Exit.DONE: "done",
    Exit.EMPTY: "the queue is empty: no item came in time",
    Exit.FULL: "the queue is full: no room came in time",
    Exit.FAILURE: "any other failure; of doctor: something is wrong",
    Exit.NOT_FOUND: "there is no queue of that name",
    Exit.UNUSABLE: "the queue cannot be used: refused, corrupted, or no memory",
    Exit.ITEM: "an item cannot be put or cannot be loaded",
    Exit.SHUT_DOWN: "the queue was shut down for all processes",
    Exit.USAGE: "wrong arguments",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
    Exit.PIPE_CLOSED: "the reader of standard output closed it",
}
"""What each one means, for the help."""

_BY_ERROR: tuple[tuple[type[BaseException], Exit], ...] = (
    (ShmQueueEmpty, Exit.EMPTY),
    (ShmQueueFull, Exit.FULL),
    (ShmQueueShutDown, Exit.SHUT_DOWN),
    (ShmQueueNotFoundError, Exit.NOT_FOUND),
    (ShmQueueRefusedError, Exit.UNUSABLE),
    (ShmQueueCorruptedError, Exit.UNUSABLE),
    (ShmQueueNoSpaceError, Exit.UNUSABLE),
    (ShmQueueSerializationError, Exit.ITEM),
    (ShmQueueDeserializationError, Exit.ITEM),
)


class Failure(click.ClickException):
    """Ends the command with one line on standard error and this exit status."""

    def __init__(self, message: str, status: Exit = Exit.FAILURE) -> None:
        super().__init__(message)
        self.exit_code = int(status)  # type: ignore[misc, unused-ignore]


def exit_status_of(error: BaseException) -> Exit:
    """The exit status that stands for an error."""
    return next((status for kind, status in _BY_ERROR if isinstance(error, kind)), Exit.FAILURE)


def one_line(error: BaseException) -> str:
    """What an error says, on one line and without its number."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    return " ".join(text.split()) or type(error).__name__
