"""Every error that shmqueue raises, each also an instance of the standard exception that a caller may be catching.

Closed (``ShmQueueNotInitializedError``), broken (``ShmQueueCorruptedError``) and would-block (``ShmQueueEmpty``,
``ShmQueueFull``) are three different things and never share a class below ``ShmQueueError``.
"""

from __future__ import annotations

import pickle
import queue
import sys
from collections.abc import Sequence
from typing import Any

__all__ = [
    "PortableEngineWarning",
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
    "ShutDown",
]


if sys.version_info >= (3, 13):
    from queue import ShutDown
else:

    class ShutDown(Exception):
        """Stands in for ``queue.ShutDown``, which came with Python 3.13."""


class ShmQueueError(Exception):
    """The base of all errors of this package.

    ``items_put`` is how many items of a ``put_many`` were put before it failed, 0 elsewhere. Other exceptions that end
    a ``put_many`` which has put a part (KeyboardInterrupt) have it as well.
    """

    items_put: int = 0


class ShmQueueEmpty(ShmQueueError, queue.Empty):
    """There was nothing to get in the time that the caller allowed.

    ``is_busy``: there may be something, but another process has the consumers' lock.
    """

    is_busy: bool = False


class ShmQueueFull(ShmQueueError, queue.Full):
    """There was no room in the time that the caller allowed.

    ``is_busy``: there may be room, but another process has the producers' lock.
    """

    is_busy: bool = False

    def __init__(self, *args: object, items_put: int = 0) -> None:
        super().__init__(*args)
        self.items_put = items_put


class ShmQueueShutDown(ShmQueueError, ShutDown):
    """The queue was shut down for all processes: puts are refused, and there is nothing left to get."""


class ShmQueueValueError(ShmQueueError, ValueError):
    """An argument has the right type and an impossible value, or an item can never fit."""


class ShmQueueTypeError(ShmQueueError, TypeError):
    """An argument has the wrong type."""


class ShmQueueNotInitializedError(ShmQueueError, RuntimeError):
    """The handle was closed before the call, with ``close()`` or ``shutdown()``."""


class ShmQueueClosedError(ShmQueueNotInitializedError, ValueError, OSError):
    """What is raised then: also what the standard queues raise when they are closed, so that no adapter translates it.

    Properties of a closed queue raise one that is an AttributeError instead, which no OSError can be.
    """


class ShmQueueBrokerError(ShmQueueError, ConnectionError):
    """The broker could not be reached, or refused; see ``shmqueue.connect``.

    Also, on ``shm://`` for kombu: another process did not end its change of what is declared in time.
    """


class ShmQueueUnsupportedError(ShmQueueError, NotImplementedError):
    """A broker cannot do this; ``ShmQueue`` can."""


class ShmQueueSerializationError(ShmQueueError, pickle.PicklingError):
    """An item could not be turned into bytes; nothing was put."""


class ShmQueueDeserializationError(ShmQueueError, pickle.UnpicklingError):
    """An item could not be turned back into an object; it is consumed, those behind it are not affected.

    ``items`` are those that a ``get_many`` could load beside it, in order; empty elsewhere.
    """

    def __init__(self, *args: object, items: Sequence[Any] = ()) -> None:
        super().__init__(*args)
        self.items = list(items)


class ShmQueueNoSerializerError(ShmQueueSerializationError, NotImplementedError):
    """An item was put with a serialization method of the caller's own, and ``custom_serialize()`` was not called."""


class ShmQueueNoDeserializerError(ShmQueueDeserializationError, NotImplementedError):
    """An item came with a serialization method that has no function here; it is consumed."""


class ShmQueueExistsError(ShmQueueError, FileExistsError):
    """``create=True`` and a queue of that name is in use."""


class ShmQueueNotFoundError(ShmQueueError, FileNotFoundError):
    """``create=False`` and there is no queue of that name, or not the one that was meant."""


class ShmQueueRefusedError(ShmQueueError, PermissionError):
    """What lies at the queue's path is not a segment that this process may or can use."""


class ShmQueueNoSpaceError(ShmQueueError, OSError):
    """The file system that holds the segments has not enough memory left, or this process may not have so much."""


class ShmQueueCorruptedError(ShmQueueError, RuntimeError):
    """The bytes in shared memory contradict themselves; this handle does not touch them any more."""


class PortableEngineWarning(RuntimeWarning):
    """The compiled engine is missing, so queues are slower than they should be."""


class ShmQueueShapeWarning(UserWarning):
    """An existing queue was opened with another ``buffer_size``, ``max_bytes`` or ``maxsize`` than it has."""


# ---- names of the package of this name on PyPI, for programs that were written for it ----

ShmQueueException = ShmQueueError


class ShmQueueRuntimeError(ShmQueueError, RuntimeError):
    """Not raised by this package: programs written for PyPI's shmqueue import it."""


class ShmQueueBufferOverflow(ShmQueueError, OverflowError):
    """Not raised by this package: programs written for PyPI's shmqueue import it."""
