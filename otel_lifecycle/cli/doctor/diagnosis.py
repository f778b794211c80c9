"""The doctor's output: facts in sections, then warnings and problems."""

from __future__ import annotations

import textwrap

from otel_lifecycle.analysis.formatting import plural, printable
from otel_lifecycle.cli.printing import PrintLine, width

_LABEL_WIDTH = 30
_MAX_TEXT = 2_000
_MIN_WIDTH = 30


class Diagnosis:
    """Collects facts, problems and warnings.

    A problem prevents spans or records from being created or delivered; a warning does not.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self._sections: list[tuple[str, list[tuple[str, str]]]] = []

    def begin(self, title: str) -> None:
        """Begin a section."""
        self._sections.append((title, []))

    def fact(self, label: str, text: str) -> None:
        """Add a line to the section."""
        self._sections[-1][1].append((printable(label), printable(text, limit=_MAX_TEXT)))

    def problem(self, text: str) -> None:
        """Add something that prevents it from working, and the remedy."""
        self.problems.append(printable(text, limit=_MAX_TEXT))

    def warn(self, text: str) -> None:
        """Add something that could work better, and the remedy."""
        self.warnings.append(printable(text, limit=_MAX_TEXT))

    def print(self, print_line: PrintLine) -> None:
        """Print everything, the verdict last."""
        for title, facts in self._sections:
            print_line(title, style="bold")
            for label, text in facts:
                if len(label) > _LABEL_WIDTH:
                    print_line(f"  {label}")
                    label = ""
                _print_beside(print_line, f"  {label:<{_LABEL_WIDTH}}  ", text)
            print_line()
        _print_list(print_line, "warnings", self.warnings, "yellow")
        _print_list(print_line, "problems", self.problems, "red")
        if self.problems:
            print_line(f"{plural(len(self.problems), 'problem')} to solve")
        else:
            print_line("this would work")


def _print_list(print_line: PrintLine, title: str, texts: list[str], colour: str) -> None:
    if not texts:
        return
    print_line(title, style=f"bold {colour}")
    for text in texts:
        _print_beside(print_line, "  - ", text)
    print_line()


def _print_beside(print_line: PrintLine, label: str, text: str) -> None:
    """Print a label, and a text wrapped beside it; paths are not broken."""
    lines = textwrap.wrap(
        text,
        max(width(), len(label) + _MIN_WIDTH),
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines or [label.rstrip()]:
        print_line(line)
