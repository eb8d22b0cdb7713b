"""The queue classes that are put side by side, and how each is made and driven.

Every one is driven by processes that are forked, as two ends: a put and a get of one item, which wait as long as it
takes. Items are bytes, for some know nothing else.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers import PEERS as ADAPTERS
from peers.interface import Driver, Plan, Sender

__all__ = ["LEFT_OUT", "OURS", "PEERS", "STANDARD", "Peer"]

CAPACITY = 1 << 20  # bytes, where a queue has a size

LEFT_OUT = {
    "shmqueue 0.0.2": "its import name is ours",
    "membridge": "its queue is for one producer and one consumer",
    "iceoryx2": "publish and subscribe: each consumer gets every item, so none is another one's",
    "pyzmq": "each consumer has a socket of its own: what was sent to a killed one is for no other",
}
"""Packages that cannot be treated like this, and why."""

Make = Callable[[Path], Any]
End = Callable[[Any, int], Callable[..., Any]]


def _put_of(queue: Any, worker: int) -> Callable[..., Any]:
    put: Callable[..., Any] = queue.put
    return put


def _get_of(queue: Any, worker: int) -> Callable[..., Any]:
    get: Callable[..., Any] = queue.get
    return get


def _close(queue: Any) -> None:
    if hasattr(queue, "close"):
        queue.close()


def _flush(queue: Any, put: Callable[..., Any]) -> None:
    _close(queue)


@dataclass(frozen=True)
class Peer:
    """A queue class.

    ``make`` gets a directory for what the queue needs in files, and runs before the processes are forked; ``put_end``
    and ``get_end`` run in those, and get what was made and the worker's number. ``flush`` gets what was made and the
    put, when a producer comes to its end; ``dispose`` ends the queue. ``takes_objects``: not only bytes.
    ``takes_any_size``: of items.
    """

    name: str
    package: str
    make: Make
    put_end: End = _put_of
    get_end: End = _get_of
    flush: Callable[[Any, Callable[..., Any]], None] = _flush
    dispose: Callable[[Any], None] = _close
    is_ours: bool = False
    takes_objects: bool = True
    takes_any_size: bool = True
    producers: int = 2

    def is_installed(self) -> bool:
        return importlib.util.find_spec(self.package) is not None


# ---- ours ----


def _make_ours(directory: Path) -> Any:
    from shmqueue import ShmQueue

    return ShmQueue(f"side-by-side-{uuid.uuid4().hex}", buffer_size=CAPACITY)


def _make_from(module: str, name: str, directory: Path) -> Any:
    return getattr(importlib.import_module(module).get_context("fork"), name)()


def _end_ours(queue: Any) -> None:
    queue.unlink()
    queue.shutdown()


def _nothing(*arguments: Any) -> None:
    pass


OURS = (
    Peer("ShmQueue", "shmqueue", _make_ours, flush=_nothing, dispose=_end_ours, is_ours=True),
    *(
        Peer(
            f"shmqueue.compat.multiprocessing.{name}",
            "shmqueue",
            functools.partial(_make_from, "shmqueue.compat.multiprocessing", name),
            is_ours=True,
        )
        for name in ("Queue", "SimpleQueue")
    ),
)

# ---- the standard library's ----


def _flush_standard(queue: Any, put: Callable[..., Any]) -> None:
    queue.close()
    queue.join_thread()


def _dispose_standard(queue: Any) -> None:
    queue.cancel_join_thread()
    queue.close()


STANDARD = (
    Peer(
        "multiprocessing.Queue",
        "multiprocessing",
        functools.partial(_make_from, "multiprocessing", "Queue"),
        flush=_flush_standard,
        dispose=_dispose_standard,
    ),
    Peer(
        "multiprocessing.SimpleQueue",
        "multiprocessing",
        functools.partial(_make_from, "multiprocessing", "SimpleQueue"),
    ),
)

# ---- other packages', by the adapters that the benchmark has ----


def _make_driver(driver: type[Driver], directory: Path) -> Driver:
    return driver(
        Plan(
            producers=min(2, driver.most_producers or 2),
            consumers=2,
            item_size=64,
            room=CAPACITY,
            limit=0,
            queued=0,
            raw=driver.bytes_only,
            directory=str(directory),
            token=f"side-by-side-{uuid.uuid4().hex}",
            context=multiprocessing.get_context("fork"),
        )
    )


class _Put:
    """A sender, as the function that puts."""

    def __init__(self, sender: Sender) -> None:
        self._put, self.finish = sender.put, sender.finish

    def __call__(self, item: Any) -> None:
        self._put(item)


def _finish(queue: Driver, put: Any) -> None:
    put.finish()


def _peer(name: str) -> Peer:
    driver = ADAPTERS[name]
    return Peer(
        name,
        driver.module or name,
        functools.partial(_make_driver, driver),
        put_end=lambda queue, worker: _Put(queue.sender(worker)),
        get_end=lambda queue, worker: queue.receiver(worker).get,
        flush=_finish,
        takes_objects=not driver.bytes_only,
        takes_any_size=name not in SIZED,
        producers=driver.most_producers or 2,
    )


SIZED = {"shmqueue3"}
"""Those whose items all have one size."""
PEERS = tuple(map(_peer, ("faster-fifo", "cloudtoid-interprocess", "shmqueue3", "py-sharedmemory")))
