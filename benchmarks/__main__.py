"""Measures everything and writes `benchmarks/RESULTS.md`; run by `make bench`.

Runs in the peers' environment. Each part has a process of its own, one after the other.
"""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from benchmarks import decision, event_loop_lag, growth, hot_path, otlp
from benchmarks.peers.compare import compare
from benchmarks.results import readme, zero_code
from benchmarks.results.chart import draw
from benchmarks.results.page import Figures, page
from benchmarks.zero_code import soak
from benchmarks.zero_code.measure import REQUESTS, ROUNDS, attempt, measure
from benchmarks.zero_code.programs import PROGRAMS

FOLDER = Path(__file__).parent


def main() -> None:
    """Measure, and write page, chart and the sentence in the README."""
    lean, *others = PROGRAMS.values()
    routers = [
        measure(lean(), ROUNDS, REQUESTS),  # without it there is nothing to say
        *(attempt(other(), ROUNDS, REQUESTS) for other in others),
    ]
    # A new process for each, so that one part's allocations do not slow the next.
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        figures = Figures(
            routers,
            pool.apply(hot_path.measure),
            pool.apply(decision.measure),
            pool.apply(otlp.measure),
            event_loop_lag.measure(),
            pool.apply(compare),
            pool.apply(growth.by_endpoints),
            pool.apply(growth.by_requests_in_flight),
            soak.last(),
        )
    title = zero_code.title(routers)
    chart = draw(title, zero_code.LEGEND, zero_code.bars(routers), zero_code.CPU_LIMIT)
    (FOLDER / "results.svg").write_text(chart, "utf-8")
    (FOLDER / "RESULTS.md").write_text(page(figures, title), "utf-8")
    readme.write(zero_code.takeaway(routers))
    print(f"{FOLDER / 'RESULTS.md'} and results.svg are written")


if __name__ == "__main__":
    main()
