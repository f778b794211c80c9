"""Times lose nothing when converted to nanoseconds and back."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_lifecycle.model.timestamps import (
    datetime_from_ns,
    datetime_to_ns,
    format_timestamp,
    parse_timestamp,
)


@given(st.datetimes(datetime(1970, 1, 1), timezones=st.just(timezone.utc)))
@example(datetime(2096, 5, 11, 22, 7, 54, 427, tzinfo=timezone.utc))
@example(datetime.max.replace(tzinfo=timezone.utc))
def test_datetimes(moment: datetime) -> None:
    """A datetime is exact to its microsecond in any year."""
    unix_ns = datetime_to_ns(moment)

    assert unix_ns % 1_000 == 0
    assert datetime_from_ns(unix_ns) == moment


@pytest.mark.parametrize(
    ("moment", "unix_ns"),
    [
        (datetime(1970, 1, 1, tzinfo=timezone.utc), 0),
        (datetime(2026, 11, 24, 23, 42, 56, 564324, timezone.utc), 1_795_563_776_564_324_000),
        (datetime(1970, 1, 1, 8, tzinfo=timezone(timedelta(hours=8))), 0),
    ],
)
def test_known_moments(moment: datetime, unix_ns: int) -> None:
    """Nanoseconds count from the epoch, in UTC."""
    assert datetime_to_ns(moment) == unix_ns


@pytest.mark.parametrize(("unix_ns", "microsecond"), [(499, 0), (500, 1), (1_499, 1)])
def test_nearest_microsecond(unix_ns: int, microsecond: int) -> None:
    """Nanoseconds become the nearest microsecond."""
    assert datetime_from_ns(unix_ns) == datetime(
        1970, 1, 1, microsecond=microsecond, tzinfo=timezone.utc
    )


@given(st.integers(0, 2**63 - 1))
def test_text(unix_ns: int) -> None:
    """The text of a time is RFC 3339 in UTC, exact to the nanosecond."""
    text = format_timestamp(unix_ns)

    assert parse_timestamp(text) == unix_ns
    assert (len(text), text[10], text[-1]) == (30, "T", "Z")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24T23:42:56Z",
        "2026-11-24T23:42:56.564324304",
        "2026-11-24T23:42:56.564324304+",
        "2026-11-24T23:42:56.56432430xZ",
        "2026-13-24T23:42:56.564324304Z",
    ],
)
def test_other_text(text: str) -> None:
    """Any other text is refused."""
    with pytest.raises(ValueError, match=r"timestamp|month"):
        parse_timestamp(text)
