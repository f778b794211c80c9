"""What the page says of a long run."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.results.tables import table
from benchmarks.zero_code.soak import Soak

_SOAK = """\
{requests:,} requests went through the lean router under zero code, streams and whole answers in
turns, {connections} at once (Python {python}, {version}). Memory and objects are those of the idle
router after a garbage collection; the lag is that of a timer of 1 ms in the event loop since the
row above. From a fifth of the requests to their end, memory changed by {memory:+.1%}, objects by
{objects:+.1%}, and the p99 of the lag from {first:.1f} to {last:.1f} ms.
"""


def section(soak: Soak | None) -> Iterator[str]:
    """Return the curve."""
    if soak is None:
        yield "Not run: `make bench-soak`."
        return
    second, last = soak.points[len(soak.points) // 5], soak.points[-1]
    yield _SOAK.format(
        requests=last.requests,
        connections=soak.connections,
        python=soak.python,
        version=soak.version,
        memory=last.kilobytes / second.kilobytes - 1,
        objects=last.objects / second.objects - 1,
        first=second.lag_p99_ms,
        last=last.lag_p99_ms,
    )
    yield from table(
        ("requests", "memory, MiB", "objects", "threads", "lag p50, ms", "p99, ms"),
        (
            (
                f"{point.requests:,}",
                f"{point.kilobytes / 1024:.1f}",
                f"{point.objects:,}",
                str(point.threads),
                f"{point.lag_p50_ms:.2f}",
                f"{point.lag_p99_ms:.2f}",
            )
            for point in soak.points
        ),
    )
