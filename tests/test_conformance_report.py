"""The conformance kit's page: what is broken is shown with its program and its history, by itself and well-formed.

Fails if: a broken clause is not shown, its violating operations are not marked, the page needs another file or has no
colours for a dark screen, or operations that overlap are drawn over each other.
"""

from __future__ import annotations

import os
import re
from html import escape
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from shmqueue.conformance.clauses import CLAUSES
from shmqueue.conformance.machine import explore
from shmqueue.conformance.operations import Operation
from shmqueue.conformance.profiles import PROFILES
from shmqueue.conformance.report import Column
from shmqueue.conformance.report_html import as_html, draw
from shmqueue.conformance.suite import Amount, Result, Verdict
from shmqueue.conformance.target import Target
from shmqueue.conformance.timeline import AROUND, Bar, excerpt
from shmqueue.conformance.traffic import run_traffic

SVG = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """The elements of a page, and whether each is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pictures(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def marked_in(picture: ElementTree.Element) -> list[str]:
    """The labels of the operations that are marked, in full."""
    groups = [group for group in picture.iter(f"{SVG}g") if group.get("class") == "bar marked"]
    return [group.findtext(f"{SVG}title", "") for group in groups]


def test_a_broken_queue_is_shown_with_its_history(monkeypatch: pytest.MonkeyPatch, native: None) -> None:
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    profile = PROFILES["queue.Queue"]
    reversing, swapping = (Target(f"broken_queues:{name}", "fork") for name in ("LastInFirstOut", "SwapsUnderLoad"))
    only = profile.without(profile.clauses - {"fifo"})
    found = explore(reversing, only, examples=60, seed_number=1, rounds=1, shrink_seconds=1).broken
    columns = []
    for target, broken in [
        (reversing, next(iter(found.values()))),
        (swapping, run_traffic(swapping, profile, operations=2000, kills=0)),
    ]:
        assert broken is not None
        results = [
            Result(clause, Verdict.BROKEN, 1, broken.what, tuple(broken.program), tuple(broken.history))
            if clause is broken.clause
            else Result(clause, Verdict.KEPT, 1)
            for clause in CLAUSES.values()
        ]
        columns.append(Column(target, profile, results))
    text = as_html(columns, Amount(60, 1))
    parsed = Page(text)
    assert parsed.open == []
    names = [f"target-{number}-{column.broken[0].clause.key}" for number, column in enumerate(columns)]
    assert [attributes["id"] for _, attributes in parsed.seen if "id" in attributes] == names
    assert {attributes["href"] for tag, attributes in parsed.seen if tag == "a"} == {f"#{name}" for name in names}
    assert not [tag for tag, attributes in parsed.seen if tag in ("script", "link", "img") or "src" in attributes]
    assert "prefers-color-scheme: dark" in text
    sections = re.findall(r"<section.*?</section>", text, re.DOTALL)
    for column, section in zip(columns, sections, strict=True):
        (result,) = column.broken
        assert result.history, result.why
        assert escape(result.why) in section
        assert escape(result.program[-1]) in section
        (picture,) = pictures(section)
        assert len(boxes_of(picture)) == len(result.history)
        assert marked_in(picture) == [bar.label for bar in result.history if bar.is_marked]
        kinds = {label.partition("(")[0] for label in marked_in(picture)}
        assert "put" in kinds  # the item,
        assert kinds & {"get", "get_nowait"}  # and the call that should have taken it


def test_a_clause_that_a_fixed_program_breaks_is_shown_with_that_program() -> None:
    result = Result(CLAUSES["copy"], Verdict.BROKEN, 1, "it has changed")
    text = as_html([Column(Target("queue:Queue", "threads"), PROFILES["queue.Queue"], [result])], Amount(1, 1))
    assert Page(text).open == []
    assert "scene.check(&quot;copy&quot;" in text


def boxes_of(picture: ElementTree.Element) -> list[tuple[float, float, float, float]]:
    """Left, right, top and bottom of each operation."""
    found = []
    for box in picture.iter(f"{SVG}rect"):
        x, y, width, height = (float(box.get(name, "")) for name in ("x", "y", "width", "height"))
        found.append((x, x + width, y, y + height))
    return found


def test_operations_are_drawn_beside_each_other_and_in_their_order() -> None:
    history = [
        Bar(0, "get()", 10, None),
        Bar(0, "put(1)", 20, 30),
        Bar(1, "put(2)", 20, 40, is_marked=True),
        Bar(0, "put(3) & more", 35, 35),
        Bar(1, "get() -> 3", 50, 60, is_marked=True, gap=1234),
    ]
    (picture,) = pictures(draw(history))
    boxes = boxes_of(picture)
    assert all(top < bottom for _, _, top, bottom in boxes)
    for at, (left, right, top, bottom) in enumerate(boxes):
        for other in boxes[:at]:
            assert right <= other[0] or left >= other[1] or bottom <= other[2] or top >= other[3]
    waits, first, second, third, last = boxes
    assert waits[3] == max(bottom for _, _, _, bottom in boxes)  # it never returned
    assert second[2] < first[3]  # they overlap in time,
    assert third[2] > first[3]  # and these do not
    assert last[2] > second[3]
    assert marked_in(picture) == ["put(2)", "get() -> 3"]
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"worker 0", "worker 1", "… 1,234 more …"} <= set(texts)


def test_of_a_long_run_what_is_around_the_violation_is_shown() -> None:
    history = [Operation(0, "put", str(n), 10 * n, 10 * n + 5, "ok") for n in range(1000)]
    bars = excerpt(history, [history[100], history[800]])
    assert [bar.label for bar in bars if bar.is_marked] == ["put(100)", "put(800)"]
    assert bars[0].gap == 100 - AROUND
    assert len(bars) <= 4 * (AROUND + 1)
    assert sum(bar.gap + 1 for bar in bars) <= len(history)
