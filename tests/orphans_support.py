"""Queues whose only holder was killed, with items in them."""

from __future__ import annotations

from support import python

from shmqueue import segment

ITEMS = list(range(12))

KILLED = """
import os, signal, sys, shmqueue
from shmqueue.segment import lifecycle
name, items, namespace, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), eval(sys.argv[4])
if namespace:
    lifecycle.pid_namespace = lambda: namespace
q = shmqueue.ShmQueue(name, **options)
for item in range(items):
    q.put(item)
os.kill(os.getpid(), signal.SIGKILL)
"""


def leave_orphan(name: str, items: int = len(ITEMS), namespace: int = 0, **options: object) -> str:
    """Have the only holder of a queue killed; the path of its file."""
    with python(KILLED, name, items, namespace, {"buffer_size": 4096, **options}) as process:
        _, errors = process.communicate()
    assert errors == ""
    return segment.path_of(name)
