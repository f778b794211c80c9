"""The record file: the span processor that fills it, and the reader."""

from otel_lifecycle.persistence.processor import LifecycleSpanProcessor
from otel_lifecycle.persistence.reader import RecordError, read_records

__all__ = ["LifecycleSpanProcessor", "RecordError", "read_records"]
