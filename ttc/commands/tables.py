"""Tables of text that fit a width: columns that go on below where they do not fit beside each other.

Nothing is printed here. A long text wraps between words; a table of many columns is cut into several, each
with the first column again. Words are never broken, but for one that is longer than the whole width.
"""

import re
import textwrap
from collections.abc import Sequence

from rich.cells import cell_len

__all__ = ["Line", "fitted", "wrapped"]

_GAP = "  "
# What a line begins with that says what it is about: up to two words and a gap.
_LABEL = re.compile(r"\S+(?: \S+)? {2,}")
# A cell longer than this with blanks in it may wrap, down to this width.
_TEXT, _LEAST_TEXT = 24, 20


class Line(str):
    """A line of a table; `is_head` where it names the columns."""

    is_head = False

    @classmethod
    def head(cls, text: str) -> "Line":
        """Return a line that names columns."""
        line = cls(text)
        line.is_head = True
        return line


def wrapped(line: str, width: int | None) -> list[str]:
    """Return a line as lines of at most `width` cells, those that follow set in; None for no limit.

    Below a label and a gap they are set in as far as what follows the gap.
    """
    if width is None or cell_len(line) <= width:
        return [line]
    label = _LABEL.match(line)
    inset = " " * (2 if label is None else label.end())
    return textwrap.wrap(line, width, subsequent_indent=inset, break_long_words=False, break_on_hyphens=False)


def fitted(rows: Sequence[Sequence[str]], head: Sequence[str] | None, width: int | None) -> list[Line]:
    """Return the lines of a table.

    Args:
        rows: cells; as many in each.
        head: names of the columns; None where the first column names the rows.
        width: cells of a line; None for as many as there are.
    """
    if not rows:
        return [] if head is None else [Line.head(_GAP.join(head))]
    widths = _widths(rows, head, whole=True)
    if width is not None and _total(widths) > width:
        widths = _widths(rows, head, whole=False)
    if width is not None and _total(widths) > width:
        text = max(range(len(widths)), key=lambda i: widths[i])
        rest = width - _total(widths) + widths[text]
        if widths[text] > _TEXT and rest >= _LEAST_TEXT and _has_blanks(rows, text):
            widths[text] = rest
        elif len(widths) > 2 and head is not None:
            return _cut(rows, head, widths, width)
        else:
            widths[text] = max(rest, _LEAST_TEXT)
    lines = [] if head is None else [Line.head(line) for line in _row(head, widths, at_bottom=True)]
    return lines + [Line(line) for row in rows for line in _row(row, widths)]


def _cut(rows: Sequence[Sequence[str]], head: Sequence[str], widths: Sequence[int], width: int) -> list[Line]:
    """Return the lines of several tables, one below the other, each of which fits and begins with the first
    column.
    """
    groups: list[list[int]] = [[]]
    for i in range(1, len(widths)):
        beside = [widths[0], *(widths[k] for k in groups[-1]), widths[i]]
        if groups[-1] and _total(beside) > width:
            groups.append([])
        groups[-1].append(i)
    lines: list[Line] = []
    for group in groups:
        if lines:
            lines.append(Line())
        chosen = (0, *group)
        lines += fitted([[row[i] for i in chosen] for row in rows], [head[i] for i in chosen], width)
    return lines


def _widths(rows: Sequence[Sequence[str]], head: Sequence[str] | None, *, whole: bool) -> list[int]:
    """Return the width of every column: of its longest cell, and of the longest word that names it."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if head is None:
        return widths
    names = [max(map(cell_len, [name] if whole else name.split() or [""])) for name in head]
    return [max(pair) for pair in zip(widths, names, strict=True)]


def _row(cells: Sequence[str], widths: Sequence[int], *, at_bottom: bool = False) -> list[str]:
    """Return the lines of one row; `at_bottom` says where shorter cells stand."""
    wrapped = [_wrap(cell, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, wrapped))
    padded = [
        [""] * (height - len(lines)) + lines if at_bottom else lines + [""] * (height - len(lines))
        for lines in wrapped
    ]
    return [
        _GAP.join(
            text + " " * (width - cell_len(text)) for text, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in zip(*padded, strict=True)
    ]


def _wrap(text: str, width: int) -> list[str]:
    if cell_len(text) <= width:
        return [text]
    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False) or [""]


def _has_blanks(rows: Sequence[Sequence[str]], column: int) -> bool:
    return any(" " in row[column].strip() for row in rows if cell_len(row[column]) > _LEAST_TEXT)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)
