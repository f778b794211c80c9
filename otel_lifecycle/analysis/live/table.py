"""Tables whose columns depend on the width of the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len, set_cell_size
from rich.text import Text

LEVELS = " ▁▂▃▄▅▆▇█"
SELECTED = "reverse"

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Column(Generic[_Row]):
    """One column.

    Attributes:
        title: Its title.
        cell: Returns the text for a row.
        width: Its width; at least that of a wider title.
        rank: The columns with the lowest ranks stay on a narrow terminal.
        widest: If it is wider than `width`: it takes free space up to this.
        left: Whether text begins at the left.
        sort: Returns what rows are sorted by; None: not sortable.
        style: Returns the style for a row.
    """

    title: str
    cell: Callable[[_Row], str]
    width: int
    rank: int
    widest: int = 0
    left: bool = False
    sort: Callable[[_Row], float | str | None] | None = None
    style: Callable[[_Row], str] | None = None


def fitting(columns: Sequence[Column[_Row]], width: int) -> list[tuple[Column[_Row], int]]:
    """Return the columns that fit, each with its width; always the one with the lowest rank."""
    chosen: list[Column[_Row]] = []
    free = width - 1  # for the mark of the selected row
    for column in sorted(columns, key=lambda column: column.rank):
        if chosen and free < column.width + 1:
            break
        chosen.append(column)
        free -= column.width + 1
    widths = {column.title: column.width for column in chosen}
    for column in sorted(chosen, key=lambda column: column.rank):
        more = max(0, min(free, column.widest - column.width))
        widths[column.title] += more
        free -= more
    return [(column, widths[column.title]) for column in columns if column in chosen]


def head(columns: Sequence[tuple[Column[_Row], int]], sorted_by: str = "") -> Text:
    """Return the line of titles; that of the sorted column is marked."""
    line = Text(" ", style="bold")
    for column, width in columns:
        style = "underline" if column.title == sorted_by else ""
        line.append(_fit(column.title, width, left=column.left), style)
        line.append(" ")
    return line


def row_line(
    columns: Sequence[tuple[Column[_Row], int]],
    row: _Row,
    *,
    selected: bool = False,
    marked: bool = False,
) -> Text:
    """Return the line of one row.

    Args:
        columns: The columns, with their widths.
        row: The row.
        selected: Whether the keys act on it.
        marked: Whether it has the mark without being selected.
    """
    line = Text("▸" if selected or marked else " ", style=SELECTED if selected else "")
    for column, width in columns:
        text = _fit(column.cell(row), width, left=column.left)
        line.append(text, "" if selected or column.style is None else column.style(row))
        line.append(" ")
    return line


def spark(values: Sequence[float], width: int) -> str:
    """Return the last values as bars, to the scale of the highest."""
    shown = values[-width:]
    top = max(shown)
    steps = len(LEVELS) - 1
    return "".join(LEVELS[-int(-value * steps // top)] if top else LEVELS[0] for value in shown)


def shorten(text: str, width: int) -> str:
    """Return a name without its middle, if it is wider: the end distinguishes pods."""
    if cell_len(text) <= width:
        return text
    if width < 4:
        return set_cell_size(text, max(0, width))
    tail = width * 2 // 3
    start = set_cell_size(text, width - tail - 1).rstrip()
    end = text
    while cell_len(end) > tail:
        end = end[1:]
    return f"{start}…{end}"


def _fit(text: str, width: int, *, left: bool) -> str:
    short = shorten(text, width)
    padding = " " * (width - cell_len(short))
    return short + padding if left else padding + short
