"""Text in columns and paragraphs. No word is ever broken: one that is too long for the terminal is left to it."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

__all__ = ["UNLIMITED", "paragraph", "shown", "table", "width_of_output"]

UNLIMITED = 1 << 30  # characters in a line: what is read by a program is not wrapped
_GAP = "  "


def width_of_output() -> int:
    """Characters in a line of standard output."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else UNLIMITED


def shown(text: str) -> str:
    """A text that may contain anything, some of which a terminal would obey."""
    return text if text.isprintable() else repr(text)


def paragraph(text: str, width: int, first: str = "", indent: int = 0) -> list[str]:
    """The words of a text in lines of at most ``width`` characters, the first after ``first``, all others indented.

    The words are on lines of their own if one is too long for that.
    """
    if width >= UNLIMITED:
        return [(first + text).rstrip()]
    if first and max(map(len, text.split()), default=0) > width - max(len(first), indent):
        return [first.rstrip(), *paragraph(text, width)]
    lines = textwrap.wrap(
        text,
        max(width, indent + 1),
        initial_indent=first,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [first.rstrip()]


def table(header: Sequence[str], rows: Iterable[Sequence[str]], right: set[str], width: int) -> list[str]:
    """Columns with a header; those in ``right`` have their text on the right.

    The first column is a name. One that leaves no room for the others has a line of its own. The last column is a text,
    which goes on in the next line.
    """
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    others = sum(widths[1:-1]) + len(_GAP) * (len(header) - 1)
    longest_word = max((len(word) for row in [list(header), *rows] for word in row[-1].split()), default=0)
    room = max(width - others - longest_word, len(header[0]))
    names = [len(row[0]) for row in rows if len(row[0]) <= room]
    widths[0] = max([len(header[0]), *names])
    lines = []
    for row in [list(header), *rows]:
        name, *cells, last = row
        if len(name) > widths[0]:
            lines.append(name)
            name = ""
        padded = [name.ljust(widths[0])]
        for title, cell, size in zip(header[1:], cells, widths[1:-1], strict=False):
            padded.append(cell.rjust(size) if title in right else cell.ljust(size))
        start = _GAP.join(padded) + _GAP
        lines += paragraph(last, width, start, len(start)) if last else [start.rstrip()]
    return lines
