"""`otel-lifecycle tail`: the records of files, and those that are still to come."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from otel_lifecycle.cli.errors import FAILED, USAGE
from otel_lifecycle.cli.formatting import printable
from otel_lifecycle.cli.record_paths import require
from otel_lifecycle.persistence import Follower, RecordError

_IDLE_SECONDS = 0.2
_LONGEST = 2_000


def run(paths: Sequence[Path], *, follow: bool) -> int:
    """Prints records as JSON Lines, and what is none to standard error; returns the exit code."""
    if not follow:
        require(paths)
    exit_code = 0
    with Follower(*paths) as follower:
        while True:
            batch = follower.poll()
            for entry in batch.records:
                sys.stdout.write(msgspec.json.encode(entry.record).decode() + "\n")
            sys.stdout.flush()
            for problem in batch.problems:
                exit_code = max(exit_code, FAILED if problem.line else USAGE)
                _complain(problem)
            if batch.caught_up:
                if not follow:
                    break
                time.sleep(_IDLE_SECONDS)
        for line in follower.unfinished:
            _complain(line)
    return exit_code


def _complain(problem: RecordError) -> None:
    print(f"otel-lifecycle: {printable(str(problem), _LONGEST)}", file=sys.stderr)
