"""`otel-lifecycle report`: what a record file tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from otel_lifecycle.cli.accuracy import Accuracy
from otel_lifecycle.cli.errors import FAILED, USAGE, complain
from otel_lifecycle.cli.formatting import percent, plural, printable
from otel_lifecycle.cli.load import LoadHistory
from otel_lifecycle.cli.record_paths import complain_of_missing
from otel_lifecycle.cli.terminal import open_console
from otel_lifecycle.cli.waterfalls import Waterfalls
from otel_lifecycle.model import Outcome
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records import Follower, RecordError

_BAR_WIDTH = 40


def run(paths: Sequence[Path]) -> int:
    """Prints the report of some files; returns the exit code."""
    missing = complain_of_missing(paths)
    if missing == len(paths):
        return USAGE
    passed_over = _PassedOver()
    with Follower(*paths, skip_unreadable=True) as follower:
        print_report(passed_over.records(follower), open_console())
        exit_code = passed_over.tell()
        for line in follower.unfinished:
            complain(line)
    return USAGE if missing else exit_code


class _PassedOver:
    """Counts what is no record, and remembers the first."""

    def __init__(self) -> None:
        self._first: RecordError | None = None
        self._count = 0
        self._exit_code = 0

    def records(self, follower: Follower) -> Iterator[LifecycleRecord]:
        for entry in follower.read():
            if not isinstance(entry, RecordError):
                yield entry.record
                continue
            self._first = self._first or entry
            self._count += 1
            self._exit_code = max(self._exit_code, FAILED if entry.line else USAGE)

    def tell(self) -> int:
        """Says how many, to standard error; returns the exit code."""
        if self._first is not None:
            complain(f"{plural(self._count, 'problem')} passed over, the first: {self._first}")
        return self._exit_code


def print_report(records: Iterable[LifecycleRecord], console: Console) -> None:
    """Prints outcomes, waterfalls, accuracy and load; reads the records once."""
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
        """Takes a record into account."""
        self._outcomes[record.outcome] += 1
        self._streams += bool(record.streaming)
        self._rerouted += bool(record.rerouted)
        if record.error is not None:
            self._errors[record.error.type] += 1

    def print(self, console: Console) -> None:
        """Prints one line for each outcome, and the errors by type."""
        total = self._outcomes.total()
        facts = [plural(total, "request")]
        if total:
            facts += [f"{percent(self._streams / total)} streaming", f"{self._rerouted:,} rerouted"]
        console.print(Text(" · ".join(facts), style="bold"))
        for outcome, number in self._outcomes.most_common():
            bar = "█" * max(1, round(_BAR_WIDTH * number / total))
            console.print(f"  {outcome.value:<18}{number:>7,}  {bar}")
        if self._errors:
            errors = ", ".join(
                f"{printable(kind)} {number:,}" for kind, number in self._errors.most_common()
            )
            console.print(f"  errors: {errors}")
        console.print()
