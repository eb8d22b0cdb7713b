"""Factories for other packages' queues whose constructors are not those of the standard queues, to name as targets."""

from __future__ import annotations

import importlib
import os
from typing import Any

__all__ = ["connected", "faster_fifo"]

_BUFFER = 1 << 20  # bytes


def faster_fifo(maxsize: int = 0) -> Any:
    """A queue of the package faster-fifo; its buffer has a fixed size, and its default timeout is 10 seconds."""
    module = importlib.import_module("faster_fifo")
    return module.Queue(max_size_bytes=_BUFFER, **({"maxsize": maxsize} if maxsize > 0 else {}))


def connected(name: str) -> Any:
    """A queue by a URL: that of the environment variable CONFORMANCE_URL, in which ``{}`` is the queue's name."""
    return importlib.import_module("shmqueue").connect(os.environ["CONFORMANCE_URL"].format(name), allow_pickle=True)
