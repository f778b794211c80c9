"""Parses the part of the Prometheus text format that engines and exporters use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][\w:]*)"
    r"(?:\{(?P<labels>.*)\})?"
    r"\s+(?P<value>\S+)"
    r"(?:\s+(?P<timestamp>-?\d+))?\s*"
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n"}


@dataclass(frozen=True)
class Sample:
    """One line of an exposition."""

    name: str
    labels: dict[str, str]
    value: float
    timestamp_ms: int | None


def parse_exposition(text: str) -> Iterator[Sample]:
    """Yield the samples; skip malformed lines."""
    for line in text.splitlines():
        match = None if line.startswith("#") else _SAMPLE.fullmatch(line)
        if match is None:
            continue
        try:
            value = float(match["value"])
        except ValueError:
            continue
        timestamp = match["timestamp"]
        yield Sample(
            name=match["name"],
            labels={name: _unescape(raw) for name, raw in _LABEL.findall(match["labels"] or "")},
            value=value,
            timestamp_ms=None if timestamp is None else int(timestamp),
        )


def _unescape(raw: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), raw)
