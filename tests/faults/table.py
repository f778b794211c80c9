"""The fault table: what was broken, what was promised, and what was found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

BEGIN, END = "<!-- fault table: begin -->", "<!-- fault table: end -->"


@dataclass(frozen=True)
class Result:
    """The result of one fault over all its runs.

    Attributes:
        fault: What was broken, and how.
        promise: What must hold.
        runs: Number of runs.
        expected: Number of records that must be found.
        found: Number of records found.
        bad_lines: Number of invalid lines.
        at_least: Whether more records may be found.
    """

    fault: str
    promise: str
    runs: int
    expected: int
    found: int
    bad_lines: int
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Return whether the numbers fulfil the promise."""
        enough = self.found >= self.expected if self.at_least else self.found == self.expected
        return enough and self.bad_lines == 0


def as_markdown(results: Iterable[Result]) -> str:
    """Return the table."""
    head = ["fault", "promise", "runs", "records expected", "found", "bad lines"]
    rows = [
        [
            result.fault,
            result.promise,
            f"{result.runs:,}",
            f"{'at least ' if result.at_least else ''}{result.expected:,}",
            f"{result.found:,}",
            f"{result.bad_lines:,}",
        ]
        for result in results
    ]
    lines = [head, ["---", "---", "--:", "--:", "--:", "--:"], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def put_into(page: Path, table: str) -> None:
    """Replace the text between the markers of a page."""
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, end, behind = rest.partition(END)
    if not end:
        raise ValueError(f"{page} has no markers {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{behind}", "utf-8")
