"""The files and folders a command reads records from."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from otel_lifecycle.cli.errors import complain
from otel_lifecycle.records.names import absolute, record_files


def complain_of_missing(paths: Iterable[Path]) -> int:
    """Warn about paths that will never have records; return how many.

    What is there and cannot be read is for `Follower` to tell.
    """
    missing = 0
    for path in paths:
        reason = _why_missing(absolute(path))
        if reason is not None:
            complain(f"{path}: {reason}")
            missing += 1
    return missing


def _why_missing(path: Path) -> str | None:
    try:
        files = record_files(path)
        if not files:
            return "holds no record files (*.jsonl, *.jsonl.gz)"
        if files == {path: {}}:
            os.stat(path)
    except FileNotFoundError as error:
        return error.strerror
    except OSError:
        return None
    return None
