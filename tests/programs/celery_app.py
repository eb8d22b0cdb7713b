"""A Celery application for the tests: its broker and the directory of its results come from the environment."""

import os
import time

from celery import Celery

app = Celery("celery_app", broker=os.environ["BROKER"], backend=f"file://{os.environ['RESULTS']}")
app.conf.update(broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
app.conf.task_default_queue = os.environ.get("QUEUE", "celery")


@app.task
def add(one: int, other: int) -> int:
    return one + other


@app.task(bind=True, acks_late=True)
def note(self, path: str, seconds: float) -> None:
    """Write a line: when it began, whether it was delivered before, and which worker has it."""
    redelivered = self.request.delivery_info.get("redelivered")
    with open(path, "a") as file:
        file.write(f"{time.time()} {redelivered} {self.request.hostname}\n")
    time.sleep(seconds)


@app.task(ignore_result=True)
def nothing(number: int) -> None:
    """Add one byte to a file, which so counts the tasks that were done."""
    with open(os.environ["COUNT"], "ab") as file:
        file.write(b".")
