"""RFC 3339 timestamps with nanoseconds, which `datetime` cannot hold."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def format_timestamp(unix_ns: int) -> str:
    """Format Unix nanoseconds as `2026-11-24T23:42:56.564324304Z`."""
    if unix_ns < 1_000_000_000:
        seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
        return f"{_format_second(str(seconds))}.{nanoseconds:09d}Z"
    digits = str(unix_ns)  # cutting it costs less than dividing the number and padding the rest
    return f"{_format_second(digits[:-9])}.{digits[-9:]}Z"


def parse_timestamp(text: str) -> int:
    """Parse the output of `format_timestamp` into Unix nanoseconds.

    Raises:
        ValueError: The text has another format.
    """
    if len(text) != 30 or text[19] != "." or text[29] != "Z" or not text[20:29].isdecimal():
        raise ValueError(f"timestamp {text!r} is not like 2026-11-24T23:42:56.564324304Z")
    return _parse_second(text[:19]) * 1_000_000_000 + int(text[20:29])


def datetime_to_ns(moment: datetime) -> int:
    """Return an aware datetime in Unix nanoseconds, exact to its microsecond."""
    # Not `timestamp()`: from 2106 on its float loses microseconds.
    since = moment - _EPOCH
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


def datetime_from_ns(unix_ns: int) -> datetime:
    """Return the aware UTC datetime nearest to `unix_ns`."""
    return _EPOCH + timedelta(microseconds=(unix_ns + 500) // 1_000)


# Consecutive requests share their second, so both directions mostly hit these caches.
@lru_cache(maxsize=256)
def _format_second(seconds: str) -> str:
    return datetime.fromtimestamp(int(seconds), timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")


@lru_cache(maxsize=256)
def _parse_second(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp())
