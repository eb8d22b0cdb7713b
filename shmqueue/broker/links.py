"""Connections to a broker: one for each process and thread, made when it is first used, and anew after it has failed.

Nothing that kombu makes may be used by two threads at once or on both sides of a fork. So a thread has its own, and
what a forked child inherits is neither used nor closed by it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

import kombu

__all__ = ["Link", "Links"]


class Link:
    """A connection with a channel, on which the queue is declared."""

    def __init__(self, url: str, name: str, transport_options: Mapping[str, Any]) -> None:
        self.pid = os.getpid()
        self.lock = threading.RLock()
        """Held while the connection is used: leases may be ended by any thread."""
        self.is_alive = True
        self.name = name
        self.connection = kombu.Connection(url, transport_options=dict(transport_options))
        try:
            self.connection.ensure_connection(max_retries=0)  # how often to try is the caller's to decide
            self.channel = self.connection.channel()
            self.producer = kombu.Producer(self.channel)
            kombu.Queue(name, routing_key=name, durable=True).bind(self.channel).declare()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection, whatever state it is in; the broker gives back what was leased."""
        if not self.is_alive:
            return
        self.is_alive = False
        if self.pid != os.getpid():
            return
        with self.lock:
            try:
                self.connection.close()
            except Exception:
                pass  # it may be broken, and nothing is asked of it any more


class _ThreadsEnd:
    """Closes the link of a thread that has ended."""

    def __init__(self, link: Link, links: dict[int, Link]) -> None:
        self.link, self._links = link, links

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:  # at the end the names in this module are gone
        if self.link.pid == getpid() and self._links.pop(id(self.link), None) is not None:
            self.link.close()


class Links:
    """The links of one queue.

    Args:
        url: for ``kombu.Connection``.
        name: the queue.
        transport_options: for ``kombu.Connection``.
    """

    def __init__(self, url: str, name: str, transport_options: Mapping[str, Any]) -> None:
        self._arguments = url, name, transport_options
        self._of_thread = threading.local()
        self._all: dict[int, Link] = {}
        """Those of the threads of this process; and of its ancestors, so that nothing collects and closes them."""

    def current(self) -> Link:
        """The link of this thread."""
        found: _ThreadsEnd | None = getattr(self._of_thread, "end", None)
        if found is not None and found.link.is_alive and found.link.pid == os.getpid():
            return found.link
        link = Link(*self._arguments)
        self._all[id(link)] = link
        self._of_thread.end = _ThreadsEnd(link, self._all)
        return link

    def drop(self) -> None:
        """Close the link of this thread, which has failed."""
        found: _ThreadsEnd | None = getattr(self._of_thread, "end", None)
        if found is not None and found.link.pid == os.getpid():
            self._all.pop(id(found.link), None)
            found.link.close()

    def close(self) -> None:
        """Close all links of this process."""
        for key, link in list(self._all.items()):
            if link.pid == os.getpid():
                self._all.pop(key, None)
                link.close()
