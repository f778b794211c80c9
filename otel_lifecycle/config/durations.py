"""Durations as Go writes them: `300ms`, `1.5h`, `1h2m3s`, `0`."""

from __future__ import annotations

import re
from datetime import timedelta

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # micro sign
    "\u03bcs": 1_000,  # Greek mu
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LIMIT = 1 << 63  # the magnitude of the most negative duration
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_ALLOWED = "a Go duration such as 300ms, 1.5h or 1h2m3s (units ns, us, ms, s, m, h)"


def parse_go_duration(text: str) -> int:
    """Parse a Go duration into nanoseconds, exactly as Go's `time.ParseDuration` does.

    Raises:
        ValueError: The text is not a duration: no unit (`5`), an unknown unit (`1d`), empty, or too
            large.
    """
    negative = text[:1] == "-"
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0
    total = position = 0
    while position < len(unsigned) or not unsigned:
        term = _TERM.match(unsigned, position)
        if term is None or term[3] not in _NANOSECONDS or not (term[1] or term[2]):
            raise ValueError(f"{text!r} is not {_ALLOWED}")
        unit = _NANOSECONDS[term[3]]
        total += _whole(term[1]) * unit + _fraction(term[2] or "", unit)
        position = term.end()
    if total > (_LIMIT if negative else _LIMIT - 1):
        raise ValueError(f"{text!r} is longer than Go's longest duration, about 292 years")
    return -total if negative else total


def _whole(digits: str) -> int:
    digits = digits.lstrip("0")
    # Python refuses to convert thousands of digits; such a number is too large anyway.
    return _LIMIT + 1 if len(digits) > len(str(_LIMIT)) else int(digits or 0)


def _fraction(digits: str, unit: int) -> int:
    """Convert the digits after the point to nanoseconds, in floating point as Go does."""
    value, scale = 0, 1.0
    for digit in digits:
        longer = value * 10 + int(digit)
        if longer > _LIMIT:  # Go ignores the excess digits
            break
        value, scale = longer, scale * 10
    return int(value * (unit / scale))


def to_timedelta(nanoseconds: int) -> timedelta:
    """Return the duration in microseconds, rounded away from zero: only 0 becomes 0."""
    microseconds = -(-abs(nanoseconds) // 1_000)
    return timedelta(microseconds=microseconds if nanoseconds >= 0 else -microseconds)
