"""`otel-lifecycle validate`: is every line a record?"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from pathlib import Path

from otel_lifecycle.cli.errors import USAGE
from otel_lifecycle.cli.formatting import plural, printable
from otel_lifecycle.persistence import RecordError, read_records

BAD_LINES = 1

_LONGEST = 2_000


def run(paths: Iterable[Path]) -> int:
    """Checks files and prints what it finds; returns the exit code."""
    return max(_check(path) for path in paths)


def _check(path: Path) -> int:
    findings = _Findings()
    logger = logging.getLogger(read_records.__module__)
    logger.addHandler(findings)
    try:
        count = sum(1 for _ in read_records(path, skip_bad=True))
    except OSError as error:
        print(f"otel-lifecycle: {path}: {error.strerror}", file=sys.stderr)
        return USAGE
    finally:
        logger.removeHandler(findings)
    print(f"{path}: {plural(count, 'record')}, {plural(findings.bad, 'bad line')}")
    return BAD_LINES if findings.bad else 0


class _Findings(logging.Handler):
    """Prints what the reader logs of the lines it skips, so that both always agree."""

    def __init__(self) -> None:
        super().__init__()
        self.bad = 0

    def emit(self, record: logging.LogRecord) -> None:
        print(printable(record.getMessage(), limit=_LONGEST))
        if isinstance(record.args, tuple) and isinstance(record.args[0], RecordError):
            self.bad += 1
