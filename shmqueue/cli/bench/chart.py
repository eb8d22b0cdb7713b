"""The chart: a panel of horizontal bars for each column, written as SVG by hand.

It has no background, and colours for light and dark that a browser chooses from, as GitHub shows an image.
"""

from __future__ import annotations

from html import escape

import shmqueue
from shmqueue.cli.bench.figures import ratio_of, value_of
from shmqueue.cli.bench.report import Cell, Report
from shmqueue.cli.bench.workloads import TABLES, YARDSTICK, Column, Contestant, Table

__all__ = ["as_svg"]

_CHARTED = ("int", "dict", "2-to-2", "round-trip", "bytes", "numpy")
_WIDTH, _SPACE = 880, 24  # pixels of the whole, and between its two columns
_PANEL = (_WIDTH - _SPACE) // 2
_NAMES = 142  # for the names, left of the bars
_VALUES = 124  # and for the figures, right of them
_ROW, _BAR = 18, 12
_TITLE, _GAP = 24, 16
_CUT = 6  # times the yardstick: longer bars are cut, and have a gap that says so

_STYLE = """\
text { font-family: -apple-system, "Segoe UI", "Noto Sans", Helvetica, Arial, sans-serif; font-size: 11px; }
text { fill: #1f2328; }
.title { font-weight: 600; font-size: 12px; }
.note { fill: #59636e; }
.ours { fill: #0969da; } .standard { fill: #8c959f; } .other { fill: #c4ccd4; }
.cut { fill: #ffffff; }
text.strong { font-weight: 600; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; } .note { fill: #9198a1; }
.ours { fill: #4493f8; } .standard { fill: #7d8590; } .other { fill: #4a525c; } .cut { fill: #0d1117; }
}"""


def as_svg(report: Report) -> str:
    """The chart of the columns that matter most, as far as they were measured, two side by side."""
    body: list[str] = []
    top = 4
    panels = [panel for panel in _columns(report) if any(cell.why is None for _, cell in _cells(report, *panel))]
    for pair in zip(panels[::2], [*panels[1::2], None], strict=False):
        top = max(
            _panel(_cells(report, *panel), panel[1], place * (_PANEL + _SPACE), top, body)
            for place, panel in enumerate(pair)
            if panel is not None
        )
    what = f"shmqueue {shmqueue.__version__}, {report.engine} engine; {report.rounds_told}; x: times {YARDSTICK}"
    for line in (what, str(report.surroundings)):
        body.append(_text(0, top + 8, line, "note"))
        top += 16
    height = top + 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" aria-label="shmqueue and other queues, measured side by side">\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


def _cells(report: Report, table: Table, column: Column) -> list[tuple[Contestant, Cell]]:
    return [(each, report.cell(each, column, table)) for each in report.rows(table) if each.role == "field"]


def _columns(report: Report) -> list[tuple[Table, Column]]:
    measured = {workload for workload, _ in report.results}
    found: dict[str, tuple[Table, Column]] = {}
    for table in TABLES:
        for column in table.columns:
            if column.workload in measured and column.figure != "cpu":
                found.setdefault(column.workload, (table, column))
    return [found[workload] for workload in _CHARTED if workload in found]


def _panel(cells: list[tuple[Contestant, Cell]], column: Column, left: float, top: int, body: list[str]) -> int:
    """Draw it; where it ends."""
    there = [(each, cell) for each, cell in cells if cell.why is None]
    there.sort(key=lambda pair: pair[1].median, reverse=column.higher_is_better)
    most = _longest(there, column)
    unit = "items a second" if column.unit == "/s" else column.unit
    better = "more is better" if column.higher_is_better else "less is better"
    body.append(_text(left + _NAMES, top + 12, f"{column.title}, {unit}, {better}", "title"))
    top += _TITLE
    for contestant, cell in there:
        _bar(contestant, cell, column, cell.median / most, left, top, body)
        top += _ROW
    hung = [each.label for each, cell in cells if cell.why == "hangs"]
    if hung:
        body.append(_text(left + _NAMES, top + 10, f"hangs: {', '.join(hung)}", "note"))
        top += _ROW
    return top + _GAP


def _longest(there: list[tuple[Contestant, Cell]], column: Column) -> float:
    """What the longest bar stands for: not the most where less is better, for that may flatten all others."""
    most = max(cell.median for _, cell in there)
    if column.higher_is_better:
        return most
    known = [cell.median for each, cell in there if each.label in ("shmqueue", YARDSTICK)]
    return min(most, _CUT * max(known, default=most))


def _bar(
    contestant: Contestant, cell: Cell, column: Column, share: float, left: float, top: int, body: list[str]
) -> None:
    kind = {"shmqueue": "ours", YARDSTICK: "standard"}.get(contestant.label, "other")
    strong = "strong" if kind == "ours" else ""
    width = max(1.0, min(1.0, share) * (_PANEL - _NAMES - _VALUES))
    start = left + _NAMES
    ratio = f" ({ratio_of(cell)})" if kind != "standard" and cell.ratio is not None else ""
    body.append(_text(start - 8, top + 10, contestant.label, strong, end=True))
    body.append(f'<rect class="{kind}" x="{start:g}" y="{top}" width="{width:.1f}" height="{_BAR}" rx="2"/>')
    if share > 1:
        body.append(f'<path class="cut" d="M{start + width - 14:.1f} {top + _BAR} l6 -{_BAR} h4 l-6 {_BAR} z"/>')
    body.append(_text(start + width + 6, top + 10, f"{value_of(cell, column)}{ratio}", strong))


def _text(x: float, y: float, text: str, kind: str, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text x="{x:.1f}" y="{y:g}" class="{kind}"{anchor}>{escape(text)}</text>'
