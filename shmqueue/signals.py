"""Closing handles when a signal, or a console event on Windows, asks the process to end.

Handlers are installed once for all queues. They close what is still open, then hand over to the handler that was there
before; where that was the default one, it is put back and the signal raised again, so that the process ends as the
signal says and its parent sees it.
"""

from __future__ import annotations

import os
import signal
import traceback
import weakref
from types import FrameType
from typing import Any, Protocol

__all__ = ["close_on_signals"]


class _Closable(Protocol):
    def shutdown(self) -> None: ...


_queues: weakref.WeakSet[Any] = weakref.WeakSet()
_earlier: dict[int, Any] = {}
_console_handler_set = False

_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def close_on_signals(queue: _Closable) -> None:
    """Have ``queue.shutdown()`` called when a signal asks the process to end.

    Raises:
        ValueError: called outside of the main thread, where Python allows no signal handlers.
    """
    for number in _SIGNALS:
        current = signal.getsignal(number)
        if current not in (_on_signal, signal.SIG_IGN):  # an ignored signal (nohup) ends nothing
            signal.signal(number, _on_signal)
            _earlier[number] = current
    if os.name == "nt":
        _set_windows_handler()
    _queues.add(queue)


def _close_all() -> None:
    for queue in list(_queues):
        try:
            queue.shutdown()
        except Exception:
            traceback.print_exc()  # the others are to be closed all the same, and the process is to end


def _on_signal(number: int, frame: FrameType | None) -> None:
    _close_all()
    earlier = _earlier.get(number, signal.SIG_DFL)
    if callable(earlier):
        earlier(number, frame)
    else:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


def _set_windows_handler() -> None:
    global _console_handler_set
    try:
        import win32api  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        return  # without pywin32 the closing of a console window cannot be seen
    if not _console_handler_set:
        win32api.SetConsoleCtrlHandler(_on_console_event, True)
        _console_handler_set = True


def _on_console_event(event: int) -> bool:
    _close_all()
    return False  # the next handler decides what becomes of the process
