"""Messages on ``shm://`` for which there is no room: those whose time is over make way; full memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import PATIENCE

pytest.importorskip("kombu", reason="kombu is not installed")

import kombu
from kombu_support import JOBS, Connect, publish, take

import shmqueue

pytestmark = pytest.mark.usefixtures("engine")


# ---- messages whose time is over ----


EVENTS = kombu.Queue("events", kombu.Exchange("everybody", "fanout"), message_ttl=0.1)


def test_a_publish_without_room_drops_messages_whose_time_is_over(connect: Connect) -> None:
    """As when the subscriber is stopped and takes none."""
    publisher = connect(max_bytes=65536, put_timeout=PATIENCE)
    channel = publisher.channel()
    for number in range(200):  # each waits until the time of those before it is over, no longer
        publish(channel, f"{number:1000}", queue=EVENTS)
    time.sleep(0.2)  # the time of all that are there is over
    publish(channel, "x" * 40000, queue=EVENTS, expiration=PATIENCE)
    assert EVENTS(channel).queue_declare(passive=True).message_count == 1


def test_a_message_that_is_worth_something_is_not_dropped_and_not_leased_for_room(connect: Connect) -> None:
    channel = connect(max_bytes=65536, put_timeout=0.05).channel()
    publish(channel, "first" + "x" * 20000, expiration=3600)
    publish(channel, "second" + "x" * 20000, expiration=0.001)
    publish(channel, "third" + "x" * 20000)
    time.sleep(0.002)  # the time of the second one is over, which is not at the head
    with pytest.raises(shmqueue.ShmQueueFull, match=r"after 0.05 s"):
        publish(channel, "fourth" + "x" * 20000)
    message = JOBS(channel).get()
    assert message is not None
    assert message.payload[:5] == "first"
    assert "redelivered" not in message.headers
    message.ack()
    assert take(channel)[:5] == "third"


def test_a_requeued_message_whose_time_is_over_holds_up_no_publish(connect: Connect) -> None:
    channel = connect(max_bytes=65536, put_timeout=0.05).channel()
    publish(channel, "first" + "x" * 40000, expiration=0.05)
    message = JOBS(channel).get()
    assert message is not None
    publish(channel, "second" + "x" * 40000, expiration=0.05)
    message.requeue()
    time.sleep(0.05)  # the time of both is over: nothing but time ends it
    publish(channel, "third" + "x" * 40000)
    assert JOBS(channel).queue_declare(passive=True).message_count == 1
    assert take(channel)[:5] == "third"


# ---- full memory ----

FULL = """
import os, sys, kombu, shmqueue.compat.kombu
from shmqueue import ShmQueueFull, ShmQueueNoSpaceError
connection = kombu.Connection("shm://", transport_options={"put_timeout": 0.05, "declare_timeout": 0.2})
channel = connection.channel()
for name in "ab":
    kombu.Queue(name)(channel).declare()
producer = kombu.Producer(channel)
sent = {"a": 0, "b": 0}
for size in (50000, 5000, 500, 50):
    for name in sent:
        try:
            while True:
                producer.publish(b"x" * size, routing_key=name, content_encoding="binary", content_type="x/y")
                sent[name] += 1
        except ShmQueueFull:
            pass
status = os.statvfs(os.environ["SHMQUEUE_DIR"])
assert status.f_bavail == 0, status
try:
    for number in range(1000):
        kombu.Queue(f"another{number}", kombu.Exchange("x"), "x" * 1000)(channel).declare()
    print("declared")
except (ShmQueueFull, ShmQueueNoSpaceError):
    print("refused")
taker = kombu.Connection("shm://").channel()
for name, count in sent.items():
    held = []
    for _ in range(count):
        message = taker.basic_get(name)
        if message is None:  # no memory for more leases than these
            assert len(held) >= 60, len(held)
            held.pop(0).ack()
            message = taker.basic_get(name)
        held.append(message)
    for message in held:
        message.ack()
    print(taker.basic_get(name))
"""


def test_messages_that_have_used_up_all_memory_can_be_taken(engine: str, tmp_path: Path) -> None:
    if engine == "portable":
        pytest.skip("the portable engine copies what it leases, which needs memory")
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    place = tmp_path / "mounted"
    place.mkdir()
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    script = f'mount -t tmpfs -o size=2m tmpfs {place} && echo mounted; exec "$@"'
    ran = subprocess.run(
        [*unshare, "sh", "-c", script, "sh", sys.executable, "-c", FULL],
        cwd=os.path.dirname(__file__),
        env={**os.environ, "SHMQUEUE_DIR": str(place)},
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
    )
    if not ran.stdout.startswith("mounted\n"):
        pytest.skip(f"no mounts of one's own here: {ran.stderr.strip()}")
    assert ran.stdout == "mounted\nrefused\nNone\nNone\n", ran.stderr
