"""Has a process of its own write the record file and send spans: `writer="process"`."""

from otel_lifecycle.records.process.exporters import hand_over, take_back
from otel_lifecycle.records.process.handover import Handover
from otel_lifecycle.records.process.process_file import ProcessFile

__all__ = ["Handover", "ProcessFile", "hand_over", "take_back"]
