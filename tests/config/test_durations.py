"""Durations are those of Go's `time.ParseDuration`."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from otel_lifecycle.config.durations import parse_go_duration, to_timedelta

_US = 1_000
_MS = 1_000 * _US
_S = 1_000 * _MS
_M = 60 * _S
_H = 60 * _M
_MIN, _MAX = -(2**63), 2**63 - 1


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("+0", 0),
        ("0s", 0),
        ("5s", 5 * _S),
        ("+5s", 5 * _S),
        ("-5s", -5 * _S),
        ("1478s", 1478 * _S),
        ("007s", 7 * _S),
        ("5.s", 5 * _S),
        (".5s", 500 * _MS),
        ("5.6s", 5 * _S + 600 * _MS),
        ("1.0040s", _S + 4 * _MS),
        ("1.5h", _H + 30 * _M),
        ("10ns", 10),
        ("11us", 11 * _US),
        ("12\u00b5s", 12 * _US),
        ("12\u03bcs", 12 * _US),
        ("300ms", 300 * _MS),
        ("15m", 15 * _M),
        ("16h", 16 * _H),
        ("1h2m3s", _H + 2 * _M + 3 * _S),
        ("1h2m3s4ms5us6ns", _H + 2 * _M + 3 * _S + 4 * _MS + 5 * _US + 6),
        ("10.5s4m", 4 * _M + 10 * _S + 500 * _MS),
        ("1s1s", 2 * _S),
        ("-2m3.4s", -(2 * _M + 3 * _S + 400 * _MS)),
        ("39h9m14.425s", 39 * _H + 9 * _M + 14 * _S + 425 * _MS),
        ("0.9ns", 0),
        ("1.9ns", 1),
        ("9007199254740993ns", 2**53 + 1),
        # Exact arithmetic would say 19m59.999999999s.
        ("0.3333333333333333333h", 20 * _M),
        ("0.100000000000000000000h", 6 * _M),
        ("0.830103483285477580700h", 49 * _M + 48 * _S + 372539827),
        (f"0.{'3' * 5000}h", 20 * _M),
        (f"{'0' * 5000}1h", _H),
        ("9223372036854775807ns", _MAX),
        ("9223372036854775.807us", _MAX),
        ("9223372036s854ms775us807ns", _MAX),
        ("-9223372036854775808ns", _MIN),
        ("-9223372036854775.808us", _MIN),
        ("-2562047h47m16.854775808s", _MIN),
    ],
)
def test_accepted(text: str, nanoseconds: int) -> None:
    """What Go accepts is accepted, as the same number of nanoseconds."""
    assert nanoseconds == parse_go_duration(text)


_NOT_ONE = "is not a Go duration such as 300ms, 1.5h or 1h2m3s (units ns, us, ms, s, m, h)"
_TOO_LONG = "is longer than Go's longest duration, about 292 years"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        *[
            (text, _NOT_ONE)
            for text in (
                "",
                "5",
                "00",
                "0.0",
                "-",
                "+",
                "--5s",
                "+-5s",
                "s",
                ".",
                "-.",
                ".s",
                "+.s",
                "1d",
                "1w",
                "5S",
                "5 s",
                " 5s",
                "5s ",
                "5s\n",
                "1,5s",
                "1e3s",
                "1_000s",
                "1h5",
                "1.2.3s",
                "5sec",
                "\u0665s",  # a digit, but not an ASCII one
                "NaNs",
                "inf",
            )
        ],
        *[
            (text, _TOO_LONG)
            for text in (
                "9223372036854775808ns",
                "-9223372036854775809ns",
                "9223372036854775.808us",
                "9223372036854ms775us808ns",
                "3000000h",
                f"{'9' * 5000}s",
                "-99999999999999999999ns",
            )
        ],
    ],
)
def test_refused(text: str, reason: str) -> None:
    """What Go refuses is refused, with the text and the reason."""
    with pytest.raises(ValueError, match="Go") as refusal:
        parse_go_duration(text)
    assert f"{text!r} {reason}" == str(refusal.value)


def go_string(nanoseconds: int) -> str:
    """Go's `Duration.String`."""
    if nanoseconds == 0:
        return "0s"
    sign, left = "-" if nanoseconds < 0 else "", abs(nanoseconds)
    if left < _S:
        unit, size = next(
            (unit, size)
            for unit, size in (("ns", 1), ("\u00b5s", _US), ("ms", _MS))
            if left < 1000 * size
        )
        return f"{sign}{_with_fraction(left, size)}{unit}"
    minutes, left = divmod(left, _M)
    text = f"{_with_fraction(left, _S)}s"
    if minutes:
        hours, minutes = divmod(minutes, 60)
        text = f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"
    return sign + text


def _with_fraction(value: int, size: int) -> str:
    whole, fraction = divmod(value, size)
    digits = f"{fraction:0{len(str(size)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1100, "1.1\u00b5s"),
        (2200 * _US, "2.2ms"),
        (3300 * _MS, "3.3s"),
        (4 * _M + 5 * _S, "4m5s"),
        (4 * _M + 5001 * _MS, "4m5.001s"),
        (5 * _H + 6 * _M + 7001 * _MS, "5h6m7.001s"),
        (8 * _M + 1, "8m0.000000001s"),
        (_MAX, "2562047h47m16.854775807s"),
        (_MIN, "-2562047h47m16.854775808s"),
    ],
)
def test_go_string(nanoseconds: int, text: str) -> None:
    """The formatter used for the round trip writes what Go's own tests expect."""
    assert text == go_string(nanoseconds)


@settings(deadline=None)
@given(st.integers(_MIN, _MAX))
@example(_MIN)
@example(_MAX)
def test_round_trip(nanoseconds: int) -> None:
    """Every duration that Go can write is read back as the same number."""
    assert nanoseconds == parse_go_duration(go_string(nanoseconds))


@settings(deadline=None)
@given(st.text(alphabet="0123456789.+-nuµmsh ", max_size=30))
def test_any_text(text: str) -> None:
    """Any text is a duration within Go's bounds, or a ValueError of one line."""
    problem: list[str] = []
    try:
        nanoseconds = parse_go_duration(text)
    except ValueError as error:
        problem = str(error).splitlines()
    else:
        assert _MIN <= nanoseconds <= _MAX
    assert len(problem) <= 1


@pytest.mark.parametrize(
    ("nanoseconds", "expected"),
    [
        (0, timedelta(0)),
        (1, timedelta(microseconds=1)),
        (-1, timedelta(microseconds=-1)),
        (1_000, timedelta(microseconds=1)),
        (1_001, timedelta(microseconds=2)),
        (_MAX, timedelta(microseconds=9223372036854776)),
    ],
)
def test_to_timedelta(nanoseconds: int, expected: timedelta) -> None:
    """A duration below a microsecond does not become 0, which has another meaning."""
    assert expected == to_timedelta(nanoseconds)
