"""A queue between processes, in shared memory, opened by name.

>>> import shmqueue
>>> q = shmqueue.ShmQueue("jobs")
>>> q.put({"hello": "world"})
>>> q.get()
{'hello': 'world'}
>>> q.shutdown()

Names are loaded when they are first used: a program that only imports ``shmqueue.compat.multiprocessing`` pays for
queues when it makes one.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # importing typing takes as long as importing half of multiprocessing
if TYPE_CHECKING:
    from typing import Any

    from shmqueue import exceptions
    from shmqueue.broker import connect
    from shmqueue.engine import RECORD_HEADER_SIZE as SIZE_HEADER
    from shmqueue.exceptions import (
        PortableEngineWarning,
        ShmQueueBrokerError,
        ShmQueueBufferOverflow,
        ShmQueueClosedError,
        ShmQueueCorruptedError,
        ShmQueueDeserializationError,
        ShmQueueEmpty,
        ShmQueueError,
        ShmQueueException,
        ShmQueueExistsError,
        ShmQueueFull,
        ShmQueueNoDeserializerError,
        ShmQueueNoSerializerError,
        ShmQueueNoSpaceError,
        ShmQueueNotFoundError,
        ShmQueueNotInitializedError,
        ShmQueueRefusedError,
        ShmQueueRuntimeError,
        ShmQueueSerializationError,
        ShmQueueShapeWarning,
        ShmQueueShutDown,
        ShmQueueTypeError,
        ShmQueueUnsupportedError,
        ShmQueueValueError,
    )
    from shmqueue.leases import Lease
    from shmqueue.protocols import AsyncQueue, SyncQueue
    from shmqueue.queue import ShmQueue, ShmRefDataSnapshot
    from shmqueue.reflog import DebugRefLogAction
    from shmqueue.segment import SYSTEM_PAGESIZE
    from shmqueue.serialization import SerializationMethods
    from shmqueue.statistics import Statistics

__version__ = "0.1.0"

__all__ = [
    "SIZE_HEADER",
    "SYSTEM_PAGESIZE",
    "AsyncQueue",
    "DebugRefLogAction",
    "Lease",
    "PortableEngineWarning",
    "SerializationMethods",
    "ShmQueue",
    "ShmQueueBrokerError",
    "ShmQueueBufferOverflow",
    "ShmQueueClosedError",
    "ShmQueueCorruptedError",
    "ShmQueueDeserializationError",
    "ShmQueueEmpty",
    "ShmQueueError",
    "ShmQueueException",
    "ShmQueueExistsError",
    "ShmQueueFull",
    "ShmQueueNoDeserializerError",
    "ShmQueueNoSerializerError",
    "ShmQueueNoSpaceError",
    "ShmQueueNotFoundError",
    "ShmQueueNotInitializedError",
    "ShmQueueRefusedError",
    "ShmQueueRuntimeError",
    "ShmQueueSerializationError",
    "ShmQueueShapeWarning",
    "ShmQueueShutDown",
    "ShmQueueTypeError",
    "ShmQueueUnsupportedError",
    "ShmQueueValueError",
    "ShmRefDataSnapshot",
    "Statistics",
    "SyncQueue",
    "connect",
    "exceptions",
]

_ELSEWHERE = {
    "SYSTEM_PAGESIZE": "segment",
    "SIZE_HEADER": "shared_memory_collection",
    "DebugRefLogAction": "reflog",
    "SerializationMethods": "serialization",
    "AsyncQueue": "protocols",
    "Lease": "leases",
    "connect": "broker",
    "ShmQueue": "queue",
    "ShmRefDataSnapshot": "queue",
    "Statistics": "statistics",
    "SyncQueue": "protocols",
}
_SUBMODULES = (
    "broker",
    "compat",
    "engine",
    "exceptions",
    "queue",
    "segment",
    "serialization",
    "shared_memory_collection",
)


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"shmqueue.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'shmqueue' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"shmqueue.{_ELSEWHERE.get(name, 'exceptions')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
