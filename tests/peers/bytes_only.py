"""The queues of other packages that carry bytes, each used as its documentation says.

They get what msgpack makes of an item, with a packer that is made once. Where a package has no call that waits, its
documentation says to try again: between two tries the processor is offered to others.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from typing import Any

from .interface import DEPTH, Driver, Plan, Receiver, Sender

__all__ = ["Cloudtoid", "Iceoryx2", "Membridge", "PyZmq", "ShmQueue3"]

_yield: Callable[[], None] = getattr(os, "sched_yield", lambda: time.sleep(0))


def _packing(plan: Plan) -> tuple[Callable[[Any], bytes], Callable[[Any], Any]]:
    """How items become bytes, and items again."""
    if plan.raw:
        return bytes, bytes
    msgpack = importlib.import_module("msgpack")
    return msgpack.Packer().pack, msgpack.unpackb


class Cloudtoid(Driver):
    """cloudtoid-interprocess: byte queues by name; a send does not wait, a receive does."""

    module = "cloudtoid_interprocess"
    bytes_only = True
    batches = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._package: Any = importlib.import_module("cloudtoid_interprocess")
        self._holder = self._package.Subscriber(
            plan.token, plan.room, plan.directory
        )  # the queue lives while it is held

    def sender(self, index: int) -> Sender:
        publisher = self._package.Publisher(self.plan.token, self.plan.room, self.plan.directory)
        pack, _ = _packing(self.plan)
        try_send, try_send_batch = publisher.try_send, publisher.try_send_batch

        def put(item: Any) -> None:
            data = pack(item)
            while not try_send(data):
                _yield()

        def put_many(items: list[Any]) -> None:
            packed = [pack(item) for item in items]
            sent = try_send_batch(packed)
            while sent < len(packed):
                _yield()
                sent += try_send_batch(packed[sent:])

        return Sender(put, put_many, publisher.close)

    def receiver(self, index: int) -> Receiver:
        subscriber = self._package.Subscriber(self.plan.token, self.plan.room, self.plan.directory)
        _, unpack = _packing(self.plan)
        receive, try_receive = subscriber.receive, subscriber.try_receive

        if self.plan.raw:
            return Receiver(receive)

        def get() -> Any:
            return unpack(receive())

        def get_many(most: int) -> list[Any]:
            items = [unpack(receive())]
            while len(items) < most and (data := try_receive()) is not None:
                items.append(unpack(data))
            return items

        return Receiver(get, get_many)

    def close(self) -> None:
        self._holder.close()


class Membridge(Driver):
    """membridge: a ring of bytes between one producer and one consumer; neither side can wait."""

    module = "membridge"
    bytes_only = True
    most_producers = most_consumers = 1

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self._memory: Any = importlib.import_module("membridge").SharedMemory
        self._holder = self._memory.create("/" + plan.token, plan.room + 24)  # 24 bytes are its header
        self._holder.spsc()

    def sender(self, index: int) -> Sender:
        push = self._memory.open("/" + self.plan.token).spsc().push
        pack, _ = _packing(self.plan)

        def put(item: Any) -> None:
            data = pack(item)
            while not push(data):
                _yield()

        return Sender(put)

    def receiver(self, index: int) -> Receiver:
        pop = self._memory.open("/" + self.plan.token).spsc().pop
        _, unpack = _packing(self.plan)

        def get() -> Any:
            while (data := pop()) is None:
                _yield()
            return unpack(data)

        return Receiver(get)

    def close(self) -> None:
        self._memory.remove("/" + self.plan.token)


class Iceoryx2(Driver):
    """iceoryx2: a publisher that loans a slice of shared memory and a subscriber that reads it in place, polling."""

    module = "iceoryx2"
    bytes_only = True
    most_queued = DEPTH
    most_producers = most_consumers = 1

    def _service(self) -> tuple[Any, Any, int]:
        iceoryx2: Any = importlib.import_module("iceoryx2")
        iceoryx2.set_log_level(iceoryx2.LogLevel.Fatal)
        config = iceoryx2.config.default()
        config.global_cfg.root_path = iceoryx2.Path.new(self.plan.directory)
        config.global_cfg.prefix = iceoryx2.FileName.new(self.plan.token)
        node = (
            iceoryx2.NodeBuilder.new()
            .config(config)
            .signal_handling_mode(iceoryx2.SignalHandlingMode.Disabled)
            .create(iceoryx2.ServiceType.Ipc)
        )
        depth = self.plan.limit or DEPTH
        service = (
            node.service_builder(iceoryx2.ServiceName.new(self.plan.token))
            .publish_subscribe(iceoryx2.Slice[ctypes.c_uint8])
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(depth)
            .max_publishers(1)
            .max_subscribers(1)
            .open_or_create()
        )
        return iceoryx2, service, depth

    def sender(self, index: int) -> Sender:
        iceoryx2, service, _ = self._service()
        publisher = (
            service.publisher_builder()
            .initial_max_slice_len(self.plan.item_size)
            .backpressure_strategy(iceoryx2.BackpressureStrategy.DiscardData)
            .create()
        )
        pack, _ = _packing(self.plan)
        loan, copy = publisher.loan_slice_uninit, ctypes.memmove

        def put(item: Any) -> None:
            data = pack(item)
            sample = loan(len(data))
            copy(sample.payload_ptr, data, len(data))
            sample = sample.assume_init()
            while not sample.send():  # its queue is full, or it has not subscribed yet
                _yield()
                sample = loan(len(data))
                copy(sample.payload_ptr, data, len(data))
                sample = sample.assume_init()

        def make(length: int, write: Callable[[int], object]) -> None:
            while True:
                sample = loan(length)
                write(ctypes.cast(sample.payload_ptr, ctypes.c_void_p).value or 0)
                if sample.assume_init().send():
                    return
                _yield()

        return Sender(put, make=make)

    def receiver(self, index: int) -> Receiver:
        _, service, depth = self._service()
        receive = service.subscriber_builder().buffer_size(depth).create().receive
        _, unpack = _packing(self.plan)

        def take() -> Any:
            while (sample := receive()) is None:
                _yield()
            return sample

        def get() -> Any:
            sample = take()
            item = unpack(sample.payload().as_memory_view())
            sample.delete()
            return item

        @contextmanager
        def lend() -> Iterator[Any]:
            sample = take()
            yield sample.payload().as_memory_view().cast("B")
            sample.delete()

        return Receiver(get, lend=lend)


class ShmQueue3(Driver):
    """shmqueue3: blocks of one size and a queue of their numbers, under locks of ``multiprocessing``."""

    module = "shmqueue3"
    bytes_only = True

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        package: Any = importlib.import_module("shmqueue3")

        class Block(ctypes.Structure):
            _fields_ = [("length", ctypes.c_int64), ("data", ctypes.c_uint8 * plan.item_size)]

        blocks = plan.limit or max(DEPTH, plan.queued + 1)
        self._element: Any = package.ShmElem
        self._queue: Any = package.ShmQueue(package.ShmPool(elem_type=Block, size=blocks))

    def sender(self, index: int) -> Sender:
        queue, element, copy = self._queue, self._element(), ctypes.memmove
        allocate = queue.pool.allocate
        pack, _ = _packing(self.plan)

        def put(item: Any) -> None:
            data = pack(item)
            allocate(element)
            block = element.contents()
            block.length = len(data)
            copy(block.data, data, len(data))
            queue.put(element)

        return Sender(put)

    def receiver(self, index: int) -> Receiver:
        queue, element = self._queue, self._element()
        _, unpack = _packing(self.plan)

        def get() -> Any:
            queue.take(element)
            block = element.contents()
            item = unpack(memoryview(block.data)[: block.length])
            element.free()
            return item

        @contextmanager
        def lend() -> Iterator[Any]:
            queue.take(element)
            block = element.contents()
            yield memoryview(block.data).cast("B")[: block.length]
            element.free()

        return Receiver(get, lend=lend)


class PyZmq(Driver):
    """pyzmq: a PUSH and a PULL socket on a path for each consumer; a producer serves them in turn."""

    module = "zmq"
    bytes_only = True

    def _socket(self, kind: str, index: int, bind: bool) -> Any:
        zmq: Any = importlib.import_module("zmq")
        socket = zmq.Context.instance().socket(getattr(zmq, kind))
        socket.set_hwm(self.plan.limit or max(DEPTH, self.plan.queued + 1))
        path = f"{self.plan.directory}/{self.plan.token[-2:]}.{index}"
        if bind:
            socket.bind(f"ipc://{path}")
        else:
            while not os.path.exists(path):  # a connect that comes too early is repeated a tenth of a second later
                time.sleep(0.001)
            socket.connect(f"ipc://{path}")
        return socket

    def sender(self, index: int) -> Sender:
        sends = [self._socket("PUSH", consumer, bind=False).send for consumer in range(self.plan.consumers)]
        pack, _ = _packing(self.plan)
        if len(sends) == 1:
            (send,) = sends

            def put(item: Any) -> None:
                send(pack(item))

            return Sender(put)
        turn = cycle(sends)

        def put_in_turn(item: Any) -> None:
            next(turn)(pack(item))

        return Sender(put_in_turn)

    def receiver(self, index: int) -> Receiver:
        socket = self._socket("PULL", index, bind=True)
        _, unpack = _packing(self.plan)
        receive = socket.recv
        if not self.plan.raw:
            return Receiver(lambda: unpack(receive()))

        @contextmanager
        def lend() -> Iterator[Any]:
            yield receive(copy=False).buffer

        lending: Callable[[], AbstractContextManager[Any]] = lend
        return Receiver(receive, lend=lending)
