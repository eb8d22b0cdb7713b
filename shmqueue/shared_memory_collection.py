"""Names that programs written for PyPI's shmqueue import from this place. New programs take them from ``shmqueue``."""

from __future__ import annotations

import enum

from shmqueue.engine import RECORD_HEADER_SIZE as SIZE_HEADER
from shmqueue.segment import SYSTEM_PAGESIZE
from shmqueue.serialization import SerializationMethods

__all__ = ["SIZE_HEADER", "SYSTEM_PAGESIZE", "DebugRefLogAction", "SerializationMethods"]


class DebugRefLogAction(enum.Enum):
    """``shmqueue.DebugRefLogAction`` as it was there: without ``ATTACH``."""

    CREATE = "create"
    SHUTDOWN = "shutdown"
