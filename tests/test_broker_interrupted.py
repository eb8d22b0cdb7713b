"""Queues at brokers, when a call is abandoned or a signal handler raises: nothing is lost, and the next call works."""

from __future__ import annotations

import math
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support import PATIENCE, Call, python, run_python, wait_until

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

import _thread

import kombu.message
from broker_servers import BROKERS, Servers

import shmqueue
from shmqueue.broker.answers import Asker
from shmqueue.broker.bodies import Bodies
from shmqueue.broker.leases import BrokerLease, Received
from shmqueue.broker.links import Link
from shmqueue.broker.queue import BrokerQueue
from shmqueue.broker.retries import RetryPolicy


@pytest.fixture(params=["memory", *BROKERS])
def q(request: pytest.FixtureRequest, servers: Servers, name: str) -> Iterator[BrokerQueue]:
    """A queue that was just opened, and is closed at the end."""
    url = f"memory://?queue={name}" if request.param == "memory" else servers.of(request.param).url(name)
    with shmqueue.connect(url) as queue:
        assert isinstance(queue, BrokerQueue)
        yield queue


class Interruption(Exception):
    """Of a handler, and like no error of any broker."""


class SlowError(TimeoutError):
    """Of a handler; the errors of brokers are of this kind, too."""


KINDS = [Interruption, SlowError, KeyboardInterrupt]


