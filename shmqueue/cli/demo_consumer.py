"""The other half of the demo: ``python -m shmqueue.cli.demo_consumer NAME ITEMS`` takes integers and checks them.

It says ``"ready"`` on its standard output, and at the end what came of it. Its standard input closes when the demo is
gone.
"""

from __future__ import annotations

import json
import os
import sys
import warnings

from shmqueue import PortableEngineWarning, ShmQueue, ShmQueueNotInitializedError
from shmqueue.cli.demo_work import consume, end_with_parent


def main() -> None:
    """Run with the arguments of this process."""
    warnings.simplefilter("ignore", PortableEngineWarning)  # the demo names the engine itself
    queue = ShmQueue(sys.argv[1], create=False)
    watcher = end_with_parent(lambda: os.read(0, 1), queue.shutdown)
    print('"ready"', flush=True)
    try:
        outcome = consume(queue.get, int(sys.argv[2]), report=lambda taken: None)  # the demo reads the queue's counters
    except ShmQueueNotInitializedError:
        watcher.join()  # the queue was closed because the demo is gone
        return
    print(json.dumps(outcome), flush=True)
    queue.shutdown()


if __name__ == "__main__":
    main()
