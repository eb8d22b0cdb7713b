"""``multiprocessing`` with its queues in shared memory; all else is the standard module's.

>>> from shmqueue.compat import multiprocessing as mp
>>> q = mp.Queue()
>>> q.put({"hello": "world"})
>>> q.get()
{'hello': 'world'}

Queue, JoinableQueue and SimpleQueue are this package's, here and on the contexts that ``get_context`` gives. They take
a ``name``, by which any process can open them. What differs: an object that cannot be pickled raises in ``put``, where
the standard queue loses it; an item is in the queue when ``put`` returns, so there is no thread to join; ``qsize`` and
``full`` raise ValueError after ``close``, as put and get do.
A put or get that is patched into the classes of ``multiprocessing.queues`` is not called: patch ``type(queue)``.
"""

from __future__ import annotations

import importlib
import multiprocessing as _standard

from ._contexts import default_context as _default_context
from ._contexts import makers as _makers

TYPE_CHECKING = False
if TYPE_CHECKING:  # one by one: what a star brings keeps the types that it has there
    from multiprocessing import (
        Array,
        AuthenticationError,
        Barrier,
        BoundedSemaphore,
        BufferTooShort,
        Condition,
        Event,
        Lock,
        Manager,
        Pipe,
        Pool,
        Process,
        ProcessError,
        RawArray,
        RawValue,
        RLock,
        Semaphore,
        TimeoutError,
        Value,
        active_children,
        allow_connection_pickling,
        cpu_count,
        current_process,
        freeze_support,
        get_all_start_methods,
        get_logger,
        get_start_method,
        log_to_stderr,
        parent_process,
        reducer,
        set_executable,
        set_forkserver_preload,
        set_start_method,
    )
    from typing import Any

    from ._queues import JoinableQueue, Queue, SimpleQueue

    get_context = _default_context.get_context

    __all__ = [
        "Array",
        "AuthenticationError",
        "Barrier",
        "BoundedSemaphore",
        "BufferTooShort",
        "Condition",
        "Event",
        "JoinableQueue",
        "Lock",
        "Manager",
        "Pipe",
        "Pool",
        "Process",
        "ProcessError",
        "Queue",
        "RLock",
        "RawArray",
        "RawValue",
        "Semaphore",
        "SimpleQueue",
        "TimeoutError",
        "Value",
        "active_children",
        "allow_connection_pickling",
        "cpu_count",
        "current_process",
        "freeze_support",
        "get_all_start_methods",
        "get_context",
        "get_logger",
        "get_start_method",
        "log_to_stderr",
        "parent_process",
        "reducer",
        "set_executable",
        "set_forkserver_preload",
        "set_start_method",
    ]
else:
    __all__ = list(_standard.__all__)

globals().update({name: getattr(_default_context, name) for name in __all__})
globals().update({maker.__name__: maker for maker in _makers(__name__)})


def __getattr__(name: str) -> Any:
    """What the standard module has beside its public names, its submodules among them."""
    if hasattr(_standard, name):
        return getattr(_standard, name)
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"multiprocessing.{name}")
        except ModuleNotFoundError:
            pass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(_standard)})
