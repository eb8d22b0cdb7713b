"""What the child processes of the adapters' tests run. They import it from here, whatever their start method.

What few of them use is imported by those: asyncio alone takes as long as everything else that a child imports.
"""

from __future__ import annotations

import dataclasses
import multiprocessing.connection
import os
import queue
import signal
import time
from typing import Any

PATIENCE = 30.0


def work_off(q: Any) -> None:
    """Take items until None comes, and say of each that it is done."""
    for _ in iter(q.get, None):
        q.task_done()


def answer_in_a_loop(questions: Any, answers: Any) -> None:
    """Answer each number of an asynchronous queue with the next one, until the queue is shut down."""

    import asyncio

    async def main() -> None:
        async for number in questions:
            await answers.put(number + 1)

    asyncio.run(main())


def answer_large(questions: Any, answers: Any) -> None:
    """Answer items of one byte again and again with that byte and their length, until None comes."""
    for item in iter(questions.get, None):
        assert item.count(item[:1]) == len(item)
        answers.put((item[0], len(item)))


def answer_with_type(questions: Any, answers: list[Any]) -> None:
    """Send back each item with the name of its type, until None comes. The answers' queue comes inside a list."""
    for item in iter(questions.get, None):
        answers[0].put((type(item).__name__, item))


def add_to(q: Any, value: Any, array: Any) -> None:
    """Take a number and add it to a shared value, and keep it in a shared array."""
    array[0] = q.get()
    value.value += array[0]


def get_until_shut_down(q: Any, report: Any) -> None:
    from shmqueue.compat.queue import ShutDown

    report.put("getting")
    try:
        q.get(timeout=PATIENCE)
    except ShutDown:
        report.put("get: ShutDown")


def put_until_shut_down(q: Any, report: Any) -> None:
    from shmqueue.compat.queue import ShutDown

    report.put("putting")
    try:
        q.put("one too many")
    except ShutDown:
        report.put("put: ShutDown")


# ---- multiprocessing ----


def count_to_none(q: Any, report: Any) -> None:
    """Report how many items came before None, and the sum of their first elements."""
    numbers = [item[0] for item in iter(q.get, None)]
    report.put((len(numbers), sum(numbers)))


def put_and_leave(q: Any, count: int, size: int) -> None:
    """Put items, and return at once."""
    for number in range(count):
        q.put((number, b"x" * size))


def put_and_exit_hard(q: Any, count: int, size: int) -> None:
    put_and_leave(q, count, size)
    os._exit(0)


def answer(questions: Any, answers: Any) -> None:
    """Send back each item as it came, until None comes."""
    for item in iter(questions.get, None):
        answers.put(item)


def finish_and_overdo(q: Any, report: Any) -> None:
    """Finish the three tasks there are, then one more."""
    for _ in range(3):
        q.get()
        q.task_done()
    try:
        q.task_done()
    except ValueError as error:
        report.put(str(error))


def say_hello_through(connections: Any) -> None:
    """Take one end of a pipe out of a queue, and write into it."""
    connection = connections.get()
    connection.send("hello")
    connection.close()


@dataclasses.dataclass
class Order:
    """Something with queues inside."""

    number: int
    ways: dict[str, list[Any]]


def serve(order: Order) -> None:
    order.ways["back"][0].put((order.number, order.ways["forth"][0].get()))


def receive_queue(carrier: Any) -> None:
    """Take a queue out of a queue, and put into it."""
    received = carrier.get()
    received.put(["through", {"another": "queue"}])


INHERITED: dict[str, Any] = {}


def put_into_inherited() -> None:
    INHERITED["q"].put("inherited")


def make_queue_and_leave(carrier: Any, directory: str, method: str) -> None:
    """Make a queue, send it to the parent, and end as soon as somebody else has it."""
    os.environ["SHMQUEUE_DIR"] = directory  # that of the test: a fork server keeps its first one
    from shmqueue.compat import multiprocessing as mp

    q = mp.get_context(method).Queue()
    q.put("from one that left")
    carrier.put(q)
    while not q.empty():  # the parent takes it when it has the queue
        time.sleep(0.001)
    q.put("and more")


def put_for_ever(q: Any, puts: Any) -> None:
    """Put, and count in a shared value."""
    while True:
        q.put((puts.value, b"x" * 100))
        puts.value += 1


def get_for_ever(q: Any) -> None:
    while True:
        q.get()


def log_through(q: Any, name: str, count: int) -> None:
    import logging.handlers

    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(logging.handlers.QueueHandler(q))
    for number in range(count):
        logger.info("message %d", number)


def load_data(indices: Any, batches: Any, done: Any) -> None:
    """A worker of a data loader: a batch for each index, until None comes."""
    while True:
        try:
            index = indices.get(timeout=5.0)
        except queue.Empty:
            continue
        if index is None:
            break
        if done.is_set():
            continue
        batches.put((index, [index * 10 + step for step in range(10)]))
    if done.is_set():
        batches.cancel_join_thread()
        batches.close()


def poll_reader(q: Any, ready: Any, report: Any) -> None:
    """Wait on the reader's descriptor, then take the item."""
    ready.put("waiting")
    woken = multiprocessing.connection.wait([q._reader], timeout=PATIENCE)
    report.put((len(woken), q.get(timeout=PATIENCE), q._reader.poll()))


def close_reader_and_write(q: Any) -> None:
    q._reader.close()
    q.put("put")
    q._writer.send("sent")


def is_readable(source: Any, timeout: float = 0) -> bool:
    return multiprocessing.connection.wait([source], timeout=timeout) == [source]


def watch(q: Any, report: Any) -> None:
    """What a child sees of a queue that its parent watches too."""
    source = getattr(q, "_reader", q)
    report.put(("empty", is_readable(source), is_readable(source, 0.05)))
    report.put(("item", is_readable(source, PATIENCE), q.get(), is_readable(source)))


def put_several(q: Any, count: int) -> None:
    for number in range(count):
        q.put(number)


def put_when_told(q: Any, go: Any, count: int) -> None:
    go.get()
    put_several(q, count)


def put_and_be_killed(q: Any, count: int) -> None:
    put_several(q, count)
    if hasattr(q, "close") and hasattr(q, "join_thread"):
        q.close()
        q.join_thread()
    os.kill(os.getpid(), signal.SIGKILL)


def all_items(q: Any) -> list[Any]:
    """What comes until no process is left that could put."""
    items = []
    try:
        while True:
            items.append(q.get())
    except EOFError:
        return items


def read_to_the_end(q: Any, report: Any) -> None:
    q._writer.close()
    report.put(all_items(q))


def close_writer_and_be_killed(q: Any, ready: Any) -> None:
    q._writer.close()
    ready.put(True)
    time.sleep(PATIENCE)


def lease_and_wait(jobs: Any, told: Any) -> None:
    """Lease an item, say which process has it, and wait for the end."""
    lease = jobs.lease()
    told.put((os.getpid(), lease.item, lease.attempt))
    signal.pause()
