"""What the ``doctor`` command tells about the installation, as plain data."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import warnings
from dataclasses import dataclass

import shmqueue
from shmqueue import PortableEngineWarning, ShmQueueError, inspection, segment
from shmqueue import engine as engines
from shmqueue.cli.exits import one_line
from shmqueue.cli.inspection import is_orphan, list_queues
from shmqueue.inspection import QueueInfo

__all__ = ["Doctor", "examine_installation"]

COMFORTABLE_FREE_BYTES = 64 << 20


@dataclass(frozen=True)
class Doctor:
    """What an installation is like. ``free`` is in bytes; it and ``engine`` are None where they are unknown.

    ``strays`` are the names of files that belong to no queue: they do no harm, and are not among the warnings.

    ``file_system`` says what the directory's can do, None if it takes no file; ``warnings`` are what is wrong.
    ``notes`` are what other programs have left: the installation is in order all the same.

    ``robust_lists`` tells whether the kernel frees a lock of the native engine when its owner dies; None, it cannot be
    tried. Without them the next process that waits for the lock frees it, within 0.1 s, so that is not among the
    warnings.
    """

    engine: str | None
    reason: str | None
    python: str
    platform: str
    directory: str
    free: int | None
    file_system: dict[str, bool] | None
    robust_lists: bool | None
    orphans: list[QueueInfo]
    swept: list[QueueInfo]
    strays: list[str]
    swept_strays: list[str]
    versions: dict[str, str]
    warnings: list[str]
    notes: list[str]


def examine_installation(sweep: bool) -> Doctor:
    """Find out which engine new queues get and why, where segments are, and which of them no process has open.

    Args:
        sweep: whether to remove the latter.
    """
    engine, reason = _engine()
    probe = segment.probe_directory()
    swept_strays = inspection.remove_strays() if sweep else []
    swept = inspection.remove_orphans() if sweep else []
    queues = [queue.info for queue in list_queues(all_users=False)]
    orphans = [info for info in queues if is_orphan(info)]
    concern = _directory_concern(probe)
    concerns = [concern] if concern else []
    if engine is None:
        concerns.append(f"no queue can be opened: {reason}")
    elif engines.REASON is not None and sys.platform.startswith("linux"):
        concerns.append(f"queues are much slower than they could be: {engines.REASON}")
    concerns += [f"queue {info.name!r} cannot be opened: {info.problem}" for info in queues if info.problem]
    return Doctor(
        engine=engine,
        reason=reason,
        python=f"{platform.python_implementation()} {platform.python_version()}",
        platform=platform.platform(),
        directory=probe.directory,
        free=probe.free_bytes,
        file_system=_abilities(probe),
        robust_lists=_robust_lists(),
        orphans=orphans,
        swept=swept,
        strays=inspection.list_strays(),
        swept_strays=swept_strays,
        versions={"shmqueue": shmqueue.__version__, "msgpack": _version("msgpack"), "shmlock": _version("shmlock")},
        warnings=concerns,
        notes=[_about_orphans(len(orphans))] if orphans else [],
    )


def _about_orphans(count: int) -> str:
    many = "1 queue uses memory that no process has" if count == 1 else f"{count} queues use memory that no process has"
    which = "it" if count == 1 else "them"
    return f"{many} open: open {which} to get the items, or remove {which} with shmqueue rm --orphans"


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


def _robust_lists() -> bool | None:
    try:
        return engines.marks_dead_owners()
    except OSError:
        return None


def _abilities(probe: segment.DirectoryProbe) -> dict[str, bool] | None:
    if probe.problem is not None:
        return None
    return {
        "locks": probe.locks,
        "nameless_files": probe.nameless_files,
        "hard_links": probe.hard_links,
        "reserves_memory": probe.reserves_memory,
    }


def _directory_concern(probe: segment.DirectoryProbe) -> str | None:
    """What is wrong with the directory of segments, if anything."""
    if probe.problem is not None:
        return f"no queue can be made in {probe.directory!r} (SHMQUEUE_DIR chooses another directory): {probe.problem}"
    if probe.free_bytes is not None and probe.free_bytes < COMFORTABLE_FREE_BYTES:
        return (
            f"{probe.directory} has only {probe.free_bytes} bytes free: large queues will not fit "
            "(containers often have 64 MiB, which --shm-size changes)"
        )
    return None


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
