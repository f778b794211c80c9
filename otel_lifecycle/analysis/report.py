"""Prints a report to a terminal: outcomes, waterfalls, accuracy and load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from otel_lifecycle.analysis.accuracy import Accuracy
from otel_lifecycle.analysis.formatting import percent, plural, printable
from otel_lifecycle.analysis.load import LoadHistory
from otel_lifecycle.analysis.waterfalls import Waterfalls
from otel_lifecycle.model import Outcome
from otel_lifecycle.model.record import LifecycleRecord

_BAR_WIDTH = 40
_LABEL_WIDTH = 29


def print_report(records: Iterable[LifecycleRecord], console: Console) -> None:
    """Print outcomes, waterfalls, accuracy and load; reads the records once."""
    sections = (Outcomes(), Waterfalls(), Accuracy(), LoadHistory())
    for record in records:
        for section in sections:
            section.add(record)
    for section in sections:
        section.print(console)


class Outcomes:
    """Counts how requests ended."""

    def __init__(self) -> None:
        self._outcomes: Counter[Outcome] = Counter()
        self._errors: Counter[str] = Counter()
        self._streams = 0
        self._rerouted = 0

    def add(self, record: LifecycleRecord) -> None:
        """Take a record into account."""
        self._outcomes[record.outcome] += 1
        self._streams += bool(record.streaming)
        self._rerouted += bool(record.rerouted)
        if record.error is not None:
            self._errors[record.error.type] += 1

    def print(self, console: Console) -> None:
        """Print one line for each outcome, and the errors by type."""
        total = self._outcomes.total()
        facts = [plural(total, "request")]
        if total:
            facts += [f"{percent(self._streams / total)} streaming", f"{self._rerouted:,} rerouted"]
        console.print(Text(" · ".join(facts), style="bold"))
        width = min(_BAR_WIDTH, console.width - _LABEL_WIDTH)
        for outcome, number in self._outcomes.most_common():
            bar = "█" * max(1, round(width * number / total)) if width > 0 else ""
            console.print(f"  {outcome.value:<18}{number:>7,}  {bar}".rstrip())
        if self._errors:
            errors = ", ".join(
                f"{printable(kind)} {number:,}" for kind, number in self._errors.most_common()
            )
            console.print(f"  errors: {errors}")
        console.print()
