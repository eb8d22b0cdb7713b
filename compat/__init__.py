"""Stand-ins for the standard library's queues, in shared memory, and the switch that puts them in their place.

``shmqueue.compat.queue`` and ``shmqueue.compat.multiprocessing`` are named after the modules they stand in for: a
program changes an import line. ``install()`` changes ``multiprocessing`` itself, and ``python -m shmqueue.compat`` does
that for a program that is not changed at all.
"""

from __future__ import annotations

__all__ = ["install", "uninstall"]


def install() -> None:
    """Make ``multiprocessing``'s Queue, JoinableQueue and SimpleQueue, of every context, those of this package.

    Processes started afterwards have it too, whatever their start method. What ``from multiprocessing import Queue``
    bound before does not change, nor do the classes in ``multiprocessing.queues``. Idempotent.
    """
    from ._install import install

    install()


def uninstall() -> None:
    """Undo ``install()``. Existing queues do not change. Idempotent."""
    from ._install import uninstall

    uninstall()
