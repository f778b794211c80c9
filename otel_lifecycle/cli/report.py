"""`otel-lifecycle report`: summarizes record files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.report import print_report
from otel_lifecycle.cli.errors import FAILED, USAGE, warn
from otel_lifecycle.cli.record_paths import warn_of_missing
from otel_lifecycle.cli.terminal import open_console
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records import Follower, RecordError


def run(paths: Sequence[Path]) -> int:
    """Print the report of some files; return the exit code."""
    missing = warn_of_missing(paths)
    if missing == len(paths):
        return USAGE
    skipped = _SkippedLines()
    with Follower(*paths, skip_unreadable=True) as follower:
        print_report(skipped.records(follower), open_console())
        exit_code = skipped.warn()
        for line in follower.unfinished:
            warn(line)
    return USAGE if missing else exit_code


class _SkippedLines:
    """Counts the lines that are not records, and remembers the first."""

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

    def warn(self) -> int:
        """Print the number of skipped lines to standard error; return the exit code."""
        if self._first is not None:
            warn(f"{plural(self._count, 'problem')} skipped, the first: {self._first}")
        return self._exit_code
