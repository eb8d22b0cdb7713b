"""Try an installation that is nothing but the wheel and what it requires: ``python tests/wheel_alone.py``.

It needs no test tool. It fails if the package comes from the source tree, or if the wheel has no native engine.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import shmqueue
import shmqueue.compat.asyncio
import shmqueue.compat.multiprocessing
import shmqueue.compat.queue
import shmqueue.conformance
from shmqueue import engine

PATIENCE = 60.0
ITEMS = [None, 7, 1 << 100, "text", b"bytes" * 10_000, [1, (2, {"three": {4, 5}})]]

HOLDER = """
import sys, time, shmqueue
with shmqueue.ShmQueue(sys.argv[1]) as jobs:
    lease = jobs.lease(timeout=60)
    print("has it", flush=True)
    time.sleep(600)
"""


def send_back(there: shmqueue.ShmQueue, back: shmqueue.ShmQueue) -> None:
    """Put every item of one queue into the other, until there are no more."""
    try:
        while True:
            back.put(there.get(timeout=PATIENCE))
    except shmqueue.ShmQueueShutDown:
        pass


def try_start_method(method: str) -> None:
    """Items come back from a process that is started that way."""
    name = f"wheel-alone-{os.getpid()}-{method}"
    with shmqueue.ShmQueue(name + "-there") as there, shmqueue.ShmQueue(name + "-back") as back:
        context: Any = multiprocessing.get_context(method)
        process = context.Process(target=send_back, args=(there, back))
        process.start()
        for item in ITEMS:
            there.put(item)
            came = back.get(timeout=PATIENCE)
            if came != item:
                raise SystemExit(f"{method}: {came!r} came back for {item!r}")
        there.shutdown_all()
        process.join(PATIENCE)
        if process.exitcode != 0:
            raise SystemExit(f"{method}: the process ended with {process.exitcode}")


def try_kill() -> None:
    """What a killed process had leased comes again."""
    name = f"wheel-alone-{os.getpid()}-lease"
    with shmqueue.ShmQueue(name) as jobs:
        jobs.put("job")
        process = subprocess.Popen([sys.executable, "-c", HOLDER, name], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        began = time.monotonic()
        with jobs.lease(timeout=PATIENCE) as lease:
            if (lease.item, lease.attempt) != ("job", 2):
                raise SystemExit(f"after a kill: {lease.item!r}, attempt {lease.attempt}")
        print(f"redelivered {1000 * (time.monotonic() - began):.0f} ms after the kill")
        process.communicate()


def main() -> None:
    source = Path(__file__).resolve().parent.parent
    if source in Path(shmqueue.__file__).resolve().parents and "site-packages" not in shmqueue.__file__:
        raise SystemExit(f"this tries the source tree, {shmqueue.__file__}, and not an installation")
    if engine.NAME != "native":
        raise SystemExit(f"the wheel has no native engine: {engine.REASON}")
    for method in multiprocessing.get_all_start_methods():
        try_start_method(method)
    try_kill()
    no_gil = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    if no_gil and sys._is_gil_enabled():  # type: ignore[attr-defined]
        raise SystemExit("the GIL is on: a module that was imported has switched it on")
    print(f"{sys.version.split()[0]}{' without a GIL' if no_gil else ''}: {engine.NAME}")


if __name__ == "__main__":
    main()
