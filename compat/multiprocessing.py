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

TYPE_CHECKING = False
if TYPE_CHECKING:
    from multiprocessing import *  # noqa: F403
    from typing import Any

    from ._queues import JoinableQueue as JoinableQueue
    from ._queues import Queue as Queue
    from ._queues import SimpleQueue as SimpleQueue

__all__ = list(_standard.__all__)

globals().update({name: getattr(_default_context, name) for name in __all__})


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
