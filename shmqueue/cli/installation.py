"""What the ``doctor`` command tells about the installation, as plain data."""

from __future__ import annotations

import importlib.metadata
import platform
import warnings
from dataclasses import dataclass

import shmqueue
from shmqueue import PortableEngineWarning, ShmQueueError, segment
from shmqueue import engine as engines
from shmqueue.cli.inspection import can_see_holders, one_line
from shmqueue.inspection import remove_orphans

__all__ = ["Doctor", "examine_installation"]

COMFORTABLE_FREE_BYTES = 64 << 20


@dataclass(frozen=True)
class Doctor:
    """What an installation is like. ``free`` is in bytes, None where it cannot be told; so is ``engine``."""

    engine: str | None
    reason: str | None
    python: str
    platform: str
    directory: str
    free: int | None
    orphans: list[str]
    swept: list[str]
    versions: dict[str, str]
    warnings: list[str]


def examine_installation(sweep: bool) -> Doctor:
    """Find out which engine serves and why, where segments lie, and what lies there that nobody holds.

    Args:
        sweep: whether to remove the latter.
    """
    engine, reason = _engine()
    free, no_memory = _free_bytes()
    swept = [info.name for info in remove_orphans()] if sweep else []
    orphans = _orphans()
    concerns = [no_memory] if no_memory else []
    if engine is None:
        concerns.append(f"no queue can be opened: {reason}")
    elif reason is not None and engine != "native":
        concerns.append(f"queues are much slower than they could be: {reason}")
    if orphans:
        concerns.append(f"{len(orphans)} queues are held by nobody; 'shmqueue doctor --sweep' removes them")
    return Doctor(
        engine=engine,
        reason=reason,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        directory=segment.directory(),
        free=free,
        orphans=orphans,
        swept=swept,
        versions={"shmqueue": shmqueue.__version__, "msgpack": _version("msgpack"), "shmlock": _version("shmlock")},
        warnings=concerns,
    )


def _engine() -> tuple[str | None, str | None]:
    """The engine that new queues get, and why it is not the native one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PortableEngineWarning)  # the same is said in what is returned
            engine = engines.chosen()
    except ShmQueueError as error:
        return None, one_line(error)
    if engine == "native":
        return engine, None
    return engine, engines.REASON or "the environment variable SHMQUEUE_ENGINE asks for it"


def _free_bytes() -> tuple[int | None, str | None]:
    """Bytes free for segments, and what is wrong with them."""
    try:
        free = segment.free_bytes()
    except OSError as error:
        return None, f"there is no place for segments: {one_line(error)}"
    if free < 0:
        return None, None
    if free < COMFORTABLE_FREE_BYTES:
        return free, (
            f"{segment.directory()} has only {free} bytes free: large queues will not fit "
            "(container runtimes allow 64 MiB unless told otherwise, for example with --shm-size)"
        )
    return free, None


def _orphans() -> list[str]:
    """Names of the segments that nobody holds; none where holders cannot be seen."""
    if not can_see_holders():
        return []
    orphans = []
    for name in segment.list_names():
        try:
            path = segment.path_of(name)
            segment.read_header(path)  # a file that is no segment is nobody's orphan
        except ShmQueueError:
            continue
        if not segment.holders_of(path):
            orphans.append(name)
    return orphans


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
