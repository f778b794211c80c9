"""Measures how a request's cost grows with endpoints and with requests in flight.

Run with `python -m benchmarks.growth`. All sizes take turns in one process.
"""

from __future__ import annotations

import gc
import tempfile
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from opentelemetry.sdk.trace import TracerProvider

from benchmarks.requests import (
    DISAGGREGATED,
    endpoint,
    serve,
    start,
    tracker,
)
from benchmarks.timing import Spread, Variant, interleave
from otel_lifecycle import RequestLifecycleTracker, Route, TrackedRequest

_Filled: TypeAlias = "tuple[list[TrackedRequest], Callable[[int], None]]"

ENDPOINTS = (1, 10, 100, 1_000, 10_000)
IN_FLIGHT = (100, 1_000, 10_000, 100_000)
ROUNDS = 20
REQUESTS = 200


@dataclass(frozen=True)
class Growth:
    """The cost at one size.

    Attributes:
        size: The number of them.
        path: CPU on a request's path, microseconds.
        kib: Memory per endpoint or request, KiB.
    """

    size: int
    path: Spread
    kib: float


def by_endpoints() -> list[Growth]:
    """Sampled requests to all endpoints in turn, each scraped once."""

    def fill(lifecycles: RequestLifecycleTracker, size: int) -> _Filled:
        routes = [Route(endpoint(f"qwen-{number}")) for number in range(size)]
        for number, route in enumerate(routes):
            serve(lifecycles, number, route)
        lifecycles.flush()
        return [], lambda number: serve(lifecycles, number, routes[number % size])

    return _measure(ENDPOINTS, fill)


def by_requests_in_flight() -> list[Growth]:
    """Sampled requests to prefill and decode while many others are in flight."""

    def fill(lifecycles: RequestLifecycleTracker, size: int) -> _Filled:
        held = [lifecycles.track(start(f"held-{n}", DISAGGREGATED)) for n in range(size)]
        return held, lambda number: serve(lifecycles, number, DISAGGREGATED)

    return _measure(IN_FLIGHT, fill)


def _measure(
    sizes: Sequence[int], fill: Callable[[RequestLifecycleTracker, int], _Filled]
) -> list[Growth]:
    kib: list[float] = []
    variants: list[Variant] = []
    trackers: list[tuple[RequestLifecycleTracker, list[TrackedRequest]]] = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            lifecycles = tracker(Path(folder), f"{fill.__qualname__}-{size}", TracerProvider())
            serve(lifecycles, -1, DISAGGREGATED)
            lifecycles.flush()
            gc.collect()
            tracemalloc.start()
            held, run = fill(lifecycles, size)
            kib.append(tracemalloc.get_traced_memory()[0] / size / 1024)
            tracemalloc.stop()
            trackers.append((lifecycles, held))
            variants.append(Variant(f"{size:,}", run, lifecycles.flush))
        interleave(variants, ROUNDS, REQUESTS)
        for lifecycles, held in trackers:
            for number, tracked in enumerate(held):
                tracked.complete()
                if number % 10_000 == 0:  # the queue of records is limited
                    lifecycles.flush()
            lifecycles.close()
    return [
        Growth(size, variant.timed.path, each)
        for size, variant, each in zip(sizes, variants, kib, strict=True)
    ]


def main() -> None:
    """Print the tables."""
    for title, rows in (
        ("endpoints", by_endpoints()),
        ("requests in flight", by_requests_in_flight()),
    ):
        print(f"\n{title:>20}{'us a request':>16}{'min':>8}{'KiB each':>12}")
        for row in rows:
            print(f"{row.size:20,}{row.path.median:16.0f}{row.path.minimum:8.0f}{row.kib:12.2f}")


if __name__ == "__main__":
    main()
