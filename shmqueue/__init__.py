"""A queue between processes, in shared memory, opened by name.

>>> import shmqueue
>>> q = shmqueue.ShmQueue("jobs")
>>> q.put({"hello": "world"})
>>> q.get()
{'hello': 'world'}
>>> q.shutdown()
"""

from shmqueue import exceptions
from shmqueue.exceptions import (
    PortableEngineWarning,
    ShmQueueCorruptedError,
    ShmQueueDeserializationError,
    ShmQueueEmpty,
    ShmQueueError,
    ShmQueueExistsError,
    ShmQueueFull,
    ShmQueueNoSpaceError,
    ShmQueueNotFoundError,
    ShmQueueNotInitializedError,
    ShmQueueRefusedError,
    ShmQueueSerializationError,
    ShmQueueTypeError,
    ShmQueueValueError,
)
from shmqueue.queue import ShmQueue, ShmRefDataSnapshot, Statistics
from shmqueue.reflog import DebugRefLogAction
from shmqueue.segment import SYSTEM_PAGESIZE
from shmqueue.serialization import SerializationMethods

__version__ = "0.1.0"

__all__ = [
    "SYSTEM_PAGESIZE",
    "DebugRefLogAction",
    "PortableEngineWarning",
    "SerializationMethods",
    "ShmQueue",
    "ShmQueueCorruptedError",
    "ShmQueueDeserializationError",
    "ShmQueueEmpty",
    "ShmQueueError",
    "ShmQueueExistsError",
    "ShmQueueFull",
    "ShmQueueNoSpaceError",
    "ShmQueueNotFoundError",
    "ShmQueueNotInitializedError",
    "ShmQueueRefusedError",
    "ShmQueueSerializationError",
    "ShmQueueTypeError",
    "ShmQueueValueError",
    "ShmRefDataSnapshot",
    "Statistics",
    "exceptions",
]
