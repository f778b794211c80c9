"""Reads record files back."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from otel_lifecycle.model import SCHEMA_VERSION
from otel_lifecycle.record import LifecycleRecord

_logger = logging.getLogger(__name__)


class RecordError(ValueError):
    """A line that is not a record.

    Attributes:
        path: The file.
        line: Its number, from 1.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


def read_records(
    path: str | os.PathLike[str], *, skip_bad: bool = False
) -> Iterator[LifecycleRecord]:
    """Yields the records of a file, oldest first, in constant memory.

    A last line without its newline is still being written, or was torn by a crash: it is left out.

    Args:
        path: The JSON Lines file.
        skip_bad: Log a bad line and go on, instead of raising.

    Raises:
        RecordError: A line is not a record; the text names file, line and reason.
        OSError: The file cannot be read.
    """
    path = Path(path).expanduser()
    decoder = msgspec.json.Decoder(LifecycleRecord)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                _logger.warning("%s:%d: left out, the line has no end yet", path, number)
                return
            try:
                record = decoder.decode(line)
                if record.schema_version > SCHEMA_VERSION:
                    raise msgspec.ValidationError(
                        f"schemaVersion {record.schema_version} is newer than {SCHEMA_VERSION}, "
                        "the newest this version can read"
                    )
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                bad = RecordError(path, number, str(error))
                if not skip_bad:
                    raise bad from error
                _logger.warning("%s", bad)
                continue
            yield record
