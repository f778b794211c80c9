"""Keeps the sentence about the cost in the README equal to that of the results."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
_MARKS = re.compile(r"(<!-- make bench: cost -->\n).*?(<!-- end -->)", re.DOTALL)


def write(takeaway: str) -> None:
    """Put the sentence between its marks."""
    text = README.read_text("utf-8")
    README.write_text(with_cost(text, takeaway), "utf-8")


def with_cost(text: str, takeaway: str) -> str:
    """Return the README with another sentence."""
    sentence = textwrap.fill(takeaway, 100, break_on_hyphens=False)
    return _MARKS.sub(lambda found: f"{found[1]}{sentence}\n{found[2]}", text)
