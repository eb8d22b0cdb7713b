"""What a run came to, as one page that needs nothing else: the clauses, the counterexamples, and what happened when.

A counterexample is shown as a program. Its history is a picture with a column for each worker, in which time runs
downwards and the operations that violate the clause are marked. Rows stand for moments, not for lengths of time:
which operation returned before another one was invoked is what decides.
"""

from __future__ import annotations

import inspect
import platform
from collections.abc import Iterator, Sequence
from html import escape

from .report import SHOWN, Column, reasons_of
from .scenarios import SCENARIOS
from .suite import Amount, Result, Verdict
from .timeline import Bar

__all__ = ["as_html", "draw"]

_STYLE = """
:root { color-scheme: light dark; --back: #ffffff; --text: #1c2128; --dim: #5d6672; --line: #d4d9df; --bar: #dbe7f5;
  --edge: #6b8fb8; --good: #1a7f37; --bad: #c4222b; --bad-back: #fbdcdc; --unsure: #8a5a00; }
@media (prefers-color-scheme: dark) {
  :root { --back: #15181d; --text: #e4e8ed; --dim: #98a2ae; --line: #3a414b; --bar: #24374d; --edge: #6f9ccc;
    --good: #56d17a; --bad: #ff7b78; --bad-back: #58222a; --unsure: #e3b341; } }
body { background: var(--back); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 75rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; } .dim { color: var(--dim); }
code, pre, svg text { font-family: ui-monospace, Menlo, Consolas, monospace; }
table { border-collapse: collapse; } th, td { border-bottom: 1px solid var(--line); padding: .2rem .7rem;
  text-align: left; vertical-align: top; } td:first-child { text-align: right; }
pre { border: 1px solid var(--line); overflow-x: auto; padding: .7rem 1rem; font-size: 13px; }
figure { margin: 1rem 0; overflow-x: auto; } figcaption { color: var(--dim); font-size: .9rem; }
.kept { color: var(--good); } .broken, .broken a { color: var(--bad); font-weight: 600; } .undecided {
  color: var(--unsure); } .absent { color: var(--dim); }
svg text { fill: var(--text); font-size: 12px; } svg .time, svg .gap { fill: var(--dim); font-size: 11px; }
svg .lane { stroke: var(--line); } svg .bar rect { fill: var(--bar); stroke: var(--edge); }
svg .marked rect { fill: var(--bad-back); stroke: var(--bad); stroke-width: 2.5; }
svg .marked text { fill: var(--text); font-weight: 700; } svg .link { stroke: var(--bad); stroke-dasharray: 4 4;
  fill: none; stroke-width: 1.5; }
"""


