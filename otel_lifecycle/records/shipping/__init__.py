"""Sends the records of files as spans, from a separate process."""

from otel_lifecycle.records.shipping.checkpoint import Checkpoint, CheckpointError
from otel_lifecycle.records.shipping.sender import Answer, Fate, Sender, quiet_exporters
from otel_lifecycle.records.shipping.shipper import Counts, Shipper

__all__ = [
    "Answer",
    "Checkpoint",
    "CheckpointError",
    "Counts",
    "Fate",
    "Sender",
    "Shipper",
    "quiet_exporters",
]
