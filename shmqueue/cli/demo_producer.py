"""One half of the demo: ``python -m shmqueue.cli.demo_producer NAME ITEMS`` puts integers when told to go.

It says ``"ready"`` on its standard output and waits for a line on its standard input, which closes when the demo is
gone.
"""

from __future__ import annotations

import os
import sys
import warnings

from shmqueue import PortableEngineWarning, ShmQueue, ShmQueueNotInitializedError
from shmqueue.cli.demo_work import end_with_parent, produce


def main() -> None:
    """Run with the arguments of this process."""
    warnings.simplefilter("ignore", PortableEngineWarning)  # the demo names the engine itself
    queue = ShmQueue(sys.argv[1], create=False)
    print('"ready"', flush=True)
    os.read(0, 100)  # not through sys.stdin, whose lock a waiting thread would keep at the interpreter's end
    watcher = end_with_parent(lambda: os.read(0, 1), queue.shutdown)
    try:
        produce(queue.put, int(sys.argv[2]))
    except ShmQueueNotInitializedError:
        watcher.join()  # the queue was closed because the demo is gone
        return
    queue.shutdown()


if __name__ == "__main__":
    main()
