"""Lines on standard output, each written only when the reader wants it.

A reader such as ``head`` closes its end after some lines. What is in the pipe then is lost, so a line is written only
when the one before has been read and the reader waits for more. Where that cannot be seen (not Linux, not a pipe) a
line is written unless the reader is known to be gone.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import time

from shmqueue.cli.signals import held

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = termios = None  # type: ignore[assignment]

__all__ = ["Lines"]

_CHUNK = 4096  # bytes that a pipe which is ready for writing takes without blocking: PIPE_BUF of Linux
_LONGEST_PAUSE = 0.01  # seconds between two looks at a pipe that has not been read yet
_TIME_TO_CLOSE = 0.01  # seconds for a reader that cannot be seen, after it has read a line
_TIME_TO_ASK = 0.05  # seconds for one that can be seen, until it waits for more


class Lines:
    """Standard output, line by line.

    ``unread`` tells whether the last line was not read, as far as is known: false after an ordinary write.
    """

    def __init__(self) -> None:
        if sys.stdout is None or not sys.stdout.writable():
            raise OSError(errno.EBADF, "standard output is closed")
        sys.stdout.flush()
        self.unread = False
        self._length = 0  # bytes of the last line
        self._readers: list[int] = []
        try:
            self._fd = sys.stdout.fileno()
        except (OSError, ValueError):  # something in its place, in a test
            self._fd = -1
        self._pipe = self._fd >= 0 and fcntl is not None and stat.S_ISFIFO(os.fstat(self._fd).st_mode)

    def require_reader(self) -> None:
        """Raise BrokenPipeError if nobody reads the output any more."""
        if self._fd >= 0 and self._is_closed_within(0.0):
            self.unread = self.unread or 0 < self._length <= self._bytes_in_pipe()
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def wait_until_wanted(self) -> None:
        """Return when the reader has read everything and waits for more.

        Raises:
            BrokenPipeError: it is gone.
        """
        self.require_reader()
        if not self._pipe:
            return
        pause = 0.0001
        while self._bytes_in_pipe() > 0:
            self._is_closed_within(pause)
            self.require_reader()
            pause = min(1.5 * pause, _LONGEST_PAUSE)
        if self._length:
            self._wait_for_reader()
        self.require_reader()

    def write(self, line: str) -> None:
        """Write a line. If it raises, ``unread`` says that it was not written to its end."""
        if self._fd < 0:
            print(line, flush=True)
            return
        data = memoryview((line + "\n").encode(sys.stdout.encoding, "backslashreplace"))
        self._length, self.unread = len(data), True
        while data:
            self._wait_for_room()
            with held():  # it is known how much was written
                data = data[os.write(self._fd, data[:_CHUNK]) :]
                self.unread = bool(data)

    def _is_closed_within(self, seconds: float) -> bool:
        if not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._fd, 0)  # it tells errors and hang-ups unasked
        return bool(poll.poll(seconds * 1000))

    def _wait_for_room(self) -> None:
        if hasattr(select, "poll"):
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            poll.poll()

    def _bytes_in_pipe(self) -> int:
        if not self._pipe:
            return 0
        count = fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4))
        return int.from_bytes(count, sys.byteorder)

    def _wait_for_reader(self) -> None:
        """Wait until the reader sleeps, which it does when it asks an empty pipe for more; or closes its end."""
        self._readers = self._readers or _readers_of(self._fd)
        deadline = time.monotonic() + _TIME_TO_ASK
        while time.monotonic() < deadline:
            states = [_state_of(pid) for pid in self._readers]
            if "S" in states:
                return
            if not any(states):  # none is left of those that are known, if any
                self._readers = []
                self._is_closed_within(_TIME_TO_CLOSE)
                return
            if self._is_closed_within(0.0002):
                return


def _readers_of(fd: int) -> list[int]:
    """The processes that have the reading end of this pipe, as far as /proc shows them."""
    try:
        pipe = os.readlink(f"/proc/self/fd/{fd}")
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    except OSError:
        return []
    return [pid for pid in pids if pid != os.getpid() and pipe.startswith("pipe:") and _reads(pid, pipe)]


def _reads(pid: int, pipe: str) -> bool:
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            if os.readlink(f"/proc/{pid}/fd/{entry}") == pipe:
                with open(f"/proc/{pid}/fdinfo/{entry}", encoding="ascii") as file:
                    flags = next(line.split()[1] for line in file if line.startswith("flags:"))
                if int(flags, 8) & os.O_ACCMODE != os.O_WRONLY:
                    return True
    except (OSError, StopIteration):
        pass  # another user's, or it has just ended
    return False


def _state_of(pid: int) -> str:
    """One letter as ps shows it; empty when the process has ended."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            state = file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""
    return "" if state in "ZX" else state
