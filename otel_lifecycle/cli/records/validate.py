"""`otel-lifecycle validate`: checks whether every line is a record."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from otel_lifecycle.analysis.formatting import plural, printable
from otel_lifecycle.cli.errors import FAILED, LONGEST, USAGE, warn
from otel_lifecycle.cli.record_paths import warn_of_missing
from otel_lifecycle.records import Follower, RecordError
from otel_lifecycle.records.names import absolute, record_files


def run(paths: Iterable[Path]) -> int:
    """Check files and print the findings; return the exit code."""
    return max(_check(path) for path in paths)


def _check(path: Path) -> int:
    if warn_of_missing([path]):
        return USAGE
    records: Counter[Path] = Counter()
    bad_lines: Counter[Path] = Counter()
    unreadable: set[Path] = set()
    exit_code = 0
    with Follower(path, skip_unreadable=True) as follower:
        files = _files(path)
        for entry in follower.read():
            if not isinstance(entry, RecordError):
                records[entry.path] += 1
            elif entry.line is not None:
                bad_lines[entry.path] += 1
                exit_code = max(exit_code, FAILED)
                _print(entry)
            else:
                unreadable.add(entry.path)
                exit_code = USAGE
                warn(entry)
        for line in follower.unfinished:
            _print(line)
    readable = (file for file in files if file not in unreadable)
    for file in dict.fromkeys([*readable, *records, *bad_lines]):
        _print(f"{file}: {plural(records[file], 'record')}, {plural(bad_lines[file], 'bad line')}")
    return exit_code


def _files(path: Path) -> list[Path]:
    """Return all files of a path, also those without records."""
    try:
        found = record_files(absolute(path)).items()
    except OSError:  # the follower reports it
        return []
    return [
        file
        for live, segments in found
        for file in (*(live.with_name(name) for _, name in segments), live)
        if os.path.isfile(file)
    ]


def _print(line: object) -> None:
    print(printable(str(line), LONGEST))
