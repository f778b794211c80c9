"""Record files and segments written by hand."""

from __future__ import annotations

import gzip
from pathlib import Path

import msgspec

from otel_lifecycle import LatencyPrediction, LifecycleRecord
from otel_lifecycle.model.latency import ActualLatency, PredictionError
from otel_lifecycle.records.names import COMPRESSED, SegmentKey, segment_path

CLOSED_AT = "20261125T025428.123Z"


def records(*request_ids: str) -> list[LifecycleRecord]:
    """Some records."""
    return [
        LifecycleRecord(
            request_id=request_id,
            started_at="2026-11-25T02:54:28.123456789Z",
            prediction=LatencyPrediction(),
            selected_route=None,
            actual=ActualLatency(),
            prediction_error=PredictionError(),
        )
        for request_id in request_ids
    ]


def lines(*request_ids: str) -> bytes:
    """The lines of some records."""
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records(*request_ids))


def append(path: Path, data: bytes) -> None:
    """Append to a file."""
    path.parent.mkdir(exist_ok=True)
    with path.open("ab") as file:
        file.write(data)


def closed(live: Path, number: int) -> Path:
    """The closed segment with this number."""
    return segment_path(live, SegmentKey(CLOSED_AT, number))


def compress(path: Path) -> Path:
    """Compress a closed segment as the package does."""
    compressed = path.with_name(path.name + COMPRESSED)
    unfinished = path.with_name("unfinished")
    unfinished.write_bytes(gzip.compress(path.read_bytes()))
    unfinished.rename(compressed)
    path.unlink()
    return compressed
