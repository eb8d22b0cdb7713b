"""The queues of other packages, for ``shmqueue bench --peers tests/peers``: each is used as its documentation says.

``PEERS`` names all; those of ``bytes_only`` carry bytes, the others objects. ``like_standard`` makes them for the
conformance kit.
"""

from __future__ import annotations

import importlib
from typing import Any

from .bytes_only import Cloudtoid, Iceoryx2, Membridge, PyZmq, ShmQueue3
from .interface import DEPTH, Driver, Plan, Receiver, Sender

__all__ = ["PEERS"]


class FasterFifo(Driver):
    """faster-fifo: pickles objects into a ring, with a process-shared mutex."""

    module = "faster_fifo"
    batches = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._queue: Any = importlib.import_module("faster_fifo").Queue(plan.room)

    def sender(self, index: int) -> Sender:
        return Sender(self._queue.put, self._queue.put_many)

    def receiver(self, index: int) -> Receiver:
        queue = self._queue

        def get_many(most: int) -> Any:
            return queue.get_many(max_messages_to_get=most)

        return Receiver(queue.get, get_many)

    def close(self) -> None:
        self._queue.close()


class PySharedMemory(Driver):
    """py-sharedmemory: the data in shared memory blocks, their names through a ``multiprocessing.Queue``."""

    module = "py_sharedmemory"
    most_producers = 1
    most_queued = DEPTH

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        make: Any = importlib.import_module("py_sharedmemory").create_shared_memory_pair
        self._sender, self._receiver = make(capacity=plan.limit or DEPTH, ctx=plan.context)

    def sender(self, index: int) -> Sender:
        return Sender(self._sender.put, finish=self._sender.wait_for_all_ack)

    def receiver(self, index: int) -> Receiver:
        return Receiver(self._receiver.get)

    def close(self) -> None:
        self._sender.close()
        self._receiver.close()


class PyPiShmQueue(Driver):
    """The package of PyPI that is called shmqueue too: it needs an interpreter of its own, without this one."""

    module = "shmqueue"
    package = "shmqueue"
    is_elsewhere = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._class: Any = importlib.import_module("shmqueue").ShmQueue
        self._holder = self._class(plan.token, buffer_size=plan.room)

    def sender(self, index: int) -> Sender:
        queue = self._class(self.plan.token)
        return Sender(queue.put, finish=queue.shutdown)

    def receiver(self, index: int) -> Receiver:
        queue = self._class(self.plan.token)
        return Receiver(queue.get, finish=queue.shutdown)

    def close(self) -> None:
        self._holder.shutdown()


class AioProcessing(Driver):
    """aioprocessing: ``multiprocessing.Queue`` with coroutines, whose calls are made by threads of an executor."""

    module = "aioprocessing"
    label = "aioprocessing.AioQueue"
    role = "async"

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._queue: Any = importlib.import_module("aioprocessing").AioQueue(context=plan.context)

    def sender(self, index: int) -> Sender:
        queue = self._queue

        def finish() -> None:
            queue.close()
            queue.join_thread()

        return Sender(queue.coro_put, finish=finish)

    def receiver(self, index: int) -> Receiver:
        return Receiver(self._queue.coro_get)

    def close(self) -> None:
        self._queue.close()


PEERS: dict[str, type[Driver]] = {
    "aioprocessing": AioProcessing,
    "faster-fifo": FasterFifo,
    "cloudtoid-interprocess": Cloudtoid,
    "membridge": Membridge,
    "iceoryx2": Iceoryx2,
    "shmqueue3": ShmQueue3,
    "py-sharedmemory": PySharedMemory,
    "pyzmq": PyZmq,
    "pypi-shmqueue": PyPiShmQueue,
}
