"""What the queue classes of all adapters have: how they are opened, pickled, and described."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from shmqueue.any_queue import AnyQueue
from shmqueue.channel import Channel, Codec
from shmqueue.exceptions import ShmQueueValueError
from shmqueue.handle import Handle, open_handle
from shmqueue.serialization import PickleSerializer

from ._absent import ListsWhatIsThere

__all__ = ["Adapter", "refuse_text"]


def refuse_text(maxsize: object) -> None:
    """Refuse a queue's name where its ``maxsize`` is expected.

    Raises:
        TypeError: it is one.
    """
    if isinstance(maxsize, (str, bytes)):
        raise TypeError(f"maxsize must be a number, not {maxsize!r}: a queue's name is given as name={maxsize!r}")


class Adapter(AnyQueue, ListsWhatIsThere):
    """A queue that stands in for one of the standard library's."""

    _codec: ClassVar[Codec] = PickleSerializer()
    _channel_type: ClassVar[type[Channel]] = Channel

    def _open(
        self,
        name: str | None,
        *,
        maxsize: int | None = None,
        max_bytes: int | None = None,
        threshold: int = 0,
        keep: bool = False,
    ) -> None:
        """Use a queue of a private name, or the one called ``name``, which may exist; else as for ``open_handle``.

        Raises:
            ShmQueueValueError: ``keep`` without a name, by which the queue could be opened again.
        """
        is_private = name is None
        if is_private and keep:
            raise ShmQueueValueError("keep=True needs a name: a queue without one can never be opened again")
        handle = open_handle(
            f"unnamed-{os.getpid()}-{os.urandom(8).hex()}" if name is None else name,
            max_bytes=max_bytes,
            maxsize=maxsize,
            threshold=threshold,
            create=True if is_private else None,
            keep=keep,
            private=is_private,
        )
        self._start(self._channel_type(handle, self._codec))

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (type(self),), self.__getstate__()

    def __getstate__(self) -> Any:
        """What travels. A subclass may send more along, and takes its own out in ``__setstate__``."""
        return self._channel.handle.travel()

    def __setstate__(self, state: Any) -> None:
        self._start(self._channel_type(Handle.arrive(state), self._codec))

    def __repr__(self) -> str:
        kind, handle = type(self), self._channel.handle
        state = ", vanished" if handle.missing is not None else ""
        return f"<{kind.__module__}.{kind.__qualname__} {handle.name!r}{state}>"


def _new(queue_type: type[Adapter]) -> Adapter:
    return queue_type.__new__(queue_type)
