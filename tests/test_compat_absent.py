"""What a queue of one process has and a shared one cannot have: it is refused, with a reason."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from support import Opener

from shmqueue.compat import asyncio as compat_asyncio
from shmqueue.compat import multiprocessing as compat_multiprocessing
from shmqueue.compat import queue as compat_queue


@pytest.mark.parametrize("attribute", ["queue", "mutex", "not_empty", "not_full", "all_tasks_done"])
def test_private_memory_is_refused_with_a_reason(our_queues: Opener, attribute: str) -> None:
    q = our_queues.Queue()
    assert not hasattr(q, attribute)
    with pytest.raises(AttributeError, match=rf"(?s)\b{attribute}\b.*processes"):
        getattr(q, attribute)
    with pytest.raises(AttributeError):
        q.no_such_thing  # noqa: B018


@pytest.mark.parametrize("kind", ["LifoQueue", "PriorityQueue"])
def test_other_orders_are_refused_with_a_reason(our_queues: Opener, kind: str) -> None:
    with pytest.raises(ImportError, match=kind):
        exec(f"from shmqueue.compat.queue import {kind}")
    with pytest.raises(ImportError, match="no_such_thing"):
        exec("from shmqueue.compat.queue import no_such_thing")


@pytest.mark.parametrize("module", [compat_queue, compat_asyncio])
@pytest.mark.parametrize("kind", ["LifoQueue", "PriorityQueue"])
def test_a_program_may_ask_for_other_orders(module: ModuleType, kind: str) -> None:
    assert not hasattr(module, kind)
    assert getattr(module, kind, None) is None
    with pytest.raises(AttributeError, match="oldest item"):
        getattr(module, kind)


@pytest.mark.parametrize("make", [compat_queue.Queue, compat_asyncio.Queue, compat_multiprocessing.Queue])
def test_a_name_in_place_of_maxsize_is_refused(make: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="name='jobs'"):
        make("jobs")


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue"])
@pytest.mark.parametrize("attribute", ["_buffer", "_sem", "_notempty", "_poll_of_mine"])
def test_an_attribute_that_cannot_exist_says_why(our_mp: Opener, kind: str, attribute: str) -> None:
    q = getattr(our_mp, kind)()
    with pytest.raises(AttributeError, match=attribute):
        getattr(q, attribute)
