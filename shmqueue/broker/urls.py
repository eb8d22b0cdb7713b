"""URLs of queues: what their parts mean, checked before anything is connected to, and shown without the password.

It imports nothing of kombu, and knows no transport but by its scheme.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple

from shmqueue.exceptions import ShmQueueTypeError, ShmQueueUnsupportedError, ShmQueueValueError

__all__ = ["BrokerUrl", "SharedUrl", "require_options", "scheme_of", "shown"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_CREDENTIALS = re.compile(r"(://[^:@]*):.*@", re.DOTALL)  # to the last @: a password may have some that are not quoted
_SIZES = ("buffer_size", "max_bytes", "maxsize")
_OF_SHARED = (*_SIZES, "keep")
_BOOLS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_NUMBERED = ("redis", "rediss", "sentinel")
"""Schemes whose path is the number of a database."""


def scheme_of(url: Any) -> str:
    """The scheme of a URL, in lower case.

    Raises:
        ShmQueueTypeError: it is no str.
        ShmQueueValueError: it has no scheme, or a part that nothing would look at.
    """
    if not isinstance(url, str):
        raise ShmQueueTypeError(f"url must be a str, not {url!r:.60} ({type(url).__name__})")
    found = _SCHEME.match(url)
    if found is None:
        raise ShmQueueValueError(
            f"url {shown(url)!r} has no scheme: write shm://NAME, or redis://HOST/0?queue=NAME, amqp://HOST//?queue=NAME"
        )
    if "#" in url:
        raise ShmQueueValueError(f"url {shown(url)!r} has a '#': a fragment means nothing here, and '#' is written %23")
    return found[1].lower()


def shown(url: str) -> str:
    """A URL for messages: as it was written, without the password and the query."""
    return _CREDENTIALS.sub(r"\1:**@", url.partition("?")[0])


class SharedUrl(NamedTuple):
    """What ``shm://NAME?...`` means: the name, and arguments of ``ShmQueue``."""

    name: str
    arguments: dict[str, Any]

    @classmethod
    def of(cls, url: str) -> SharedUrl:
        """Take it apart.

        Raises:
            ShmQueueValueError: it has a part that means nothing here.
        """
        parts = _split(url)
        name = urllib.parse.unquote(parts.netloc)
        if not name or parts.path not in ("", "/") or any(mark in parts.netloc for mark in ":@"):
            raise ShmQueueValueError(
                f"a shm:// URL for connect() is shm://NAME, without user, port and path, not {shown(url)!r}"
            )
        arguments: dict[str, Any] = {}
        for key, text, _ in _query(url):
            if key in _SIZES:
                arguments[key] = _whole_number(key, text)
            elif key == "keep" and text.lower() in _BOOLS:
                arguments[key] = _BOOLS[text.lower()]
            else:
                raise ShmQueueValueError(
                    f"{key}={text} means nothing in a shm:// URL: it takes {', '.join(_SIZES)} and keep=1"
                )
        return cls(name, arguments)


class BrokerUrl(NamedTuple):
    """What ``scheme://...?queue=NAME&...`` means: the transport, the URL for kombu, the queue, and options."""

    transport: str
    url: str
    queue: str
    options: dict[str, Any]

    @classmethod
    def of(cls, url: str) -> BrokerUrl:
        """Take it apart. Everything but ``queue`` and ``visibility_timeout`` is left to kombu as it was written.

        Raises:
            ShmQueueValueError: it names no queue, or has an impossible part.
            ShmQueueUnsupportedError: it asks for what only ``ShmQueue`` has.
        """
        scheme = scheme_of(url)
        if "." in scheme:
            raise ShmQueueValueError(f"url {shown(url)!r} has no scheme that kombu knows")
        head = url.partition("?")[0]
        for one in head.split(";"):  # several brokers, one of which is to be reached
            _check_broker(one)
        name, kept, options = "", [], {}
        for key, text, written in _query(url):
            if key in _OF_SHARED:
                raise ShmQueueUnsupportedError(
                    f"{key} cannot be had of a queue at {shown(url)}: the broker's limits are its own"
                )
            if key == "queue":
                name = text
            elif key == "visibility_timeout":
                options[key] = _number(key, text)
            else:
                kept.append(written)
        if not name:
            raise ShmQueueValueError(f"url {shown(url)!r} names no queue: add ?queue=NAME")
        if scheme.startswith(("amqp", "pyamqp")):
            options["confirm_publish"] = True  # or else a put could be lost that has returned
        return cls(scheme.partition("+")[0], "?".join([head, *(["&".join(kept)] if kept else [])]), name, options)


def require_options(name: str, value: Any) -> dict[str, Any]:
    """The value of the argument called ``name``, a mapping or None, as a dict.

    Raises:
        ShmQueueTypeError: it is no mapping, or has keys that are not str.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ShmQueueTypeError(f"{name} must be a mapping or None, not {value!r:.60} ({type(value).__name__})")
    wrong = next((key for key in value if not isinstance(key, str)), None)
    if wrong is not None:
        raise ShmQueueTypeError(f"the keys of {name} must be str, not {wrong!r:.60}")
    return dict(value)


def _check_broker(url: str) -> None:
    scheme = scheme_of(url)
    if "+" in scheme:
        return  # the rest is no URL of ours
    parts = _split(url)
    if scheme in _NUMBERED and not re.fullmatch(r"/?|/[0-9]+", parts.path):
        raise ShmQueueValueError(f"url {shown(url)!r} must name its database by a number, as in {scheme}://HOST/0")


def _split(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018 - that it raises is the point
    except ValueError:  # whose text may have a part of the password
        raise ShmQueueValueError(
            f"url {shown(url)!r} has an impossible host or port; in a password, '/' is written %2F and ':' %3A"
        ) from None
    return parts


def _query(url: str) -> list[tuple[str, str, str]]:
    """The query: each key, its value, and both as they were written."""
    found: dict[str, tuple[str, str, str]] = {}
    for written in url.partition("?")[2].split("&"):
        if not written:
            continue
        key, _, text = (urllib.parse.unquote_plus(part) for part in written.partition("="))
        if key in found:
            raise ShmQueueValueError(f"url {shown(url)!r} has {key} twice")
        found[key] = key, text, written
    return list(found.values())


def _whole_number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ShmQueueValueError(f"{key} must be a whole number, not {text!r}") from None


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ShmQueueValueError(f"{key} must be a number of seconds, not {text!r}") from None
