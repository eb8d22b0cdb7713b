"""Logs from unrelated processes into one file, through a queue that all of them open by its name.

Usage: logs_by_name.py listen FILE
       logs_by_name.py log NAME COUNT

The listener prints a line when it is ready, and stops at the end of its standard input. What is logged while there is
none stays in the queue.
"""

import logging
import logging.config
import logging.handlers
import sys

from shmqueue.compat.queue import Queue

if sys.version_info >= (3, 12):  # dictConfig() makes the queue
    handler = {
        "class": "logging.handlers.QueueHandler",
        "queue": {"()": "shmqueue.compat.queue.Queue", "name": "logs", "keep": True},
        "handlers": [],
    }
else:
    handler = {"()": "logging.handlers.QueueHandler", "queue": Queue(name="logs", keep=True)}

CONFIGURATION = {
    "version": 1,
    "handlers": {"shared": handler},
    "root": {"handlers": ["shared"], "level": "INFO"},
}


def listen(path):
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(name)s %(process)d %(message)s"))
    listener = logging.handlers.QueueListener(Queue(name="logs", keep=True), file)
    listener.start()
    print("ready", flush=True)
    sys.stdin.read()
    listener.stop()


def log(name, count):
    logging.config.dictConfig(CONFIGURATION)
    logger = logging.getLogger(name)
    for number in range(count):
        logger.info("message %d", number)
    try:
        raise LookupError(f"of {name}")
    except LookupError:
        logger.exception("failed")


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen(sys.argv[2])
    else:
        log(sys.argv[2], int(sys.argv[3]))
