"""Queues by a URL keep the conformance kit's profile of brokers, at each broker and in shared memory."""

from __future__ import annotations

import pytest

pytest.importorskip("kombu", reason="kombu is not installed")
pytest.importorskip("redis", reason="redis, which kombu needs for Redis, is not installed")

from broker_servers import Servers

from shmqueue.conformance.profiles import PROFILES
from shmqueue.conformance.suite import Amount, Verdict, run_suite
from shmqueue.conformance.target import Target

BY_CHANCE = {"amqp": ("killed-busy", "out of order")}
"""The clause that the table in the kit's README says may be broken when a process is killed, and how."""


@pytest.mark.thorough
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["shm", "redis", "amqp"])
def test_a_queue_by_a_url_keeps_the_profile_of_brokers(
    kind: str, servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "shm":
        url = "shm://{}?max_bytes=0"
    else:
        url = servers.of(kind).url("{}").replace("visibility_timeout=2", "visibility_timeout=10")
    monkeypatch.setenv("CONFORMANCE_URL", url)
    results = run_suite(Target("peers.like_standard:connected", "fork"), PROFILES["broker"], Amount(15, seed=3))
    broken = {result.clause.key: result.why for result in results if result.verdict is Verdict.BROKEN}
    clause, how = BY_CHANCE.get(kind, ("", ""))
    if how in broken.get(clause, ""):
        broken.pop(clause, None)
    assert broken == {}
    kept = {result.clause.key for result in results if result.verdict is Verdict.KEPT}
    assert {"fifo", "linear", "killed-busy", "lease-again", "lease-alone", "close"} - {clause} <= kept
