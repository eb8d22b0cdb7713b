"""Items between a shell and a queue: JSON values in, lines of JSON out."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from shmqueue import ShmQueue, ShmQueueDeserializationError, ShmQueueEmpty, ShmQueueError, engine, segment
from shmqueue.cli.inspection import can_see_holders, one_line

__all__ = ["get_items", "parse_json", "put_items", "to_json"]

_EMPTY_POLL = 0.02  # seconds: nothing wakes who waits for a queue to run empty


def parse_json(text: str) -> Any:
    """The value that ``text`` is in JSON; NaN and the infinities, which Python's reader would take, are none.

    Raises:
        click.ClickException: it is not exactly one JSON value.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        hint = """; a string needs its own quotes: '"text"'""" if text.isidentifier() else ""
        raise click.ClickException(f"not a JSON value: {text!r} ({one_line(error)}){hint}") from error


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def to_json(item: Any) -> str:
    """An item as one line of JSON; ``{"repr": ...}`` of what JSON cannot express. A tuple becomes an array."""
    try:
        if _is_json(item):
            return json.dumps(item)
    except RecursionError:
        pass
    try:
        text = repr(item)
    except Exception as error:  # the item's own code: it is taken already, so say at least what it was
        text = f"<{type(item).__name__}, whose repr() fails: {error}>"
    return json.dumps({"repr": text})


def _is_json(item: Any) -> bool:
    if isinstance(item, float):
        return math.isfinite(item)
    if isinstance(item, dict):
        return all(isinstance(key, str) and _is_json(value) for key, value in item.items())
    if isinstance(item, (list, tuple)):
        return all(map(_is_json, item))
    return item is None or isinstance(item, (int, str))


def put_items(name: str, items: Sequence[Any], *, wait: bool, buffer_size: int | None) -> None:
    """Put the items, in one piece if they fit the queue together.

    Args:
        wait: whether to hold the queue, and make it if need be, until it is empty.
        buffer_size: bytes for items if the queue is made; None, it grows.

    Raises:
        click.ClickException: nobody holds the queue, and ``wait`` is False.
    """
    if not wait and can_see_holders() and not segment.holders_of(segment.path_of(name)):
        raise click.ClickException(
            f"nobody holds queue {name!r}: the items would be gone when this command ends; "
            "use --wait to keep it open until they are taken"
        )
    _use_engine_of(name)
    with ShmQueue(name, create=None if wait else False, buffer_size=buffer_size) as queue:
        queue.set_console_handlers()
        queue.put_many(items)
        if wait:
            while not queue.empty():
                time.sleep(_EMPTY_POLL)
        elif _left_alone_with_items(queue):
            raise click.ClickException(
                f"the last holder of queue {name!r} left: its {queue.qsize()} items are gone; "
                "use --wait to keep it open until they are taken"
            )


def get_items(
    name: str,
    *,
    count: int | None,
    timeout: float | None,
    allow_pickle: bool,
    buffer_size: int | None,
    show: Callable[[str], None],
    complain: Callable[[str], None],
) -> None:
    """Take items and show each as one line of JSON.

    Args:
        count: how many items, None to go on for ever.
        timeout: seconds to wait for each item, None for ever.
        buffer_size: bytes for items if the queue is made; None, it grows.
        show: gets the lines.
        complain: gets what the user should know and what is no error.

    Raises:
        click.ClickException: an item did not come in time.
    """
    _use_engine_of(name)
    with ShmQueue(name, allow_pickle=allow_pickle, buffer_size=buffer_size) as queue:
        queue.set_console_handlers()
        taken = 0
        while count is None or taken < count:
            try:
                item = queue.get(timeout=timeout)
            except ShmQueueEmpty as error:
                raise click.ClickException(one_line(error)) from error
            except ShmQueueDeserializationError as error:
                if count is not None:
                    raise
                complain(one_line(error))  # it is consumed and does not block those behind it
                continue
            taken += 1
            show(to_json(item))
        if _left_alone_with_items(queue):
            complain(f"nobody else holds queue {name!r}: its other {queue.qsize()} items go with this command")


def _use_engine_of(name: str) -> None:
    """Let this process use the engine of an existing queue: the programs that share it have chosen already."""
    try:
        name_of_engine = segment.read_header(segment.path_of(name)).shape.engine
    except ShmQueueError:
        return  # opening it will say what is wrong, if anything is
    if name_of_engine == "portable" or engine.REASON is None:
        os.environ["SHMQUEUE_ENGINE"] = name_of_engine


def _left_alone_with_items(queue: ShmQueue) -> bool:
    if not can_see_holders() or queue.empty():
        return False
    return set(segment.holders_of(segment.path_of(queue.identifier))) <= {os.getpid()}
