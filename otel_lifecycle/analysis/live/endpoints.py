"""The table of endpoints: load, state and latencies of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from otel_lifecycle.analysis.formatting import UNKNOWN, compact, latency
from otel_lifecycle.analysis.live.snapshot import ROLES, EndpointRow, Snapshot
from otel_lifecycle.analysis.live.table import Column, spark
from otel_lifecycle.analysis.live.tally import (
    CACHED,
    CACHED_OF,
    EXPECTED,
    EXPECTED_OF,
    REQUESTS,
    Distribution,
)
from otel_lifecycle.analysis.live.window import SLICES
from otel_lifecycle.model import Outcome

ROLE_TITLES: Final = {
    "leader": "ENDPOINTS",
    "prefill": "PREFILL",
    "decode": "DECODE",
    "": "NO REQUESTS",
}
DEFAULT_SORT: Final = "REQ/S"
_LOADED, _FULL = 0.75, 0.9


def endpoint_columns(snapshot: Snapshot) -> list[Column[EndpointRow]]:
    """Return all columns, from left to right; `docs/top.md` says what they mean."""
    seconds = snapshot.seconds
    return [
        Column("ENDPOINT", _name, 11, 0, widest=44, left=True, sort=_name),
        _number("REQ/S", lambda row: row.tally.counts[REQUESTS] / seconds, 6, 1, show=rate),
        _number("SHARE%", lambda row: row.share, 6, 16, show=percentage),
        _quantile("TTFT50", lambda row: row.tally.ttft_ms, 0.5, 7),
        _quantile("TTFT95", lambda row: row.tally.ttft_ms, 0.95, 3),
        _quantile("TPOT50", lambda row: row.tally.tpot_ms, 0.5, 8),
        _quantile("TPOT95", lambda row: row.tally.tpot_ms, 0.95, 6),
        _number("INFL", lambda row: row.state.requests, 5, 2, show=compact),
        _number("TOKENS", lambda row: row.state.tokens, 6, 13, show=compact),
        _number("RUN", lambda row: row.state.running, 4, 14, show=compact),
        _number("WAIT", lambda row: row.state.waiting, 4, 4, show=compact, style=_waiting),
        _number("KV%", lambda row: row.state.kv_cache, 4, 5, show=percentage, style=_kv_cache),
        _number("NPU%", lambda row: row.state.busy, 4, 9, show=percentage),
        _number("AGE", lambda row: row.age_ms, 6, 17, show=latency),
        _number("CACHE%", _cached, 6, 12, show=percentage),
        _number("EXPECT%", _expected, 7, 18, show=percentage),
        _number("PRED/ACT", _predicted, 8, 11, show=_two_digits),
        _number("FAIL", lambda row: row.tally.failed, 4, 10, show=compact, style=_failed),
        _number("LEFT", _left, 4, 15, show=compact),
        Column("LOAD", lambda row: spark(row.history, SLICES), SLICES, 19, left=True),
    ]


def sorted_rows(
    rows: Sequence[EndpointRow], columns: Sequence[Column[EndpointRow]], title: str, *, up: bool
) -> list[EndpointRow]:
    """Return rows by role, within a role by a column; unknown values come last.

    Args:
        rows: The rows.
        columns: The columns.
        title: That of the column.
        up: Whether the lowest value comes first.
    """
    value = next((one.sort for one in columns if one.title == title), None) or _name
    known = [row for row in rows if value(row) is not None]
    unknown = [row for row in rows if value(row) is None]
    known.sort(key=_name)
    known.sort(key=lambda row: value(row) or 0, reverse=not up)
    return sorted([*known, *sorted(unknown, key=_name)], key=lambda row: ROLES.index(row.role))


def percentage(fraction: float | None) -> str:
    """Format a fraction as a percentage whose unit is elsewhere."""
    return UNKNOWN if fraction is None else f"{fraction * 100:.{1 if fraction < 0.0995 else 0}f}"


def rate(value: float | None) -> str:
    """Format a number a second."""
    return UNKNOWN if value is None else f"{value:.1f}" if value < 1_000 else compact(value)


def _number(
    title: str,
    value: Callable[[EndpointRow], float | None],
    width: int,
    rank: int,
    *,
    show: Callable[[float | None], str],
    style: Callable[[EndpointRow], str] | None = None,
) -> Column[EndpointRow]:
    return Column(title, lambda row: show(value(row)), width, rank, sort=value, style=style)


def _quantile(
    title: str, of: Callable[[EndpointRow], Distribution], fraction: float, rank: int
) -> Column[EndpointRow]:
    return _number(title, lambda row: of(row).quantile(fraction), 6, rank, show=latency)


def _name(row: EndpointRow) -> str:
    return row.name


def _cached(row: EndpointRow) -> float | None:
    return None if row.role == "decode" else row.tally.ratio(CACHED, CACHED_OF)


def _expected(row: EndpointRow) -> float | None:
    return None if row.role == "decode" else row.tally.ratio(EXPECTED, EXPECTED_OF)


def _predicted(row: EndpointRow) -> float | None:
    tally = row.tally
    return (tally.tpot_ratio if row.role == "decode" else tally.ttft_ratio).quantile(0.5)


def _left(row: EndpointRow) -> int:
    return row.tally.counts[Outcome.CLIENT_DISCONNECT.value]


def _two_digits(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}" if value < 100 else compact(value)


def _waiting(row: EndpointRow) -> str:
    return "yellow" if row.state.waiting else ""


def _kv_cache(row: EndpointRow) -> str:
    used = row.state.kv_cache or 0.0
    return "red" if used >= _FULL else "yellow" if used >= _LOADED else ""


def _failed(row: EndpointRow) -> str:
    return "red" if row.tally.failed else ""
