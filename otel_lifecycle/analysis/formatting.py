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


def latency(value: float | None) -> str:
    """Format milliseconds in at most six characters or so: as seconds from 100,000 on."""
    if value is None or value < 100_000:
        return milliseconds(value)
    return f"{compact(value / 1e3)}s"


def significant(value: float, digits: int = 3) -> str:
    """Format with so many significant digits, and separators from 1,000 on."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{float(f'{value:.{digits}g}'):g}"


def compact(value: float | None) -> str:
    """Format a large number as `12.3k` or `4.5M`."""
    if value is None:
        return UNKNOWN
    for size, unit, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= size:
            return significant(value / unit) + suffix
    return significant(value)


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
