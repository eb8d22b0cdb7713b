"""What an adapter is made of: the classes of ``shmqueue bench``, which calls its package ``bench`` in an interpreter
that has another package of the name shmqueue."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING or "bench.drivers" not in sys.modules:
    from shmqueue.cli.bench.drivers import DEPTH, Driver, Plan, Receiver, Sender
else:
    from bench.drivers import DEPTH, Driver, Plan, Receiver, Sender

__all__ = ["DEPTH", "Driver", "Plan", "Receiver", "Sender"]
