"""The record file: the span processor that fills it, and those who read it."""

from otel_lifecycle.records.cursor import FilePosition, PositionedRecord
from otel_lifecycle.records.follower import Batch, Follower, Position
from otel_lifecycle.records.line import RecordError
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
