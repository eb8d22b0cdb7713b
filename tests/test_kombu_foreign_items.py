"""Items of other programs in a queue of ``shm://``: they are logged once, and hold up no message."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from support import PATIENCE

pytest.importorskip("kombu", reason="kombu is not installed")

import kombu
from kombu_support import JOBS, Connect, publish, take

from shmqueue import ShmQueue
from shmqueue.compat._kombu_topology import segment_name

pytestmark = pytest.mark.usefixtures("engine")


MESSAGE = {"body": "x", "headers": {}, "properties": {"delivery_info": {}}}

FOREIGN: list[Any] = [
    {"width": 640},
    5,
    None,
    "text",
    '{"width": 640}',
    "[0, ",
    b"\xff" * 1000,
    (0.0, "text"),
    ("never", MESSAGE),
    (0.0, {}),
    (0.0, {**MESSAGE, "properties": None}),
    (0.0, {**MESSAGE, "properties": {}}),
    (0.0, {**MESSAGE, "headers": None}),
    (0.0, {**MESSAGE, "properties": {"delivery_info": {}, "body_encoding": "rot13"}}),
    (0.0, MESSAGE, 1),
    {1, 2},  # which needs pickle
    '{"__type__": "decimal", "__value__": "none"}',
]


@pytest.mark.parametrize("item", FOREIGN, ids=lambda item: f"{item!r:.30}")
@pytest.mark.parametrize("consumes", [False, True])
def test_an_item_of_another_program_is_logged_once_and_holds_up_nothing(
    connect: Connect, caplog: pytest.LogCaptureFixture, item: Any, consumes: bool
) -> None:
    connection = connect()
    channel = connection.channel()
    JOBS(channel).declare()
    with ShmQueue(segment_name("", "jobs", 0)) as q:
        q.put(item)
    publish(channel, "good")
    got: list[Any] = []

    def callback(body: Any, message: Any) -> None:
        got.append(body)
        message.ack()

    with caplog.at_level(logging.ERROR, "shmqueue"):
        if consumes:
            with kombu.Consumer(channel, [JOBS], callbacks=[callback]):
                connection.drain_events(timeout=PATIENCE)
        else:
            got.append(take(channel))
    assert got == ["good"]
    assert JOBS(channel).get() is None
    assert JOBS(channel)(channel).queue_declare(passive=True).message_count == 0
    (record,) = caplog.records
    assert "queue 'kombu.jobs'" in record.getMessage()
    assert len(record.getMessage()) < 500
    if isinstance(item, dict):
        assert "{'width': 640}" in record.getMessage()
