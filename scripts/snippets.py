"""Writes the Python snippets of the pages into `tests/typing/snippets`, for type checkers.

Each module imports the public names and those of `tests/typing/context.py`. Its lines have the same
numbers as on the page, so that a checker's errors point there.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

ROOT = Path(__file__).parents[1]
PREAMBLE = (
    "from otel_lifecycle import *; from otel_lifecycle.prediction import *; "
    "from otel_lifecycle.testing import *; from tests.typing.context import *"
)
_SNIPPET = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def snippets(page: str) -> Iterator[tuple[int, str]]:
    """Return the first line and the code of each snippet of a page."""
    for found in _SNIPPET.finditer(page):
        yield page.count("\n", 0, found.start(2)) + 1, dedent(found[2])


def module(line: int, code: str) -> str:
    """Return a module with the snippet at the same line as on its page."""
    header = PREAMBLE
    if re.search(r"\b(async|await|yield)\b", code):
        header += "\nasync def snippet() -> Any:"
        code = indent(code, "    ")
    return (
        header.replace("\n", "; from typing import Any\n", 1)
        + "\n" * (line - 1 - header.count("\n"))
        + code
    )


def main() -> None:
    """Write the folder anew."""
    folder = ROOT / "tests" / "typing" / "snippets"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for line, code in snippets(page.read_text("utf-8")):
            name = f"{page.stem.replace('-', '_')}_{line}.py"
            (folder / name).write_text(module(line, code), "utf-8")


if __name__ == "__main__":
    main()
