"""The queue classes that are put side by side, and how each is made and driven.

Every one is driven by processes that are forked, as two ends: a put and a get of one item, which wait as long as it
takes. Items are bytes, for some know nothing else.
"""

from __future__ import annotations

import functools
import importlib.util
import multiprocessing
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["LEFT_OUT", "OURS", "PEERS", "STANDARD", "Peer"]

CAPACITY = 1 << 20  # bytes, where a queue has a size
FOR_EVER = 1e6  # seconds, where a timeout must be a number

LEFT_OUT = {
    "shmqueue 0.0.2": "its import name is ours",
    "membridge": "its queue is for one producer and one consumer",
    "iceoryx2": "publish and subscribe: each consumer gets every item, so none is another one's",
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

# ---- other packages' ----


def _make_faster_fifo(directory: Path) -> Any:
    return importlib.import_module("faster_fifo").Queue(max_size_bytes=CAPACITY)


def _make_cloudtoid(directory: Path) -> Any:
    module: Any = importlib.import_module("cloudtoid_interprocess")
    arguments = ("queue", CAPACITY, str(directory))
    return module, arguments, module.Publisher(*arguments)  # the queue lives as long as somebody has it open


def _put_cloudtoid(queue: Any, worker: int) -> Callable[[bytes], None]:
    module, arguments, _ = queue
    publisher = module.Publisher(*arguments)

    def put(item: bytes) -> None:
        while not publisher.try_send(item):  # there is no put that waits
            time.sleep(50e-6)

    return put


def _get_cloudtoid(queue: Any, worker: int) -> Callable[[], bytes]:
    module, arguments, _ = queue
    receive: Callable[[], bytes] = module.Subscriber(*arguments).receive
    return receive


def _make_shmqueue3(directory: Path) -> Any:
    module: Any = importlib.import_module("shmqueue3")
    return module.ShmQueue(module.ShmPool(elem_size=32, size=1024))


def _put_shmqueue3(queue: Any, worker: int) -> Callable[[bytes], None]:
    def put(item: bytes) -> None:
        element = queue.pool.allocate()
        element.contents()[:] = item[:32]
        queue.put(element)

    return put


def _get_shmqueue3(queue: Any, worker: int) -> Callable[[], bytes]:
    element_type: Any = importlib.import_module("shmqueue3").ShmElem

    def get() -> bytes:
        element = queue.take(element_type())
        item = bytes(element.contents())
        element.free()
        return item

    return get


def _make_pyzmq(directory: Path) -> Any:
    return [f"ipc://{directory}/{number}" for number in range(2)]  # one for each producer


def _put_pyzmq(addresses: Any, worker: int) -> Callable[[Any], None]:
    zmq: Any = importlib.import_module("zmq")
    socket = zmq.Context().socket(zmq.PUSH)
    socket.bind(addresses[worker])
    time.sleep(0.5)  # consumers that are there already try again every 100 ms; what they miss is not ours to count
    put: Callable[[Any], None] = socket.send_pyobj
    return put


def _flush_pyzmq(addresses: Any, put: Any) -> None:
    socket = put.__self__
    socket.close()
    socket.context.term()


def _get_pyzmq(addresses: Any, worker: int) -> Callable[[], Any]:
    zmq: Any = importlib.import_module("zmq")
    socket = zmq.Context().socket(zmq.PULL)
    for address in addresses:
        socket.connect(address)
    get: Callable[[], Any] = socket.recv_pyobj
    return get


def _make_py_sharedmemory(directory: Path) -> Any:
    module: Any = importlib.import_module("py_sharedmemory")
    return module.create_shared_memory_pair(capacity=1024, ctx=multiprocessing.get_context("fork"))


def _dispose_pair(pair: Any) -> None:
    for end in pair:
        end.close()


PEERS = (
    Peer(
        "faster-fifo",
        "faster_fifo",
        _make_faster_fifo,
        put_end=lambda queue, worker: functools.partial(queue.put, timeout=FOR_EVER),
        get_end=lambda queue, worker: functools.partial(queue.get, timeout=FOR_EVER),
        flush=_nothing,
    ),
    Peer(
        "cloudtoid-interprocess",
        "cloudtoid_interprocess",
        _make_cloudtoid,
        put_end=_put_cloudtoid,
        get_end=_get_cloudtoid,
        flush=_nothing,
        dispose=lambda queue: queue[2].close(),
        takes_objects=False,
    ),
    Peer(
        "shmqueue3",
        "shmqueue3",
        _make_shmqueue3,
        put_end=_put_shmqueue3,
        get_end=_get_shmqueue3,
        flush=_nothing,
        dispose=_nothing,
        takes_objects=False,
        takes_any_size=False,
    ),
    Peer(
        "pyzmq (PUSH, PULL)",
        "zmq",
        _make_pyzmq,
        put_end=_put_pyzmq,
        get_end=_get_pyzmq,
        flush=_flush_pyzmq,
        dispose=_nothing,
    ),
    Peer(
        "py-sharedmemory",
        "py_sharedmemory",
        _make_py_sharedmemory,
        put_end=lambda pair, worker: pair[0].put,
        get_end=lambda pair, worker: pair[1].get,
        flush=lambda pair, put: pair[0].wait_for_all_ack(),
        dispose=_dispose_pair,
        producers=1,
    ),
)
