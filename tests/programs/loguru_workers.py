"""Logs with loguru from several processes into one file, and prints what each of them logged, in order.

Usage: loguru_workers.py METHOD [ours]

With ``ours`` the context is this project's, whatever ``multiprocessing`` is.
"""

import collections
import importlib
import sys

from loguru import logger

COUNT, WORKERS = 200, 3
SIZES = [10, 1000, 100_000]  # characters; the last is more than a pipe holds


def log(logger, name):
    """Log, and wait until the writer has written all of it."""
    for number in range(COUNT):
        logger.info("{} {} {}", name, number, "x" * SIZES[number % 3])
    logger.complete()


def main(method, module="multiprocessing"):
    context = importlib.import_module(module).get_context(method)
    logger.remove()
    logger.add("log", format="{message}", enqueue=True, context=context)
    workers = [context.Process(target=log, args=(logger, f"worker-{number}")) for number in range(WORKERS)]
    for worker in workers:
        worker.start()
    log(logger, "main")
    for worker in workers:
        worker.join()
    logger.remove()
    logged = collections.defaultdict(list)
    with open("log", encoding="utf-8") as file:
        for line in file:
            name, number, text = line.split()
            logged[name].append((int(number), len(text)))
    for name in sorted(logged):
        print(name, logged[name] == [(number, SIZES[number % 3]) for number in range(COUNT)])
    print([worker.exitcode for worker in workers])


if __name__ == "__main__":
    main(sys.argv[1], *["shmqueue.compat.multiprocessing"] * (sys.argv[2:] == ["ours"]))
