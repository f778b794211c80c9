"""Sends the records of files as spans, from a process of its own."""

from otel_lifecycle.shipping.checkpoint import Checkpoint, CheckpointError
from otel_lifecycle.shipping.sender import Answer, Fate, Sender
from otel_lifecycle.shipping.shipper import Counts, Shipper

__all__ = ["Answer", "Checkpoint", "CheckpointError", "Counts", "Fate", "Sender", "Shipper"]
