"""``multiprocessing.connection.wait`` sees queues as they are when it returns.

A watcher's thread notices an item of another process some microseconds late. A program that waits for a queue and for
the end of the process that puts there, as ``ProcessPoolExecutor`` does, would sometimes see the end alone: with a pipe,
what was sent before is readable before. So the selector inside ``wait`` checks the queues once more.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Iterable
from multiprocessing import connection
from typing import Any

__all__ = ["look_in_wait"]


def look_in_wait(look: Callable[[Iterable[int]], bool]) -> None:
    """Have ``wait`` call ``look`` with its descriptors before it returns; what is readable after that is returned.

    ``look`` returns whether any of the descriptors is a queue's. Without the selector that ``wait`` is known to use
    (there is none on Windows) nothing happens.
    """
    selector_class: Any = getattr(connection, "_WaitSelector", None)
    if selector_class is None or hasattr(selector_class, "looks_at_queues"):
        return

    class Selector(selector_class):  # type: ignore[misc]
        looks_at_queues = True

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            ready: list[tuple[selectors.SelectorKey, int]] = super().select(timeout)
            if look([key.fd for key in self.get_map().values()]):
                ready = super().select(0)
            return ready

    connection._WaitSelector = Selector  # type: ignore[attr-defined]
