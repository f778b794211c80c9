"""Measures everything and writes `benchmarks/RESULTS.md`; run by `make bench`.

Runs in the peers' environment. Each part has a process of its own, one after the other.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from benchmarks import event_loop_lag, growth, hot_path, otlp
from benchmarks.peers.compare import compare
from benchmarks.plot import plot
from benchmarks.report import page

FOLDER = Path(__file__).parent


def main() -> None:
    """Measure, and write page and plot."""
    # A new process for each, so that one part's allocations do not slow the next.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        costs = pool.apply(hot_path.measure)
        otlp_costs = pool.apply(otlp.measure)
        comparison = pool.apply(compare)
        endpoints = pool.apply(growth.by_endpoints)
        in_flight = pool.apply(growth.by_requests_in_flight)
    lags = event_loop_lag.measure()
    text = page(costs, otlp_costs, lags, comparison, endpoints, in_flight)
    (FOLDER / "RESULTS.md").write_text(text, "utf-8")
    plot(comparison, endpoints, in_flight, FOLDER / "results.svg")
    print(f"{FOLDER / 'RESULTS.md'} and results.svg are written")


if __name__ == "__main__":
    main()
