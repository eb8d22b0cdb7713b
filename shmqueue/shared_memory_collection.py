"""Names that programs written for PyPI's shmqueue import from this place. New programs take them from ``shmqueue``."""

from __future__ import annotations

from shmqueue.engine import RECORD_HEADER_SIZE as SIZE_HEADER
from shmqueue.reflog import DebugRefLogAction
from shmqueue.segment import SYSTEM_PAGESIZE
from shmqueue.serialization import SerializationMethods

__all__ = ["SIZE_HEADER", "SYSTEM_PAGESIZE", "DebugRefLogAction", "SerializationMethods"]
