"""What a router's process says to the one that writes its records.

First a line with orders, then one for each record: its JSON, in brackets if its span is to be sent.
The process answers with lines of two numbers: how many records are in the file, and how many are
lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from otel_lifecycle.config import PersistenceConfig
from otel_lifecycle.telemetry.attributes import Details

_MICROSECOND: Final = timedelta(microseconds=1)


class Export(msgspec.Struct, frozen=True):
    """How spans are sent.

    Attributes:
        protocol: `grpc` or `http/protobuf`; all else is in OpenTelemetry's variables.
        details: The optional attributes that they have.
        resource: The attributes of their resource.
    """

    protocol: str
    details: Details
    resource: dict[str, Any]


class Orders(msgspec.Struct, frozen=True):
    """What a process is to do.

    Attributes:
        persistence: The settings of the record file; durations as text.
        path: The record file.
        export: How spans are sent; None: not by this process.
    """

    persistence: dict[str, Any]
    path: str
    export: Export | None

    @classmethod
    def of(cls, persistence: PersistenceConfig, path: Path, export: Export | None) -> Orders:
        """Return the orders for a file with some settings."""
        settings = {
            name: f"{value // _MICROSECOND}us" if isinstance(value, timedelta) else value
            for name, value in persistence.model_dump().items()
        }
        return cls(settings, str(path), export)

    def to_line(self) -> bytes:
        """Return them as a line."""
        return msgspec.json.encode(self) + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Orders:
        """Read the output of `to_line`."""
        return msgspec.json.decode(line, type=cls)


def records_in(lines: Iterable[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Return the records in some lines, and those among them whose spans are to be sent."""
    records: list[bytes] = []
    with_span: list[bytes] = []
    for line in lines:
        record = line
        if line.startswith(b"["):
            record = line[1:-1]
            with_span.append(record)
        records.append(record)
    return records, with_span


def answer(written: int, lost: int) -> bytes:
    """Return an answer as a line."""
    return b"%d %d\n" % (written, lost)


def last_answer(lines: bytes) -> tuple[int, int]:
    """Return the last of some whole lines of answers."""
    written, _, lost = lines.rstrip(b"\n").rpartition(b"\n")[2].partition(b" ")
    return int(written), int(lost)
