"""The live view: what a router did within the last minute, while records are written."""

from otel_lifecycle.analysis.live.frame import draw
from otel_lifecycle.analysis.live.lines import plain_lines
from otel_lifecycle.analysis.live.screen import Screen
from otel_lifecycle.analysis.live.source import RecordSource
from otel_lifecycle.analysis.live.view import View

__all__ = [
    "RecordSource",
    "Screen",
    "View",
    "draw",
    "plain_lines",
]
