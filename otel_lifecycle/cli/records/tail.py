"""`otel-lifecycle tail`: prints the records of files, and new records as they are written."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from otel_lifecycle.cli.errors import FAILED, USAGE, warn
from otel_lifecycle.cli.record_paths import warn_of_missing
from otel_lifecycle.records import Follower
from otel_lifecycle.runtime.text import printable

_IDLE_SECONDS = 0.2


def run(paths: Sequence[Path], *, follow: bool) -> int:
    """Print records as JSON Lines, and problems on standard error; return the exit code."""
    exit_code = USAGE if not follow and warn_of_missing(paths) else 0
    with Follower(*paths, skip_unreadable=True) as follower:
        while True:
            batch = follower.poll()
            for entry in batch.records:
                sys.stdout.write(printable(msgspec.json.encode(entry.record).decode()) + "\n")
            sys.stdout.flush()
            for problem in batch.problems:
                exit_code = max(exit_code, FAILED if problem.line else USAGE)
                warn(problem)
            if batch.caught_up:
                if not follow:
                    break
                time.sleep(_IDLE_SECONDS)
        for line in follower.unfinished:
            warn(line)
    return exit_code