class Interrupter:
    """Has a signal handler raise in the main thread, when another one says so."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error
        self.has_raised = threading.Event()
        self._main = threading.get_ident()

    def handle(self, *_: object) -> None:
        if not self.has_raised.is_set():
            self.has_raised.set()
            raise self.error

    def strike(self) -> None:
        """Raise in the main thread; returns when it has, if that is another one.

        Again and again: a lock that is about to be waited for does not see a signal that came just before.
        """
        if threading.get_ident() == self._main:
            signal.raise_signal(signal.SIGUSR1)
        else:
            wait_until(self._has_raised_soon, "the handler raises")

    def _has_raised_soon(self) -> bool:
        signal.pthread_kill(self._main, signal.SIGUSR1)
        return self.has_raised.wait(0.01)


@contextmanager
def interrupting(error: type[BaseException]) -> Iterator[Interrupter]:
    interrupter = Interrupter(error)
    before = signal.signal(signal.SIGUSR1, interrupter.handle)
    try:
        yield interrupter
    finally:
        signal.signal(signal.SIGUSR1, before)


def after(function: Callable[..., Any], act: Callable[[], object], which: int = 1) -> Callable[..., Any]:
    """The function, with which something is done after its call of that number."""
    calls = iter(range(1, 1_000_000))

    def called(*arguments: Any, **options: Any) -> Any:
        returned = function(*arguments, **options)
        if next(calls) == which:
            act()
        return returned

    return called


def before(function: Callable[..., Any], act: Callable[[], object]) -> Callable[..., Any]:
    """The function, before which something is done each time."""

    def called(*arguments: Any, **options: Any) -> Any:
        act()
        return function(*arguments, **options)

    return called


def is_in_use(link: Link) -> bool:
    """Whether another thread uses the connection just now."""
    is_free = link.lock.acquire(blocking=False)
    if is_free:
        link.lock.release()
    return not is_free


def all_of(q: BrokerQueue, count: int) -> list[Any]:
    """The items of the queue, of which there must be so many."""
    wait_until(lambda: q.qsize() == count, f"there are {count} items")
    return [q.get(timeout=PATIENCE) for _ in range(count)]


# ---- timeouts ----


@pytest.mark.parametrize("timeout", [math.inf, 1e300, 10**400, 1e10], ids=["inf", "float", "int", "10^10"])
def test_a_timeout_may_be_as_long_as_it_likes(q: BrokerQueue, timeout: float) -> None:
    q.put("first", timeout=timeout)
    q.put_many([1, 2, 3], timeout=timeout)
    assert q.get(timeout=timeout) == "first"
    assert q.get_many(2, timeout=timeout) == [1, 2]
    assert q.lease(timeout=timeout).ack()
    call = Call(q.get, timeout=timeout)
    wait_until(call.is_asleep, "it waits")
    q.put("late")
    assert call.result() == "late"


def test_a_pause_before_the_next_try_may_be_as_long_as_it_likes() -> None:
    policy = RetryPolicy.of({"interval_start": 1e300, "interval_step": 1e300, "interval_max": 1e300})
    assert threading.Lock().acquire(timeout=policy.pause(1))


TAKES: dict[str, Callable[[BrokerQueue], object]] = {
    "get": lambda q: q.get(timeout=0.1),
    "get_nowait": lambda q: q.get_nowait(),
    "get_many": lambda q: q.get_many(3, timeout=0.1),
    "lease": lambda q: q.lease(timeout=0.1),
}


@pytest.mark.parametrize("kind", BROKERS)
@pytest.mark.parametrize("take", TAKES.values(), ids=TAKES)
def test_a_call_that_has_given_up_takes_nothing_when_the_broker_goes_on(
    kind: str, take: Callable[[BrokerQueue], object], servers: Servers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers.of(kind)
    monkeypatch.setattr("shmqueue.broker.answers.ANSWER", 0.3)
    monkeypatch.setattr("shmqueue.broker.queue._ANSWER_LEAST", 0.3)
    took = threading.Event()
    with shmqueue.connect(server.url(name)) as q, monkeypatch.context() as patch:
        assert isinstance(q, BrokerQueue)
        q.put_many(range(3))
        patch.setattr(BrokerQueue, "_take", after(BrokerQueue._take, took.set))
        with server.stopped(), pytest.raises(shmqueue.ShmQueueBrokerError, match="no answer"):
            take(q)
        assert took.wait(PATIENCE)  # or else it is perhaps counted before it was taken
        with shmqueue.connect(server.url(name)) as other:
            assert isinstance(other, BrokerQueue)
            assert all_of(other, 3) == [0, 1, 2]


def test_what_comes_too_late_is_put_back_although_the_queue_was_closed_meanwhile(
    servers: Servers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers.of("redis")
    monkeypatch.setattr("shmqueue.broker.queue._ANSWER_LEAST", 0.3)
    monkeypatch.setattr("shmqueue.broker.links._FAREWELL", 0.3)
    took = threading.Event()
    q = shmqueue.connect(server.url(name))
    q.put("item")
    monkeypatch.setattr(BrokerQueue, "_take", after(BrokerQueue._take, took.set))
    with server.stopped():
        with pytest.raises(shmqueue.ShmQueueBrokerError, match="no answer"):
            q.get(timeout=0.1)
        q.close()
    assert took.wait(PATIENCE)
    with shmqueue.connect(server.url(name)) as other:
        assert isinstance(other, BrokerQueue)
        assert all_of(other, 1) == ["item"]


# ---- interrupts ----


@pytest.mark.parametrize("error", KINDS)
@pytest.mark.parametrize("timeout", [None, PATIENCE], ids=["for_ever", "timeout"])
@pytest.mark.parametrize(
    ("take", "which"),
    [
        (lambda q, timeout: q.get(timeout=timeout), 1),
        (lambda q, timeout: q.get_many(3, timeout), 1),
        (lambda q, timeout: q.get_many(3, timeout), 3),
        (lambda q, timeout: q.lease(timeout=timeout), 1),
    ],
    ids=["get", "get_many", "get_many_last", "lease"],
)
def test_what_was_taken_when_a_handler_raises_comes_again(
    q: BrokerQueue,
    error: type[BaseException],
    timeout: float | None,
    take: Callable[[BrokerQueue, float | None], object],
    which: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q.put_many(range(3))
    with interrupting(error) as interrupter, monkeypatch.context() as patch:
        patch.setattr(BrokerQueue, "_take", after(BrokerQueue._take, interrupter.strike, which))
        with pytest.raises(error):
            take(q, timeout)
    assert sorted(all_of(q, 3)) == [0, 1, 2]
    assert q.empty()


POINTS: dict[str, list[tuple[type, str]]] = {
    "loading": [(Bodies, "load")],
    "decoding": [(kombu.message.Message, "decode")],
    "acknowledging": [(BrokerLease, "_acknowledge"), (Received, "_acknowledge")],
}


@pytest.mark.parametrize("error", KINDS)
@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_what_a_get_has_not_handed_over_when_a_handler_raises_comes_again(
    q: BrokerQueue,
    error: type[BaseException],
    point: list[tuple[type, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q.put_many([])
    with interrupting(error) as interrupter:
        for call in (lambda: q.get(timeout=PATIENCE), lambda: q.get_many(2, timeout=PATIENCE)):
            q._run(lambda link: link.producer.publish({"a": 1}, routing_key=q.identifier), True, None)
            interrupter.has_raised.clear()
            with monkeypatch.context() as patch:
                for kind, method in point:
                    patch.setattr(kind, method, before(getattr(kind, method), interrupter.strike))
                with pytest.raises(error):
                    call()
            assert all_of(q, 1) == [{"a": 1}]
    assert q.empty()


@pytest.mark.parametrize("error", KINDS)
@pytest.mark.parametrize("how", ["ack", "requeue"])
def test_the_end_of_a_lease_that_a_handler_interrupts_raises_what_it_raises(
    q: BrokerQueue, error: type[BaseException], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    q.put("item")
    lease = q.lease(timeout=PATIENCE)
    with interrupting(error) as interrupter, monkeypatch.context() as patch:
        message = kombu.message.Message
        patch.setattr(message, how, before(getattr(message, how), interrupter.strike))
        with pytest.raises(error):
            getattr(lease, how)()
    assert not lease.is_held
    assert not getattr(lease, how)()
    wait_until(lambda: lease._link.connection is None, "the thread that was asked has its answer")
    if how == "ack":  # that thread is not interrupted
        assert q.empty()
    else:
        assert all_of(q, 1) == ["item"]


@pytest.mark.parametrize("error", KINDS)
def test_a_put_that_a_handler_interrupts_raises_what_it_raises(
    q: BrokerQueue, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    for timeout in (None, PATIENCE):
        with interrupting(error) as interrupter, monkeypatch.context() as patch:
            patch.setattr(BrokerQueue, "_publish", after(BrokerQueue._publish, interrupter.strike, 2))
            with pytest.raises(error) as caught:
                q.put_many(["first", "perhaps", "never"], timeout=timeout)
            assert (caught.value.items_put) == 1  # type: ignore[attr-defined]
        q.put("last")
        assert all_of(q, 3) == ["first", "perhaps", "last"]


@pytest.mark.parametrize("kind", BROKERS)
@pytest.mark.parametrize("error", [Interruption, KeyboardInterrupt])
def test_a_put_that_a_handler_interrupts_does_not_wait_for_a_silent_broker(
    kind: str, error: type[BaseException], servers: Servers, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = PATIENCE / 3  # for a farewell to the broker
    monkeypatch.setattr("shmqueue.broker.links._FAREWELL", patience)
    monkeypatch.setattr("shmqueue.broker.redis._ANSWER", patience)
    server = servers.of(kind)
    with shmqueue.connect(server.url(name)) as q:
        q.put("leased")
        lease: Any = q.lease(timeout=PATIENCE)  # that it has, Redis is to be told at the end of the connection
        struck: list[float] = []

        def strike() -> None:
            wait_until(lambda: is_in_use(lease._link), "the connection is in use")
            struck.append(time.monotonic())
            interrupter.strike()

        with interrupting(error) as interrupter, server.stopped():
            striker = threading.Thread(target=strike)
            striker.start()
            with pytest.raises(error):
                q.put("perhaps")
            assert time.monotonic() - struck[0] < patience / 2
            striker.join()
        assert not lease.is_held


@pytest.mark.parametrize("error", KINDS)
@pytest.mark.parametrize("timeout", [None, PATIENCE], ids=["for_ever", "timeout"])
def test_a_handler_that_raises_while_a_connection_is_made_is_heard(
    error: type[BaseException], timeout: float | None
) -> None:
    with interrupting(error) as interrupter, socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        accepted: list[socket.socket] = []

        def accept() -> None:
            accepted.append(listener.accept()[0])
            interrupter.strike()

        acceptor = Call(accept)
        q = shmqueue.connect(f"redis://127.0.0.1:{port}/0?queue=jobs")
        with pytest.raises(error):
            q.get(timeout=timeout)
        acceptor.result()
        for one in accepted:
            one.close()
        q.close()


@pytest.mark.parametrize("error", KINDS)
def test_a_close_that_a_handler_interrupts_can_be_called_again(
    q: BrokerQueue, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    q.put(1)
    has_link, ends = threading.Event(), threading.Event()

    def have_link() -> None:
        q.qsize()
        has_link.set()
        ends.wait(PATIENCE)

    thread = Call(have_link)
    assert has_link.wait(PATIENCE)
    links = list(q._links._all.values())
    with interrupting(error) as interrupter, monkeypatch.context() as patch:
        patch.setattr(Link, "close", before(Link.close, interrupter.strike))
        with pytest.raises(error):
            q.close()
        q.close()
    assert [link.connection for link in links] == [None, None]
    ends.set()
    thread.result()


def test_an_interrupt_while_a_thread_is_started_leaves_none_behind(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The books of ``threading`` are wrong if it comes in ``Thread.start``; that must run in another thread."""
    main, starters = threading.get_ident(), []
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        starters.append(threading.get_ident())
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with shmqueue.connect(f"memory://?queue={name}") as q, interrupting(RuntimeError) as interrupter:
        with monkeypatch.context() as patch:
            patch.setattr(_thread, "start_new_thread", after(_thread.start_new_thread, interrupter.strike))
            with pytest.raises(RuntimeError):
                q.put(1, timeout=PATIENCE)
        q.put(2, timeout=PATIENCE)
        assert q.get(timeout=PATIENCE) == 2
    assert starters
    assert main not in starters
    wait_until(lambda: all(thread.name != "shmqueue-broker" for thread in threading.enumerate()), "all threads end")


