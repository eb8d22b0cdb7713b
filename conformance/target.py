"""The queue class under test: how to make one, and what kind of worker can use it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import multiprocessing
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .profiles import Profile

__all__ = ["START_METHODS", "Target"]

START_METHODS = ("threads", "fork", "spawn", "forkserver")


@dataclass(frozen=True)
class Target:
    """Where a queue class is found, and how the processes that use it are started.

    ``spec`` is ``module:factory``; ``start_method`` one of ``START_METHODS``.
    """

    spec: str
    start_method: str

    def factory(self) -> Callable[..., Any]:
        """What makes queues. In a module with contexts, such as multiprocessing, that of the start method's context.

        Raises:
            ValueError: the spec is not ``module:factory``, or there is none.
        """
        module_name, _, path = self.spec.partition(":")
        if not path:
            raise ValueError(f"a target is module:factory, not {self.spec!r}")
        try:
            owner: Any = importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(f"cannot import {module_name!r}: {error}") from error
        if hasattr(owner, "get_context") and self.start_method != "threads":
            owner = owner.get_context(self.start_method)
        for part in path.split("."):
            if not hasattr(owner, part):
                raise ValueError(f"there is no {part!r} in {module_name!r}")
            owner = getattr(owner, part)
        factory: Callable[..., Any] = owner
        return factory

    def context(self) -> Any | None:
        """The context of multiprocessing whose processes use the queues; None for threads."""
        return None if self.start_method == "threads" else multiprocessing.get_context(self.start_method)

    def takes_name(self) -> bool:
        """Whether the factory takes ``name=``."""
        try:
            return "name" in inspect.signature(self.factory()).parameters
        except (TypeError, ValueError):
            return False

    def make(self, profile: Profile, maxsize: int, name: str | None = None) -> Any:
        """A queue. One that needs a name and is given none gets one that nobody else has."""
        if name is None and profile.needs_name:
            name = f"conformance-{os.getpid()}-{uuid.uuid4().hex}"
        return profile.make(self.factory(), maxsize, name)

    def dispose(self, profile: Profile, queue: Any) -> None:
        """Close a queue that was made here, whatever its state."""
        with contextlib.suppress(Exception):
            if hasattr(queue, "cancel_join_thread"):
                queue.cancel_join_thread()
            getattr(queue, profile.close_method)()
