"""One line of a record file, and what can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from otel_lifecycle.model import SCHEMA_VERSION
from otel_lifecycle.record import LifecycleRecord

LONGEST_LINE = 16 << 20

_decoder = msgspec.json.Decoder(LifecycleRecord)


class RecordError(ValueError):
    """Something in a record file that is not a record, or records that are gone.

    Attributes:
        path: The file.
        line: Its number, from 1; None where it is not about one line.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        place = path if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


def parse_line(line: bytes) -> LifecycleRecord:
    """The record of a line.

    Raises:
        ValueError: It is none; the text says why.
    """
    try:
        record = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if record.schema_version > SCHEMA_VERSION:
        raise ValueError(
            f"schemaVersion {record.schema_version} is newer than {SCHEMA_VERSION}, "
            "the newest this version can read"
        )
    return record
