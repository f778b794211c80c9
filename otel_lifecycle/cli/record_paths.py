"""The files and folders that a command reads records from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from otel_lifecycle.cli.errors import warn
from otel_lifecycle.records.names import absolute, record_files


def _never(path: Path) -> bool:
    return False


def warn_of_missing(paths: Iterable[Path], is_table: Callable[[Path], bool] = _never) -> int:
    """Warn about paths that will never have records; return how many.

    `Follower` reports paths that exist but cannot be read.

    Args:
        paths: The paths.
        is_table: Returns whether a path is a table of records instead.
    """
    missing = 0
    for path in paths:
        reason = None if is_table(path) else _why_missing(absolute(path))
        if reason is not None:
            warn(f"{path}: {reason}")
            missing += 1
    return missing


def _why_missing(path: Path) -> str | None:
    try:
        files = record_files(path)
        if not files:
            return "contains no record files (*.jsonl, *.jsonl.gz)"
        if files == {path: []}:
            os.stat(path)
    except FileNotFoundError as error:
        return error.strerror
    except OSError:
        return None
    return None
