"""The record file: the span processor that writes it, and its readers."""

from otel_lifecycle.records.follower import Batch, Follower
from otel_lifecycle.records.line import PositionedRecord, RecordError
from otel_lifecycle.records.position import FilePosition, Position
from otel_lifecycle.records.processor import LifecycleSpanProcessor
from otel_lifecycle.records.reader import read_records

__all__ = [
    "Batch",
    "FilePosition",
    "Follower",
    "LifecycleSpanProcessor",
    "Position",
    "PositionedRecord",
    "RecordError",
    "read_records",
]
