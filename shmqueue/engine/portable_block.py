"""The portable engine's lock where there is no flock: a shmlock lock, which is a named block of shared memory.

``portable_lock`` says what such a lock cannot do.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

from shmlock import ShmLock, remove_shm_from_resource_tracker
from shmlock.shmlock_exceptions import ShmLockRuntimeError

from shmqueue.engine.portable_lock import BLOCK

__all__ = ["Block"]

# The resource tracker of multiprocessing would remove the block of a living owner when another process exits.
if sys.version_info < (3, 13):
    remove_shm_from_resource_tracker(BLOCK, print_warning=False)

# On Ctrl-C shmlock warns of a block that it may have left. The system removes it with the process: nothing to warn of.
warnings.filterwarnings("ignore", message=rf"KeyboardInterrupt: process interrupted .*{BLOCK}")


class Block(ShmLock):  # type: ignore[misc, unused-ignore]
    """A shmlock lock that may be forgotten in a forked child, or after a signal handler has raised in ``release``.

    In both cases there is nothing left for it to do, and shmlock would complain. What a handler raises comes out as it
    is, and not as shmlock's opinion of it.
    """

    def __init__(self, name: str) -> None:
        self._owner_pid = os.getpid()
        super().__init__(name, **({"track": False} if sys.version_info >= (3, 13) else {}))

    def release(self, force: bool = False) -> bool:
        if self._owner_pid != os.getpid():
            return False
        try:
            return bool(super().release(force))
        except BaseException as error:
            self._owner_pid = -1
            _interrupted.append(self)
            if isinstance(error, ShmLockRuntimeError) and error.__cause__ is not None:
                raise error.__cause__ from None
            raise

    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if not is_finalizing():  # as portable_lock.Owner
            super().__del__()


# SharedMemory.close(), interrupted right after it closed its descriptor, closes it again when the object goes, and by
# then that number may be somebody else's descriptor. So these objects stay.
_interrupted: list[Block] = []
