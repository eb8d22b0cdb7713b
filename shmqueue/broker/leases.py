"""Items that a broker keeps while a process works on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shmqueue import clock
from shmqueue.broker import answers
from shmqueue.broker.answers import Asker
from shmqueue.broker.bodies import Bodies
from shmqueue.broker.links import Link, Links
from shmqueue.interruptions import is_of_handler, not_of_handler
from shmqueue.leases import Lease

__all__ = ["BrokerLease", "Received"]

_UNLOADED: Any = object()


class BrokerLease(Lease[Any]):
    """An item that the broker keeps until it is acknowledged, or until the connection or this process ends.

    If it is dropped without ``ack`` or ``requeue``, the item is requeued with the next call on its queue in this
    process, or when that is closed.
    """

    __slots__ = ("__weakref__", "_bodies", "_item", "_link", "_links", "_message")

    def __init__(self, links: Links, link: Link, bodies: Bodies, message: Any) -> None:
        self._links, self._link, self._bodies, self._message = links, link, bodies, message
        self._item: Any = _UNLOADED

    @property
    def item(self) -> Any:
        if self._item is _UNLOADED:
            self._item = self._bodies.load(self._message)
        return self._item

    @property
    def attempt(self) -> int:
        """1, or 2 and more if it was delivered before. Only RabbitMQ's quorum queues count; others say just that."""
        headers, info = self._message.headers or {}, self._message.delivery_info or {}
        counted = headers.get("x-delivery-count")
        if counted is not None:
            return 1 + int(counted)
        return 2 if info.get("redelivered") or headers.get("redelivered") else 1

    @property
    def is_held(self) -> bool:
        return not self._message.acknowledged and self._link.is_alive

    def ack(self) -> bool:
        """Acknowledge. True: the broker has the acknowledgement.

        False: the lease was over, the connection was lost, or the broker did not answer for 5 seconds. Then the item
        may come again: it does not if only the broker's answer was lost. So it is if the call is interrupted.
        """
        return self._end(self._message.ack)

    def requeue(self) -> bool:
        """Give the item back: the next one that is delivered at RabbitMQ, behind all others of its priority at Redis.

        False: the lease was over, the connection was lost, with which it ends, or the broker did not answer for 5
        seconds: then, and if the call is interrupted, the connection is closed.
        """
        return self._end(self._message.requeue)

    def _acknowledge(self) -> bool:
        """``ack`` by this thread, and without a limit: what has interrupted it has interrupted the acknowledgement."""
        try:
            return self._link.use(self._ending(self._message.ack, False))
        except not_of_handler(*self._links.errors):  # that of a lease that was dropped
            return False

    def _end(self, how: Callable[[], object]) -> bool:
        if not self.is_held:
            return False
        link, end = self._link, self._ending(how, True)
        is_own = self._links.is_current(link)
        asker = link.asker if is_own else Asker()
        try:
            link.ending[id(asker)] = asker
            return asker.answer(lambda: link.use(end), clock.monotonic() + answers.ANSWER)
        except BaseException as error:
            link.close_soon()
            if isinstance(error, self._links.errors) and not is_of_handler(error):
                return False
            raise
        finally:
            link.ending.pop(id(asker), None)
            if not is_own:
                asker.close()

    def _ending(self, how: Callable[[], object], is_confirmed: bool) -> Callable[[Link], bool]:
        def end(link: Link) -> bool:
            if not self.is_held:
                return False
            try:
                how()
                was_held = link.was_held()
                if is_confirmed:
                    link.confirm()
            except BaseException as error:  # nobody knows how far the conversation was
                link.close()
                if isinstance(error, self._links.errors) and not is_of_handler(error):
                    return False
                raise
            link.leases -= 1
            if link.is_left:
                link.leave()
            return was_held

        return end

    def __del__(self) -> None:
        # It may run anywhere, also while this thread holds locks of kombu's: nothing here takes one, or waits.
        message = getattr(self, "_message", None)
        if message is not None and not message.acknowledged:
            self._link.dropped.append(message)


class Received(BrokerLease):
    """An item that the broker has forgotten: it comes again only if it is put back."""

    __slots__ = ()

    def ack(self) -> bool:
        return True

    _acknowledge = ack

    def __del__(self) -> None:
        pass
