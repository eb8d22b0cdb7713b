"""What ``connect(url)`` understands: the parts of a URL, the options beside it, and kombu's transports."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

import kombu
import kombu.transport.base
from broker_servers import Servers

import shmqueue
from shmqueue.broker.urls import BrokerUrl, shown


def test_a_shared_queue_has_the_shape_of_the_urls_query(name: str) -> None:
    with shmqueue.connect(f"shm://{name}?max_bytes=65536&maxsize=3&keep=yes") as q:
        assert isinstance(q, shmqueue.ShmQueue)
        assert (q.identifier, q.max_buffer_size(), q.maxsize, q.keep) == (name, 65536, 3, True)
        q.unlink()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("shm://", "shm://NAME"),
        ("shm://jobs/other", "shm://NAME"),
        ("shm://jobs?size=1", "size=1 means nothing"),
        ("shm://jobs?maxsize=many", "whole number"),
        ("shm://user:secret@jobs", "without user, port"),
        ("shm://jobs:6379", "without user, port"),
        ("shm://jobs#part", "fragment"),
        ("shm://jobs?keep=1&keep=0", "keep twice"),
        ("jobs", "no scheme: write shm://NAME"),
        ("localhost:6379/0?queue=jobs", "no scheme"),
        ("redis://localhost/0", "names no queue"),
        ("redis://localhost/0?queue=a&queue=b", "queue twice"),
        ("redis://localhost/0?queue=a#b", "fragment"),
        ("redis://:secret@localhost:port/0?queue=jobs", "impossible host or port"),
        ("redis://:se/cret@localhost/0?queue=jobs", "impossible host or port"),
        ("redis://localhost:99999/0?queue=jobs", "impossible host or port"),
        ("redis://[::1/0?queue=jobs", "impossible host or port"),
        ("redis://localhost/first?queue=jobs", "database by a number"),
        ("redis://localhost/0?queue=jobs&nonsense=1", "nonsense"),
        ("sentinel://one:26379;sentinel://other:x/0?queue=jobs", "impossible host or port"),
        ("sentinel://one:26379;sentinel://other:26379/0?queue=jobs", "master_name"),
        ("amqp://localhost:x//?queue=jobs", "impossible host or port"),
        ("nonsense://localhost/?queue=jobs", "no transport"),
        ("os.path://localhost/?queue=jobs", "no scheme"),
        ("redis://:secret@localhost/?queue=jobs&visibility_timeout=x", "number of seconds"),
        ("redis://localhost/?queue=jobs&visibility_timeout=-1", "more than 0"),
        ("redis://localhost/?queue=jobs&visibility_timeout=nan", "finite"),
    ],
)
def test_a_url_that_means_nothing_is_refused(url: str, why: str) -> None:
    with pytest.raises(shmqueue.ShmQueueValueError, match=why) as caught:
        shmqueue.connect(url)
    assert "secret" not in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"retry_policy": 5}, shmqueue.ShmQueueTypeError, "retry_policy must be a mapping"),
        ({"retry_policy": {5: 5}}, shmqueue.ShmQueueTypeError, "keys of retry_policy"),
        ({"retry_policy": {"tries": 1}}, shmqueue.ShmQueueValueError, "tries"),
        ({"retry_policy": {"max_retries": "2"}}, shmqueue.ShmQueueTypeError, "max_retries of retry_policy"),
        ({"retry_policy": {"max_retries": -1}}, shmqueue.ShmQueueValueError, "max_retries of retry_policy"),
        ({"retry_policy": {"interval_start": "1"}}, shmqueue.ShmQueueTypeError, "interval_start of retry_policy"),
        ({"retry_policy": {"interval_step": -0.1}}, shmqueue.ShmQueueValueError, "interval_step of retry_policy"),
        ({"retry_policy": {"interval_max": float("nan")}}, shmqueue.ShmQueueValueError, "interval_max of retry_policy"),
        ({"transport_options": 5}, shmqueue.ShmQueueTypeError, "transport_options must be a mapping"),
        ({"transport_options": {"visibility_timeout": "x"}}, shmqueue.ShmQueueTypeError, "visibility_timeout"),
        ({"transport_options": {"visibility_timeout": 0}}, shmqueue.ShmQueueValueError, "visibility_timeout"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        shmqueue.connect("redis://localhost/0?queue=jobs", **options)


def test_arguments_of_other_kinds_are_refused() -> None:
    with pytest.raises(shmqueue.ShmQueueTypeError, match="url must be a str"):
        shmqueue.connect(5)  # type: ignore[arg-type]
    with pytest.raises(shmqueue.ShmQueueValueError, match="for brokers, not for shm"):
        shmqueue.connect("shm://jobs", retry_policy={})


def test_what_kombu_finds_wrong_when_it_connects_is_an_error_of_ours(servers: Servers, name: str) -> None:
    q: Any = shmqueue.connect(servers.of("redis").url(name), transport_options={"max_connections": "many"})
    with q, pytest.raises(shmqueue.ShmQueueValueError, match="transport_options"):
        q.put(1)


@pytest.mark.parametrize("key", ["maxsize", "max_bytes", "buffer_size", "keep"])
def test_a_broker_has_no_sizes(key: str) -> None:
    with pytest.raises(shmqueue.ShmQueueUnsupportedError, match=f"{key} cannot be had"):
        shmqueue.connect(f"redis://localhost/0?queue=jobs&{key}=1")


def test_a_transport_without_its_client_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of kombu's modules raise a NameError then."""
    module = "class Transport(NoSuchClient): pass\n"
    monkeypatch.setitem(kombu.transport.TRANSPORT_ALIASES, "absent", lambda: exec(module, {}))
    with pytest.raises(ImportError, match=r"cannot use url.*NoSuchClient"):
        shmqueue.connect("absent://localhost/?queue=jobs")


