"""Durations as Go writes them: `300ms`, `1.5h`, `1h2m3s`, `0`."""

from __future__ import annotations

import re
from datetime import timedelta
from fractions import Fraction

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
_MAX_NANOSECONDS = 2**63 - 1
_TERM = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]+)")
_ALLOWED = "a Go duration such as 300ms, 1.5h or 1h2m3s (units ns, us, ms, s, m, h)"


def parse_go_duration(text: str) -> int:
    """Nanoseconds of a Go duration, by the grammar of Go's `time.ParseDuration`.

    Raises:
        ValueError: The text is not one: no unit (`5`), an unknown unit (`1d`), empty, too large.
    """
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned == "0":
        return 0
    total = Fraction(0)
    position = 0
    while position < len(unsigned) or not unsigned:
        term = _TERM.match(unsigned, position)
        if term is None or term[3] not in _NANOSECONDS or not (term[1] or term[2]):
            raise ValueError(f"{text!r} is not {_ALLOWED}")
        value = Fraction(int(term[1] or 0))
        if term[2]:
            value += Fraction(int(term[2]), 10 ** len(term[2]))
        total += int(value * _NANOSECONDS[term[3]])  # Go drops fractions of a nanosecond
        position = term.end()
    if total > _MAX_NANOSECONDS:
        raise ValueError(f"{text!r} is longer than Go's longest duration, about 290 years")
    return -int(total) if text[0] == "-" else int(total)


def to_timedelta(nanoseconds: int) -> timedelta:
    """The duration to the microsecond, rounded away from zero: only 0 becomes 0."""
    microseconds = -(-abs(nanoseconds) // 1_000)
    return timedelta(microseconds=microseconds if nanoseconds >= 0 else -microseconds)
