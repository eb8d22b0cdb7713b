"""Prints, for a start method, which modules the queues of each generation of processes come from, and what they carry.

Usage: queue_makers.py METHOD
"""

import multiprocessing
import multiprocessing.queues
import sys


def origins(context):
    queues = [context.Queue(), context.JoinableQueue(3), context.SimpleQueue()]
    queues += [multiprocessing.Queue(), multiprocessing.JoinableQueue(), multiprocessing.SimpleQueue()]
    modules = {type(queue).__module__ for queue in queues}
    assert all(
        isinstance(queue, (multiprocessing.queues.Queue, multiprocessing.queues.SimpleQueue)) for queue in queues
    )
    for queue in queues:
        queue.put((1,))
        assert queue.get() == (1,)
        queue.close()
    return sorted(modules)


def generation(name, method, report):
    context = multiprocessing.get_context(method)
    report.put((name, origins(context), multiprocessing.queues.Queue.__module__))
    if name == "child":
        grandchild = context.Process(target=generation, args=("grandchild", method, report))
        grandchild.start()
        grandchild.join()


def main(method):
    context = multiprocessing.get_context(method)
    report = context.Queue()
    generation("parent", method, report)
    child = context.Process(target=generation, args=("child", method, report))
    child.start()
    for _ in range(3):
        print(*report.get(timeout=30))
    child.join()
    print(child.exitcode)


if __name__ == "__main__":
    main(sys.argv[1])