def as_html(columns: Sequence[Column], amount: Amount) -> str:
    """The page."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8" />',
            '<meta name="viewport" content="width=device-width" />',
            f"<title>Conformance: {escape(', '.join(column.target.spec for column in columns))}</title>",
            f"<style>{_STYLE}</style></head><body>",
            "<h1>Which clauses of the contract of the standard queues are kept</h1>",
            f'<p class="dim">Python {platform.python_version()}, {escape(platform.platform())}, '
            f"{amount.examples} examples, seed {amount.seed}</p>",
            *_table(columns),
            *(line for number, column in enumerate(columns) for line in _counterexamples(number, column)),
            *_reasons(columns),
            "</body></html>\n",
        ]
    )


def _table(columns: Sequence[Column]) -> Iterator[str]:
    heads = (
        f"<th><code>{escape(column.target.spec)}</code><br />"
        f'<span class="dim">{column.target.start_method}, as {escape(column.profile.name)}</span></th>'
        for column in columns
    )
    yield f"<table><thead><tr><th></th><th>clause</th>{''.join(heads)}</tr></thead><tbody>"
    for row in zip(*(column.results for column in columns), strict=True):
        if any(result.verdict is not Verdict.ABSENT for result in row):
            cells = "".join(_cell(number, result) for number, result in enumerate(row))
            yield f"<tr><td>{row[0].clause.number}</td><td>{escape(row[0].clause.sentence)}</td>{cells}</tr>"
    yield "</tbody></table>"


def _cell(column: int, result: Result) -> str:
    word = SHOWN[result.verdict][0]
    if result.verdict is Verdict.BROKEN:
        word = f'<a href="#{_anchor(column, result)}">{word}</a>'
    return f'<td class="{result.verdict.name.lower()}">{word}</td>'


def _anchor(column: int, result: Result) -> str:
    return f"target-{column}-{result.clause.key}"


def _counterexamples(number: int, column: Column) -> Iterator[str]:
    for result in column.broken:
        yield f'<section id="{_anchor(number, result)}">'
        yield f"<h2>{escape(column.target.spec)}, clause {result.clause.number}: {escape(result.clause.sentence)}</h2>"
        yield f'<p class="broken">{escape(result.why)}</p>'
        if result.program:
            yield f'<pre class="program">{escape(chr(10).join(result.program))}</pre>'
        elif result.clause.key in SCENARIOS:  # a program that is the same in each run
            yield f'<pre class="program">{escape(inspect.getsource(SCENARIOS[result.clause.key]))}</pre>'
        if result.history:
            yield f"<figure>{draw(result.history)}"
            yield "<figcaption>Operations by worker; time runs downwards, each row is one moment. "
            yield "Marked: what violates the clause.</figcaption></figure>"
        yield "</section>"


def _reasons(columns: Sequence[Column]) -> Iterator[str]:
    lines = [f"<code>{escape(c.target.spec)}</code>, {escape(line)}" for c in columns for _, line in reasons_of(c)]
    if lines:
        yield "<h2>Not decided, not promised</h2><ul>"
        yield from (f"<li>{line}</li>" for line in lines)
        yield "</ul>"


# ---- the picture ----

_WIDTH = 250  # of an operation, in pixels
_CHARACTER = 7.3
_ROW = 12
_LEFT, _TOP = 110, 40  # for the times, and for the names of the workers


def draw(history: Sequence[Bar]) -> str:
    """The history as SVG; colours are those of the page's style."""
    rows, gaps = _rows(history)
    height = _TOP + (max(rows.values()) + 4) * _ROW
    lanes = _lanes(history)
    count = {worker: 1 + max(lane for (who, _), lane in lanes.items() if who == worker) for worker, _ in lanes}
    left = _LEFT
    begins = {}
    for worker in sorted(count):
        begins[worker] = left
        left += count[worker] * _WIDTH + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{left}" height="{height}" '
        f'viewBox="0 0 {left} {height}"><title>History</title>'
    ]
    for worker, x in begins.items():
        parts.append(f'<text x="{x}" y="{_TOP - 16}">worker {worker}</text>')
        parts.append(f'<line class="lane" x1="{x - 5}" x2="{x - 5}" y1="{_TOP - 28}" y2="{height}" />')
    start = min(bar.began for bar in history)
    corners = []
    bars = []
    for place, bar in enumerate(history):
        x = begins[bar.worker] + lanes[bar.worker, place] * _WIDTH
        y = _TOP + rows[place, "began"] * _ROW
        bottom = height if bar.ended is None else _TOP + (rows[place, "ended"] + 1) * _ROW
        bars.append(_bar(bar, x, y, bottom - y))
        parts.append(f'<text class="time" x="0" y="{y + 14}">{(bar.began - start) / 1e6:.3f} ms</text>')
        if bar.is_marked:
            corners.append(f"{x + _WIDTH / 2},{y + _ROW}")
    for row, gap in gaps.items():
        y = _TOP + row * _ROW
        parts.append(f'<text class="gap" x="{_LEFT}" y="{y}">… {gap:,} more …</text>')
    if len(corners) > 1:
        parts.append(f'<polyline class="link" points="{" ".join(corners)}" />')
    return "".join([*parts, *bars, "</svg>"])


def _bar(bar: Bar, x: float, y: float, height: float) -> str:
    room = int((_WIDTH - 20) / _CHARACTER)
    label = bar.label if len(bar.label) <= room else bar.label[: room - 1] + "…"
    return (
        f'<g class="{"bar marked" if bar.is_marked else "bar"}"><title>{escape(bar.label)}</title>'
        f'<rect x="{x}" y="{y + 1}" width="{_WIDTH - 8}" height="{height - 2}" rx="3" />'
        f'<text x="{x + 6}" y="{y + 15}">{escape(label)}</text></g>'
    )


def _rows(history: Sequence[Bar]) -> tuple[dict[tuple[int, str], int], dict[int, int]]:
    """The row of each operation's begin and end; and before which rows something is left out, and how much."""
    events = [(bar.began, 1, place, "began") for place, bar in enumerate(history)]
    ends = {place: bar.ended for place, bar in enumerate(history) if bar.ended is not None}
    events += [(max(end, history[place].began + 1), 0, place, "ended") for place, end in ends.items()]
    events.sort()
    rows: dict[tuple[int, str], int] = {}
    gaps = {}
    row = 0
    last = ""
    for _, _, place, which in events:
        if which == "began" and history[place].gap:
            row += 3
            gaps[row] = history[place].gap
        elif which == last == "began":
            row += 1  # labels and times of two that begin one after the other need two rows
        last = which
        rows[place, which] = row
        row += 1
    return rows, gaps


def _lanes(history: Sequence[Bar]) -> dict[tuple[int, int], int]:
    """In which lane of its worker's column an operation is drawn, by worker and place: side by side if they overlap."""
    lanes: dict[tuple[int, int], int] = {}
    free_from: dict[int, list[float]] = {}
    for place, bar in sorted(enumerate(history), key=lambda each: each[1].began):
        lasts = free_from.setdefault(bar.worker, [])
        end = float("inf") if bar.ended is None else bar.ended
        lane = next((lane for lane, free in enumerate(lasts) if free <= bar.began), len(lasts))
        lasts[lane:] = [end, *lasts[lane + 1 :]]
        lanes[bar.worker, place] = lane
    return lanes
