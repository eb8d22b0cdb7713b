"""Factories for other packages' queues whose constructors are not those of the standard queues, to name as targets."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["faster_fifo"]

_BUFFER = 1 << 20  # bytes


def faster_fifo(maxsize: int = 0) -> Any:
    """A queue of the package faster-fifo; its buffer has a fixed size, and its default timeout is 10 seconds."""
    module = importlib.import_module("faster_fifo")
    return module.Queue(max_size_bytes=_BUFFER, **({"maxsize": maxsize} if maxsize > 0 else {}))
