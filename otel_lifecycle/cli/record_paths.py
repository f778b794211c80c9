"""The files and folders a command reads records from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from otel_lifecycle.cli.errors import CommandError
from otel_lifecycle.persistence.names import record_files
from otel_lifecycle.persistence.reader import check_readable


def require(paths: Iterable[Path]) -> None:
    """Makes sure that there is something to read.

    Raises:
        CommandError: A path is not there, cannot be read, or is a folder without record files.
    """
    for path in paths:
        try:
            check_readable(path)
            empty = not record_files(path)
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from error
        if empty:
            raise CommandError(f"{path}: holds no record files (*.jsonl, *.jsonl.gz)")
