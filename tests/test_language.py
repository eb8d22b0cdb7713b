"""The language of the project: standard technical English, and one word for one thing.

``CONTRIBUTING.md`` has the words. This finds those that are not used here, in every text file: documents, docstrings,
comments, messages, and names in code.

Fails if: one of them is used.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("compat", "conformance", "shmqueue", "tests")
TEXTS = {".c", ".h", ".litmus", ".md", ".pml", ".py", ".pyi", ".toml"}

FILES = sorted(
    path
    for path in [
        *ROOT.iterdir(),
        ROOT / ".ci" / "run",
        *(path for place in PLACES for path in (ROOT / place).rglob("*")),
    ]
    if path.is_file() and (path.suffix in TEXTS or path.name == "run") and path != Path(__file__)
)

INSTEAD = {
    "he|his|him": "it, its: the process, the thread",
    "Who": 'a sentence with a subject: "a process that ..."',
    "whoever|whosoever": "a process that, the caller",
    "again is harmless": "idempotent",
    "nothing or everything|everything or nothing": "is atomic",
    "so (?:many|much) (?:bytes|items|seconds|records|pages|integers|handles|lines|steps|columns|times)": "the number of",
    "stands (?:in|at|for|where|there|here|beside|behind|twice|on)": "is",
    "goes by": "is decided by, uses",
    "on (?:its|their|the) way (?:in|out)": "while it is put, got",
    "(?:is|are|was|be) told": "receives, gets an error that says",
    "with a word why|a word why": "says why",
    "to be had": "available",
    "storeys?": "layer",
    "keepers?": "holder",
    "held by nobody": "orphan",
    "poison\\w*": "corrupted",
    "damaged?": "corrupted",
    "let(?:s|ting)? go": "release",
    "(?:give|gives|gave|given|giving) up": "close a handle; stop trying",
    "(?:give|gives|gave|given|giving) back": "requeue an item; return memory",
    "lends?|lending": "lease",
    "stirs?|stirred": "wake",
}
"""What is not used, and what is written instead. Spaces stand for any space, also for one at which a comment is wrapped."""


def pattern(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b".replace(" ", r"[\s*#/]+"))


PATTERNS = {pattern(words): instead for words, instead in INSTEAD.items()}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def findings(text: str) -> list[tuple[int, str, str]]:
    """Line, words, and what to write instead, for each use of a word that is not used."""
    return sorted(
        (text.count("\n", 0, match.start()) + 1, match.group(), instead)
        for regular_expression, instead in PATTERNS.items()
        for match in regular_expression.finditer(text)
    )


def test_the_files_are_found() -> None:
    assert {"README.md", "shmqueue/engine/native/layout.h", "tests/support.py", ".ci/run"} <= set(map(named, FILES))


@pytest.mark.parametrize(
    "text",
    ["before he sleeps", "Who finds nothing waits.", " * let\n * go", "# is\n    # told", "The segment is damaged."],
)
def test_the_words_are_found(text: str) -> None:
    assert len(findings(text)) == 1


@pytest.mark.parametrize("text", ["the queue", "a process who", "This is what it told."])
def test_other_words_are_not(text: str) -> None:
    assert findings(text) == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_none_of_these_words_is_used(path: Path) -> None:
    assert [
        f"{named(path)}:{line}: {words!r}; write: {instead}" for line, words, instead in findings(path.read_text())
    ] == []