ENDING = """
import signal, sys, threading, shmqueue
from shmqueue.broker.queue import BrokerQueue

take, main = BrokerQueue._take, threading.get_ident()
raised = threading.Event()

def interrupt(*_):
    if not raised.is_set():
        raised.set()
        raise KeyboardInterrupt

def take_interrupted(*arguments):
    found = take(*arguments)
    while not raised.wait(0.01):  # a lock that is about to be waited for does not see what came just before
        signal.pthread_kill(main, signal.SIGINT)
    return found

signal.signal(signal.SIGINT, interrupt)
BrokerQueue._take = take_interrupted
shmqueue.connect(sys.argv[1]).get()
"""


@pytest.mark.parametrize("kind", BROKERS)
def test_a_program_that_ctrl_c_ends_in_a_get_gives_back_its_item(kind: str, servers: Servers, name: str) -> None:
    url = servers.of(kind).url(name)
    with shmqueue.connect(url) as q:
        assert isinstance(q, BrokerQueue)
        q.put("item")
        with python(ENDING, url) as child:
            _, errors = child.communicate(timeout=PATIENCE)
        assert child.returncode == -signal.SIGINT, errors
        lines = [line for line in errors.splitlines() if line[:1].strip()]
        assert lines == ["Traceback (most recent call last):", "KeyboardInterrupt"], errors
        assert all_of(q, 1) == ["item"]


