"""`otel-lifecycle validate`: is every line a record?"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from otel_lifecycle.cli.errors import FAILED, USAGE, CommandError
from otel_lifecycle.cli.formatting import plural, printable
from otel_lifecycle.cli.record_paths import require
from otel_lifecycle.persistence import Follower, RecordError
from otel_lifecycle.persistence.names import absolute, record_files

_LONGEST = 2_000


def run(paths: Iterable[Path]) -> int:
    """Checks files and prints what it finds; returns the exit code."""
    return max(_check(path) for path in paths)


def _check(path: Path) -> int:
    try:
        require([path])
    except CommandError as error:
        print(f"otel-lifecycle: {error}", file=sys.stderr)
        return USAGE
    records: Counter[Path] = Counter()
    bad_lines: Counter[Path] = Counter()
    exit_code = 0
    with Follower(path) as follower:
        files = _files(path)
        for entry in follower.read():
            if not isinstance(entry, RecordError):
                records[entry.path] += 1
            elif entry.line is not None:
                bad_lines[entry.path] += 1
                exit_code = max(exit_code, FAILED)
                _print(entry)
            else:
                print(f"otel-lifecycle: {printable(str(entry), _LONGEST)}", file=sys.stderr)
                exit_code = USAGE
        for line in follower.unfinished:
            _print(line)
    for file in dict.fromkeys([*files, *records, *bad_lines]):
        print(f"{file}: {plural(records[file], 'record')}, {plural(bad_lines[file], 'bad line')}")
    return exit_code


def _files(path: Path) -> list[Path]:
    """Those without a record are counted too."""
    found = record_files(absolute(path)).items()
    return [
        file for live, segments in found for file in (*segments.values(), live) if file.is_file()
    ]


def _print(problem: RecordError) -> None:
    print(printable(str(problem), limit=_LONGEST))
