"""What the doctor says: facts in sections, then what is wrong."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.text import Text

from otel_lifecycle.analysis.formatting import plural, printable

_LABEL_WIDTH = 30
_LONGEST = 2_000
_NARROWEST = 30


class Diagnosis:
    """Collects facts, problems and warnings.

    A problem keeps spans or records from being made or from arriving; a warning does not.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._sections: list[tuple[str, list[tuple[str, str]]]] = []

    def begin(self, title: str) -> None:
        """Begins a section."""
        self._sections.append((title, []))

    def fact(self, label: str, text: str) -> None:
        """Adds a line to the section."""
        self._sections[-1][1].append((printable(label), printable(text, limit=_LONGEST)))

    def problem(self, text: str) -> None:
        """Adds what keeps it from working, and what to do."""
        self.problems.append(printable(text, limit=_LONGEST))

    def warn(self, text: str) -> None:
        """Adds what works less well than it could, and what to do."""
        self.warnings.append(printable(text, limit=_LONGEST))

    def print(self, console: Console) -> None:
        """Prints everything, the verdict last."""
        for title, facts in self._sections:
            console.print(Text(title, style="bold"))
            for label, text in facts:
                if len(label) > _LABEL_WIDTH:
                    console.print(f"  {label}", soft_wrap=True)
                    label = ""
                _print_beside(console, f"  {label:<{_LABEL_WIDTH}}  ", text)
            console.print()
        self._list(console, "warnings", self.warnings, "yellow")
        self._list(console, "problems", self.problems, "red")
        if self.problems:
            console.print(f"{plural(len(self.problems), 'problem')} to solve")
        else:
            console.print("this would work")

    def _list(self, console: Console, title: str, texts: list[str], style: str) -> None:
        if not texts:
            return
        console.print(Text(title, style=f"bold {style}"))
        for text in texts:
            _print_beside(console, "  - ", text)
        console.print()


def _print_beside(console: Console, label: str, text: str) -> None:
    """Prints a label and a text, which is wrapped beside it; paths are not broken."""
    width = max(console.width, len(label) + _NARROWEST)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines or [label.rstrip()]:
        console.print(line, soft_wrap=True)
