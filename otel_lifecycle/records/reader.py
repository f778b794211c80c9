"""Reads record files back."""

from __future__ import annotations

import os
from collections.abc import Iterator

from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records.follower import Follower
from otel_lifecycle.records.line import RecordError
from otel_lifecycle.records.names import absolute, is_folder, record_files
from otel_lifecycle.records.opening import open_record_file
from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)


def read_records(
    *paths: str | os.PathLike[str], skip_bad: bool = False
) -> Iterator[LifecycleRecord]:
    """Yield the records of files, each file's closed segments first, oldest first.

    Uses constant memory; safe while the files are written, rotated, compressed and deleted. A last
    line without its newline is still being written, or was torn by a crash: it is skipped.

    Args:
        *paths: Record files, including the closed segments rotated from them; single closed
            segments, compressed or not; folders, for their files `*.jsonl` and `*.jsonl.gz`.
        skip_bad: Log and skip invalid lines and unreadable files, instead of raising.

    Raises:
        RecordError: A line is not a record; the text names file, line and reason.
        OSError: A path does not exist, or cannot be read.
    """
    for path in paths:
        check_readable(path)
    with Follower(*paths, skip_unreadable=skip_bad) as follower:
        for entry in follower.read():
            if not isinstance(entry, RecordError):
                yield entry.record
            elif skip_bad:
                _logger.warning("%s", entry)
            else:
                raise entry
        for line in follower.unfinished:
            _logger.warning("%s", line)


def check_readable(path: str | os.PathLike[str]) -> None:
    """Raise for a path that `Follower` would wait for or report.

    Raises:
        OSError: A file does not exist, or cannot be read.
    """
    path = absolute(path)
    if is_folder(path):
        os.listdir(path)
    elif not any(record_files(path).values()):
        open_record_file(path).close()
