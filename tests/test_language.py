"""The language of the project: standard technical English, and one word for one thing.

``CONTRIBUTING.md`` has the words. This finds those that are not used here: in documents, and in the comments,
docstrings, messages and other strings of code.

Fails if: one of them is used.
"""

from __future__ import annotations

import io
import re
import tokenize
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


_GIVE = "give|gives|gave|given|giving"

INSTEAD = {
    "he|his|him": "it, its: the process, the thread",
    "Who": 'a sentence with a subject: "a process that ..."',
    "(?:the one|one|for|wake|by|all|nobody|somebody) who": "a process that, processes that",
    "[Ww]hoever": "a process that, the caller",
    "[Aa]gain is harmless": "idempotent",
    "nothing or everything|everything or nothing": "is atomic",
    "so (?:many|much) (?:bytes|items|seconds|records|pages|integers|handles|lines|steps|columns)": "n, the number of",
    "stands (?:there|here|beside|behind|twice|at)": "is",
    "goes by": "is decided by, uses",
    "on (?:its|their|the) way (?:in|out)": "while it is put, got",
    "(?:is|are|was) told": "receives, gets an error that says",
    "a word why": "says why",
    "deal with|dealt with": "process, processed",
    "to be had": "available",
    "storeys?": "layer",
    "keepers?": "holder",
    "held by nobody": "orphan",
    "[Pp]oison\\w*": "corrupted",
    "damaged?(?!!)": "corrupted",
    "let(?:s|ting)? go": "release",
    f"(?:{_GIVE}|Giving|Given|Give) up(?! (?:waiting|by itself))": "close a handle; stop trying",
    f"(?:items?|records?|leases?|one|it|what) (?:that )?(?:is|are|was|were) (?:{_GIVE}) back": "requeue",
    "lends": "leases, gives access to",
    "stirs?|stirred": "wake",
}
"""What is not used, and what is written instead. A space stands for any white space, also where a line is wrapped."""


def pattern(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b".replace(" ", r"[\s*#/]+"))


ANY = pattern("|".join(INSTEAD))
PATTERNS = {pattern(words): instead for words, instead in INSTEAD.items()}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(path: Path) -> str:
    """The text of a file in which all that is code, and neither a comment nor a string, is replaced by spaces."""
    text = path.read_text()
    if path.suffix in {".c", ".h"}:
        return only(text, [match.span() for match in re.finditer(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', text, re.DOTALL)])
    if path.suffix in {".py", ".pyi"}:
        starts = [0]
        for line in text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        kinds = {"COMMENT", "STRING", "FSTRING_MIDDLE"}
        return only(
            text,
            [
                (starts[token.start[0] - 1] + token.start[1], starts[token.end[0] - 1] + token.end[1])
                for token in tokenize.generate_tokens(io.StringIO(text).readline)
                if tokenize.tok_name[token.type] in kinds
            ],
        )
    return text


def only(text: str, spans: list[tuple[int, int]]) -> str:
    kept = list(re.sub(r"[^\n]", " ", text))
    for start, end in spans:
        kept[start:end] = text[start:end]
    return "".join(kept)


def findings(text: str) -> list[tuple[int, str, str]]:
    """Line, words, and what to write instead, for each use of a word that is not used."""
    return [
        (text.count("\n", 0, match.start()) + 1, match.group(), instead)
        for match in ANY.finditer(text)
        for regular_expression, instead in PATTERNS.items()
        if regular_expression.fullmatch(match.group())
    ]


def test_the_files_are_found() -> None:
    assert {"README.md", "shmqueue/engine/native/layout.h", "tests/support.py", ".ci/run"} <= set(map(named, FILES))


@pytest.mark.parametrize(
    "text",
    ["before he sleeps", "Who finds nothing waits.", " * let\n * go", "# is\n    # told", "The segment is damaged."],
)
def test_the_words_are_found(text: str) -> None:
    assert len(findings(text)) == 1


@pytest.mark.parametrize("text", ["the queue", "a process whose item", "This is what it told."])
def test_other_words_are_not(text: str) -> None:
    assert findings(text) == []


def test_names_in_code_are_no_prose(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text('keeper = "a keeper"  # keeper\n')
    assert [line for line, _, _ in findings(prose(tmp_path / "a.py"))] == [1, 1]
    (tmp_path / "a.c").write_text('int keeper; /* a\n * keeper */\nchar *text = "keeper";\n')
    assert [line for line, _, _ in findings(prose(tmp_path / "a.c"))] == [2, 3]


@pytest.mark.parametrize("place", [".", *PLACES])
def test_none_of_these_words_is_used(place: str) -> None:
    found = [
        f"{named(path)}:{line}: {words!r}; write: {instead}"
        for path in FILES
        if place == (path.relative_to(ROOT).parts[0] if path.relative_to(ROOT).parts[0] in PLACES else ".")
        for line, words, instead in findings(prose(path))
    ]
    assert found == [], "\n".join(found)
