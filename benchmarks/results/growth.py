"""What the page says of growth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.growth import Growth
from benchmarks.results.tables import table

_GROWTH = """\
Sampled requests with their records. Endpoints are used in turns, each with known NPUs, and memory
is per endpoint; the other requests in flight use a prefill and a decode endpoint, and memory is
per request.
"""


def section(endpoints: Sequence[Growth], in_flight: Sequence[Growth]) -> Iterator[str]:
    """Return a table for each."""
    yield _GROWTH
    yield from _table("endpoints", endpoints)
    yield ""
    yield from _table("requests in flight", in_flight)


def _table(what: str, rows: Sequence[Growth]) -> Iterator[str]:
    yield from table(
        (what, "a request, µs", "min", "p10-p90", "memory for each, KiB"),
        (
            (
                f"{row.size:,}",
                f"{row.path.median:.0f}",
                f"{row.path.minimum:.0f}",
                f"{row.path.p10:.0f}-{row.path.p90:.0f}",
                f"{row.kib:.1f}",
            )
            for row in rows
        ),
    )
