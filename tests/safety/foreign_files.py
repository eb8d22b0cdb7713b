"""Whatever lies at a queue's path or comes out of a queue: what is not ours is refused, and left as it is.

Fails if: something that is not this user's queue is opened, changed, or loaded; or is refused with the words for
something else.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable
from typing import Any

from shmqueue import ShmQueue, segment
from shmqueue.compat import multiprocessing as compat_multiprocessing
from shmqueue.compat import queue as compat_queue
from shmqueue.exceptions import ShmQueueError, ShmQueueExistsError, ShmQueueRefusedError
from shmqueue.inspection import list_queues

from .busy import at_least
from .hostile import hostile_headers, hostile_records
from .outcome import Mutant, Options, Outcome
from .planted import PLANTED, Planted
from .rooms import why_no_pid_namespace
from .strangers import another_pid_namespace, another_user, linked_directory
from .trials import Notes, run_trial, run_until_hung

TITLE = "What is not this user's queue"
TARGET = "target"
PATIENCE = at_least(10.0)  # seconds: nothing waits for anything here

MUTANTS = (
    Mutant(
        "symbolic links are followed",
        "shmqueue/segment/lifecycle.py",
        'OPEN_FLAGS | getattr(os, "O_NOFOLLOW", 0))\n        except not_of_handler(FileNotFoundError):\n',
        "OPEN_FLAGS)\n        except not_of_handler(FileNotFoundError):\n",
    ),
    Mutant("a file that others may access is taken", "shmqueue/segment/files.py", "status.st_mode & 0o077", "False"),
    Mutant(
        "opening a fifo waits", "shmqueue/segment/sidecar.py", 'flags | getattr(os, "O_NONBLOCK", 0) | ', "flags | "
    ),
    Mutant("any checksum will do", "shmqueue/segment/header.py", "!= zlib.crc32(data[: FIELDS.size])", "is None"),
    Mutant(
        "any pid namespace will do",
        "shmqueue/segment/lifecycle.py",
        "if found.pid_namespace != ours:",
        "if ours is None:",
    ),
    Mutant(
        "a sweep takes any file",
        "shmqueue/segment/removal.py",
        "    if not isinstance(header, Header) or header.keep or transit.is_awaited(fd):\n        return False\n",
        "    if not isinstance(header, Header):\n        return True\n",
    ),
    Mutant(
        "what is in use and cannot be used is replaced",
        "shmqueue/segment/lifecycle.py",
        "            if is_alone and opening is not None and opening.makes_way(fd, found):",
        "            if opening is not None and opening.makes_way(fd, found):",
    ),
    Mutant(
        "pickles are loaded whatever was said",
        "shmqueue/serialization.py",
        "if method in (_PICKLE, _PICKLE_BUFFERS) and not self.allow_pickle:",
        "if method is None:",
    ),
)


def run(options: Options) -> Outcome:
    return run_until_hung(_try_all, options)


def _try_all(options: Options, outcome: Outcome) -> None:
    is_root = os.geteuid() == 0
    said: dict[str, str] = {}
    for planted in PLANTED:
        if planted.only_root and not is_root:
            outcome.figures[f"not run: {planted.name}"] = "only root can make one"
            continue
        for sentence in _in_directory(outcome, planted.name, lambda notes: try_planted(notes, planted)):  # noqa: B023
            before = said.setdefault(sentence, planted.words)
            if before != planted.words:
                outcome.fault(f"{planted.name}: refused with the words of something else: {sentence}")
    outcome.figures["different sentences"] = len(said)
    rounds = 40 if options.is_long else 1
    _in_directory(outcome, "headers that lie", hostile_headers)
    for number in range(rounds):
        _in_directory(outcome, "records", lambda notes: hostile_records(notes, options.seed + number))  # noqa: B023
    _in_directory(outcome, "a directory by another name", linked_directory)
    if is_root:
        _in_directory(outcome, "another user", another_user)
    else:
        outcome.figures["not run: another user"] = "only root can become one"
    why = why_no_pid_namespace() if is_root else "only root stays the same user in one"
    if why is None:
        _in_directory(outcome, "a process in another pid namespace", another_pid_namespace)
    else:
        outcome.figures["not run: a process in another pid namespace"] = why


def _in_directory(outcome: Outcome, what: str, trial: Callable[[Notes], None]) -> list[str]:
    """Run a trial that has a directory for segments to itself."""
    outer = os.environ["SHMQUEUE_DIR"]
    inner = os.path.join(outer, "inner")
    os.mkdir(inner, 0o700)
    os.environ["SHMQUEUE_DIR"] = inner
    try:
        return run_trial(outcome, what, trial, PATIENCE)
    finally:
        os.environ["SHMQUEUE_DIR"] = outer
        shutil.rmtree(inner)


# ---- at the queue's path ----


def try_planted(notes: Notes, planted: Planted) -> None:
    """Open the queue in all ways; each is refused, and all is as it was."""
    path = segment.path_of(TARGET)
    try:
        planted.plant(path)
    except PermissionError as error:  # a container may not make everything
        notes.count(f"not run, because it cannot be made: {planted.name} ({error.strerror})")
        return
    before = _fingerprint(os.path.dirname(path))
    ways: list[Callable[[], Any]] = [
        lambda: ShmQueue(TARGET),
        lambda: ShmQueue(TARGET, create=False),
        lambda: ShmQueue(TARGET, max_bytes=0),
        lambda: compat_queue.Queue(name=TARGET),
        lambda: compat_multiprocessing.Queue(name=TARGET),
    ]
    for number, way in enumerate(ways):
        sentence = _refusal(notes, way, planted)
        if sentence is not None and number == 0:
            notes.say(sentence.replace(path, "PATH"))
    try:
        ShmQueue(TARGET, create=True)
        notes.fault("create=True made a queue")
    except (ShmQueueExistsError, ShmQueueRefusedError) as error:
        notes.require(error.filename == path, f"create=True names no path: {error}")
    listed = [entry.problem for entry in list_queues() if entry.name == TARGET]
    notes.require(len(listed) == 1, f"the list has it {len(listed)} times")
    ShmQueue("bystander").shutdown()  # which sweeps
    swept = segment.sweep_orphans()
    notes.require(swept == [], f"swept away: {swept}")
    after = _fingerprint(os.path.dirname(path))
    notes.require(after == before, f"changed: {sorted(before.items() ^ after.items())}")
    notes.count("things at the queue's path")


def _refusal(notes: Notes, way: Callable[[], Any], planted: Planted) -> str | None:
    try:
        way()
    except ShmQueueRefusedError as error:
        sentence = str(error)
        notes.require(re.search(planted.words, sentence), f"unclear: {sentence}")
        notes.require(TARGET in sentence, f"names neither queue nor path: {sentence}")
        notes.count("openings refused")
        return sentence
    except (ShmQueueError, OSError) as error:
        notes.fault(f"{type(error).__name__} instead of a refusal: {error}")
    else:
        notes.fault("it was not refused")
    return None


def _fingerprint(directory: str) -> dict[str, tuple[object, ...]]:
    """All that can be seen of the files in a directory, and of what links lead to."""
    prints: dict[str, tuple[object, ...]] = {}
    for entry in os.scandir(directory):
        status = entry.stat(follow_symlinks=False)
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = os.readlink(entry.path)
        elif stat.S_ISREG(status.st_mode):
            with open(entry.path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
        prints[entry.name] = (
            status.st_ino,
            status.st_mode,
            status.st_uid,
            status.st_nlink,
            status.st_mtime_ns,
            content,
        )
    return prints
