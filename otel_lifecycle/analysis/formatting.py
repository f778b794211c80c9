"""Formats numbers and names for a terminal; an unknown value is a dash, never a zero."""

from __future__ import annotations

from otel_lifecycle.runtime.text import printable as escaped

UNKNOWN = "-"


def milliseconds(value: float | None) -> str:
    """Format with three digits or more: `4.25`, `42.5`, `425`, `4,250`."""
    if value is None:
        return UNKNOWN
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def percent(fraction: float) -> str:
    """Format a fraction as a whole percentage."""
    return f"{fraction * 100:.0f} %"


def count(value: int | None) -> str:
    """Format with separators."""
    return UNKNOWN if value is None else f"{value:,}"


def plural(number: int, noun: str) -> str:
    """Format as `1 record`, `2 records`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shortened(name: str, width: int = 17) -> str:
    """Remove the middle of a long name: the end distinguishes pods."""
    if len(name) <= width:
        return name
    tail = width * 2 // 3
    return f"{name[: width - tail - 1]}…{name[-tail:]}"


def printable(text: str, limit: int = 200) -> str:
    """Return one line without control characters, which clients may have sent."""
    shown = escaped(text[:limit])
    return shown if len(text) <= limit else f"{shown}..."
