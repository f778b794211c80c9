"""One line of a record file, and what can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from otel_lifecycle.model import SCHEMA_VERSION
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import parse_timestamp

LONGEST_LINE = 16 << 20

_END_OF_TIME_NS = 1 << 63


class _Version(msgspec.Struct, rename="camel"):
    schema_version: int


_version_decoder = msgspec.json.Decoder(_Version)
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


class PositionedRecord(msgspec.Struct, frozen=True):
    """A record, and where it was found.

    Attributes:
        record: The record.
        path: The file, under the name it had when it was opened.
        line: The number of its line, from 1.
        size: The bytes of its line, before compression.
    """

    record: LifecycleRecord
    path: Path
    line: int
    size: int


def parse_line(line: bytes) -> LifecycleRecord:
    """Returns the record of a line.

    Raises:
        ValueError: It is not a record; the text says why.
    """
    try:
        # First: of another version, nothing else need be as this one has it.
        version = _version_decoder.decode(line).schema_version
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"schemaVersion {version} is newer than {SCHEMA_VERSION}, "
                "the newest this version can read"
            )
        if version < SCHEMA_VERSION:
            raise ValueError(
                f"schemaVersion {version} is invalid; versions start at {SCHEMA_VERSION}"
            )
        record = _decoder.decode(line)
        _check_timestamps(record)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    return record


def _check_timestamps(record: LifecycleRecord) -> None:
    """Their pattern lets through what no calendar has, and their type what no span can have."""
    moments = (record.started_at, record.first_chunk_at, record.completed_at)
    for moment in (*moments, *(reroute.at for reroute in record.rerouted)):
        if moment is None:
            continue
        try:
            unix_ns = parse_timestamp(moment)
        except ValueError as error:
            raise ValueError(f"timestamp {moment!r}: {error}") from error
        if not 0 <= unix_ns < _END_OF_TIME_NS:
            raise ValueError(f"timestamp {moment!r} is before 1970 or after 2262")
