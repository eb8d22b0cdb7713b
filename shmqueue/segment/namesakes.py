"""Queues of other users that have the name of a new one: that is often a mistake, and nothing else shows it.

A queue is private to a user, so the file of a segment has the user in its name, and two users who open a queue by one
name have two queues. A program that is run with sudo, or as a service, finds an empty one and waits.
"""

from __future__ import annotations

import logging
import os
import re

from shmqueue.interruptions import not_of_handler
from shmqueue.segment.holders import holders_of
from shmqueue.segment.naming import describe_user, file_prefix, user_of

__all__ = ["warn_of_namesakes"]


def warn_of_namesakes(name: str, path: str, entries: list[str]) -> None:
    """Log a warning if another user has a queue open that is called as a new one.

    Looked at are the user root, the caller of sudo, the real user of a process that runs as another one, and all
    whose files are among ``entries``: so the cost does not depend on how many queues there are.

    Args:
        name: of the new queue.
        path: of its segment.
        entries: names in its directory, as far as they have been listed.
    """
    user = user_of(path)
    if user is None:
        return
    within, own = os.path.dirname(path), file_prefix(user)
    escaped = os.path.basename(path)[len(own) :]
    for other in sorted(_likely_users() | _users_among(entries, escaped)):
        theirs = os.path.join(within, file_prefix(other) + escaped)
        if other != user and _belongs_to(theirs, other) and holders_of(theirs):
            logging.getLogger("shmqueue").warning(
                "queue %r of user %s is new, and user %s has another queue of that name open in %s: queues are private "
                "to a user, and these two have nothing to do with each other",
                name,
                describe_user(user),
                describe_user(other),
                within,
            )


def _likely_users() -> set[int]:
    users = {0, os.getuid()}
    caller = os.environ.get("SUDO_UID", "")
    if caller.isdecimal():
        users.add(int(caller))
    return users


def _users_among(entries: list[str], escaped: str) -> set[int]:
    pattern = re.compile(rf"shmqueue-([0-9]+)-{re.escape(escaped)}")
    return {int(found[1]) for found in map(pattern.fullmatch, entries) if found is not None}


def _belongs_to(path: str, user: int) -> bool:
    try:
        return os.lstat(path).st_uid == user
    except not_of_handler(OSError):
        return False