def test_a_transport_that_does_not_know_its_clients_errors_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Absent(kombu.transport.base.Transport):  # type: ignore[misc]
        connection_errors = (None,)

    monkeypatch.setitem(kombu.transport.TRANSPORT_ALIASES, "absent", lambda: Absent)
    with pytest.raises(ImportError, match="cannot use url 'absent:"):
        shmqueue.connect("absent://localhost/?queue=jobs")
    with suppress(ImportError):
        shmqueue.connect("SLMQ://localhost/?queue=jobs")


@pytest.mark.parametrize(
    ("url", "asked", "told"),
    [
        ("memory://?queue=j", "memory://", "memory://"),
        ("filesystem://?queue=j", "filesystem://", "filesystem://"),
        ("redis+socket:///a/b.sock?queue=j", "redis+socket:///a/b.sock", "redis+socket:///a/b.sock"),
        ("redis://h/0?queue=j&ssl=%2Fx", "redis://h/0?ssl=%2Fx", "redis://h/0"),
        ("amqp://u:p@h//?queue=j", "amqp://u:p@h//", "amqp://u:**@h//"),
        ("amqp://u:a@b:c@h/%2Fv?queue=j", "amqp://u:a@b:c@h/%2Fv", "amqp://u:**@h/%2Fv"),
        (
            "sentinel://a:1;sentinel://b:2/0?queue=j",
            "sentinel://a:1;sentinel://b:2/0",
            "sentinel://a:1;sentinel://b:2/0",
        ),
    ],
)
def test_the_rest_of_a_url_is_kombus_as_it_was_written(url: str, asked: str, told: str) -> None:
    parts = BrokerUrl.of(url)
    assert (parts.url, parts.queue, shown(url)) == (asked, "j", told)


@pytest.mark.parametrize("scheme", ["memory", "filesystem"])
def test_transports_without_a_server_work(scheme: str, tmp_path: Path, name: str) -> None:
    options = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path), "control_folder": str(tmp_path)}
    with shmqueue.connect(f"{scheme}://?queue={name}", transport_options=options) as q:
        q.put(1)
        assert q.get(timeout=PATIENCE) == 1
        assert f"at {scheme}://" in repr(q)