def test_an_asker_whose_thread_has_ended_meanwhile_still_answers() -> None:
    asker = Asker()
    worker = asker._working()
    assert worker is not None
    worker.end()
    wait_until(lambda: worker._has_ended, "the thread has ended")
    assert asker.answer(lambda: 5, math.inf) == 5
    asker.close()


@pytest.mark.parametrize("timeout", [None, PATIENCE])
def test_an_interrupted_call_leaves_a_queue_that_works(servers: Servers, name: str, timeout: float | None) -> None:
    server = servers.of("redis")
    with shmqueue.connect(server.url(name)) as q:
        q.put("first")
        with server.stopped():
            interrupt = threading.Timer(0.3, signal.pthread_kill, [threading.get_ident(), signal.SIGINT])
            interrupt.start()
            with pytest.raises(KeyboardInterrupt):
                q.put("perhaps", timeout=timeout)
            interrupt.join()
        q.put("last")
        assert q.get(timeout=PATIENCE) == "first"
        wait_until(lambda: q.get(timeout=PATIENCE) == "last", "what was put afterwards arrives")


LOCKING = """
import sys
from shmqueue.broker.answers import _Call
from shmqueue.broker.links import Links
from support import interruptions, others_can

links = Links("memory://", "jobs", {}, ())
link = links.current()
calls = []

def call():
    if sys.argv[1] == "link":
        link.use(id)
    else:
        calls.append(_Call(int, id))
        calls[-1].is_abandoned()

for number in interruptions(call, 50):
    assert others_can(lambda: link.use(id)), number
    assert others_can(lambda: [call.run() for call in calls]), number
    calls.clear()
"""


@pytest.mark.parametrize("what", ["link", "call"])
def test_a_signal_handler_that_raises_leaves_no_lock_taken(what: str) -> None:
    run_python(LOCKING, what)
