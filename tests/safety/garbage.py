"""Objects whose finalizer runs whenever the collector of cycles does: amid any call."""

from __future__ import annotations

from collections.abc import Callable


class Garbage:
    """A cycle whose finalizer does something; the collector has yet to find it."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.itself = self
        self.action = action

    def __del__(self) -> None:
        self.action()
