"""Ending by SIGTERM and SIGHUP as by Ctrl-C: by an exception, which gives back what is half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["Terminated", "held", "raising"]

_NAMES = ("SIGTERM", "SIGHUP")
_NUMBERS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]


class Terminated(BaseException):
    """The signal ``number`` asked the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def end_process(self) -> None:
        """End as the signal does by default, so that the parent sees it. Returns where it does not."""
        signal.signal(self.number, signal.SIG_DFL)
        signal.raise_signal(self.number)


def _raise(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


@contextmanager
def raising() -> Iterator[None]:
    """Within the block the signals raise ``Terminated``. One that is ignored (nohup) stays ignored."""
    changed = []
    if threading.current_thread() is threading.main_thread():
        changed = [number for number in _NUMBERS if signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def held() -> Iterator[None]:
    """Within the block no signal that ends the process interrupts; it does at the block's end."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, *_NUMBERS])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
