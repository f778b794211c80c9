"""One line of a record file, and its possible errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import msgspec

from otel_lifecycle.model import SCHEMA_VERSION
from otel_lifecycle.model.fields import fields_of
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import parse_timestamp

LONGEST_LINE = 16 << 20

_END_OF_TIME_NS = 1 << 63


_Record = TypeVar("_Record", bound=LifecycleRecord)


class RecordError(ValueError):
    """An invalid line, an unreadable file, or lost records.

    Attributes:
        path: The file.
        line: Number of the line, from 1; None if the error does not concern one line.
        reason: What is wrong.
    """

    def __init__(self, path: Path, line: int | None, reason: str) -> None:
        place = path if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


Parsed = TypeVar("Parsed")


class Positioned(msgspec.Struct, Generic[Parsed], frozen=True):
    """A line as it was parsed, and where it was found.

    Attributes:
        record: The record; for a reader with a parser of its own, what that returned.
        path: The file, with the name it had when it was opened.
        line: Number of the line, from 1; 0 if that is not known.
        size: Size of the line in bytes, before compression.
    """

    record: Parsed
    path: Path
    line: int
    size: int

    @property
    def place(self) -> str:
        """Where it was found, as messages name it."""
        return f"{self.path}:{self.line}" if self.line else str(self.path)


PositionedRecord: TypeAlias = Positioned[LifecycleRecord]


def parse_line(line: bytes) -> LifecycleRecord:
    """Return the record in a line, of any known version of the schema.

    Raises:
        ValueError: The line is not a record; the text gives the reason.
    """
    try:
        record = _decode(line)
        _check_timestamps(record)
    except RecursionError as error:
        raise ValueError(str(error)) from error
    return record


def decoder(readers: Mapping[int, Callable[[bytes], _Record]]) -> Callable[[bytes], _Record]:
    """Combine the readers of several schema versions into one function.

    The function raises ValueError for a line that no reader can read.

    Args:
        readers: For each version, the reader that turns its lines into records of the newest.
    """
    newest = max(readers)
    read_newest = readers[newest]
    beginning = b'{"schemaVersion":%d,' % newest

    def decode(line: bytes) -> _Record:
        if line.startswith(beginning):  # fast path for lines of our own writer
            record = read_newest(line)
            if record.schema_version == newest:  # the line may contain the version twice
                return record
        # Read the version first: the other fields may differ from those of the newest version.
        version = _version_decoder.decode(line).schema_version
        if version in readers:
            return readers[version](line)
        if version > newest:
            raise ValueError(
                f"schemaVersion {version} is newer than {newest}, the newest this version can read"
            )
        raise ValueError(f"schemaVersion {version} is invalid; versions start at {min(readers)}")

    return decode


class _Version(msgspec.Struct, rename="camel"):
    schema_version: int


_version_decoder = msgspec.json.Decoder(_Version)
# Each version of the schema, new or old, has a reader here.
_decode = decoder({SCHEMA_VERSION: msgspec.json.Decoder(LifecycleRecord).decode})
_timestamps = attrgetter(*(f.name for f in fields_of(LifecycleRecord) if f.kind == "timestamp"))


def _check_timestamps(record: LifecycleRecord) -> None:
    """Reject dates that do not exist and times that no span can have."""
    for moment in _timestamps(record):
        if moment is not None and not (len(moment) == 30 and _is_possible(moment[:19])):
            _check_timestamp(moment)
    for reroute in record.rerouted:
        _check_timestamp(reroute.at)


def _check_timestamp(moment: str) -> None:
    try:
        unix_ns = parse_timestamp(moment)
    except ValueError as error:
        raise ValueError(f"timestamp {moment!r}: {error}") from error
    if not 0 <= unix_ns < _END_OF_TIME_NS:
        raise ValueError(f"timestamp {moment!r} is before 1970 or after 2262")


@lru_cache(maxsize=256)  # consecutive requests share their second
def _is_possible(second: str) -> bool:
    """Whether every nanosecond of a second is a time that a span can have."""
    try:
        _check_timestamp(f"{second}.000000000Z")
        _check_timestamp(f"{second}.999999999Z")
    except ValueError:
        return False
    return True
