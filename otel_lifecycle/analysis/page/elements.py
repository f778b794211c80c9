"""The parts of the page, as HTML; every text of a record is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from otel_lifecycle.analysis.formatting import compact, significant
from otel_lifecycle.runtime.text import printable

UNKNOWN = "–"
_NARROW = "\u00a0"


def text(value: object) -> str:
    """Escape a text, and show control characters instead of sending them."""
    return html.escape(printable(str(value)), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """Format with so many significant digits, and separators from 1,000 on."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return significant(value, digits)


def short(value: float | None) -> str:
    """Format a large number as `12.3k` or `4.5M`."""
    return UNKNOWN if value is None or not math.isfinite(value) else compact(value)


def ms(value: float | None) -> str:
    """Format milliseconds, as seconds from ten on."""
    if value is None:
        return UNKNOWN
    return duration(value / 1e3) if value >= 1e4 else f"{number(value)}{_NARROW}ms"


def duration(seconds: float) -> str:
    """Format seconds, as minutes, hours or days when there are many."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size and seconds > 600:
            return f"{number(seconds / size)}{_NARROW}{unit}"
    return f"{number(seconds)}{_NARROW}s"


def percent(fraction: float | None, digits: int = 1) -> str:
    """Format a fraction."""
    return UNKNOWN if fraction is None else f"{fraction * 100:.{digits}f}{_NARROW}%"


def times(value: float | None) -> str:
    """Format a ratio."""
    return UNKNOWN if value is None else f"{value:.2f}×"


def strong(value: str) -> str:
    """Emphasize formatted text."""
    return f"<b>{value}</b>"


def plural(count: int, noun: str) -> str:
    """Format as `1 request`, `2 requests`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        content: HTML.
        left: Whether it is text, which stands left.
        bar: A share of its column's longest bar, 0 to 1.
        mark: `bad` to draw attention.
    """

    content: str
    left: bool = False
    bar: float | None = None
    mark: str = ""


def table(
    caption: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str]], label: str = ""
) -> str:
    """Return a table that scrolls sideways inside itself; the first column names the row."""
    columns = "".join(f'<th scope="col">{one}</th>' for one in head)
    body = "".join(_row(row) for row in rows)
    name = text(label or caption)
    return (
        f'<div class="wrap" tabindex="0" role="region" aria-label="{name}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{columns}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(row: Sequence[Cell | str]) -> str:
    cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
    first, *rest = cells
    return f'<tr><th scope="row">{first.content}</th>{"".join(map(_cell, rest))}</tr>'


def _cell(cell: Cell) -> str:
    kind = " ".join(name for name in ("left" if cell.left else "", cell.mark) if name)
    bar = "" if cell.bar is None else f'<span class="bar" style="--v:{cell.bar:.3f}"></span>'
    return (
        f'<td class="{kind}">{cell.content}{bar}</td>' if kind else f"<td>{cell.content}{bar}</td>"
    )


@dataclass(frozen=True)
class MatrixCell:
    """A cell of a matrix.

    Attributes:
        column: Number of its column.
        row: Number of its row.
        value: Formatted.
        count: Requests in it.
        strength: Strength of its colour, -1 to 1.
    """

    column: int
    row: int
    value: str
    count: int
    strength: float


def matrix(
    caption: str,
    corner: str,
    columns: Sequence[int],
    rows: Sequence[int],
    cells: Iterable[MatrixCell],
) -> str:
    """Return a matrix whose columns and rows are bins, by their lower edges."""
    by_place = {(cell.column, cell.row): cell for cell in cells}
    seen_columns = [i for i in range(len(columns)) if any(place[0] == i for place in by_place)]
    seen_rows = [i for i in range(len(rows)) if any(place[1] == i for place in by_place)]
    head = "".join(f'<th scope="col">{_bin(columns, i)}</th>' for i in seen_columns)
    body = ""
    for row in reversed(seen_rows):
        found = [by_place.get((column, row)) for column in seen_columns]
        body += (
            f'<tr><th scope="row">{_bin(rows, row)}</th>{"".join(map(_matrix_cell, found))}</tr>'
        )
    return (
        f'<div class="wrap" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="matrix"><caption>{text(caption)}</caption>'
        f'<thead><tr><th scope="col">{corner}</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


FEW = 5


def _matrix_cell(cell: MatrixCell | None) -> str:
    if cell is None:
        return "<td></td>"
    kind = "few" if cell.count < FEW else "more" if cell.strength > 0 else "less"
    style = f"--v:{abs(cell.strength):.3f}"
    return f'<td class="{kind}" style="{style}">{cell.value}<small>{cell.count:,}</small></td>'


def _bin(edges: Sequence[int], index: int) -> str:
    low = short(edges[index]) if edges[index] >= 1e4 else _thousands(edges[index])
    if index + 1 == len(edges):
        return f"{low}+"
    return f"{low}–{_thousands(edges[index + 1])}"


def _thousands(value: int) -> str:
    return f"{value // 1_000}k" if value >= 1_000 else str(value)


@dataclass
class Section:
    """One question of the page.

    Attributes:
        key: Its anchor.
        title: The question.
        nav: Its name in the list of sections.
        answer: One sentence or a few, as HTML, computed.
        body: Its charts and tables, as HTML.
        how: How they are computed, as HTML.
        queries: The SQL behind them.
        charts: The specifications of its charts, by the id of their place in the body.
    """

    key: str
    title: str
    nav: str
    answer: str
    body: list[str] = field(default_factory=list[str])
    how: str = ""
    queries: list[str] = field(default_factory=list[str])
    charts: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])

    def chart(self, name: str, label: str, height: int, **spec: Any) -> str:
        """Keep the specification of a chart; return its place, as HTML."""
        place = f"{self.key}-{name}"
        self.charts[place] = spec
        return (
            f'<figure><figcaption>{text(label)}</figcaption><div class="chart" id="{place}" '
            f'role="img" aria-label="{text(label)}" style="height:{height}px"></div></figure>'
        )

    def html(self) -> str:
        """Return the section as HTML."""
        queries = "".join(f"<pre>{text_block(query)}</pre>" for query in self.queries)
        how = f"<p>{self.how}</p>{queries}" if self.how or queries else ""
        details = f"<details><summary>How this is computed</summary>{how}</details>" if how else ""
        return (
            f'<section id="{self.key}" aria-labelledby="{self.key}-title">'
            f'<h2 id="{self.key}-title">{self.title}</h2><p class="answer">{self.answer}</p>'
            f"{''.join(self.body)}{details}</section>"
        )


def text_block(value: str) -> str:
    """Escape a text of several lines, without its common indentation."""
    lines = [line.rstrip() for line in value.strip("\n").splitlines()]
    indent = min((len(line) - len(line.lstrip()) for line in lines if line), default=0)
    return html.escape("\n".join(line[indent:] for line in lines))
