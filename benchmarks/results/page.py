"""Writes the results as a page: `benchmarks/RESULTS.md`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import event_loop_lag, growth, hot_path, otlp
from benchmarks.budget import Budget
from benchmarks.decision import Decision
from benchmarks.growth import Growth
from benchmarks.hot_path import HotPath
from benchmarks.peers import compare
from benchmarks.peers.compare import Comparison
from benchmarks.results import event_loop, peers, request, soak, zero_code
from benchmarks.results import growth as growth_section
from benchmarks.results.tables import table
from benchmarks.zero_code.measure import Result
from benchmarks.zero_code.soak import Soak

_HEAD = """\
# Results

{takeaway}

![{title}](results.svg)
"""

_HOW = """\
Written by `make bench`, which installs routers and peers into environments of their own. All costs
are CPU time, not elapsed time, so other processes matter less. Compared variants take turns in
short rounds. A figure is the median of the rounds, a ratio the median of the ratios of neighbouring
rounds, and "p10-p90" their spread. On a busy machine a CPU second does less work; "min" is then the
most accurate figure. `make bench-check` compares two commits in the same way.
"""

_ZERO_CODE = """\
Each router runs once for each instrumentation, in front of the same two engines, and all serve
rounds in turns. An answer has 8 events. Instrumented ones export spans and metrics over OTLP to
another process; with zero code they write the record file too, and each request is checked to have
its record. The CPU is that of all processes that the router consists of: for Ray Serve the whole
cluster, which is also the engine.
"""


@dataclass(frozen=True)
class Figures:
    """All that was measured."""

    zero_code: Sequence[Result]
    hot_path: HotPath
    decision: Decision
    otlp: otlp.Costs
    lags: Sequence[event_loop_lag.Variant]
    comparison: Comparison
    endpoints: Sequence[Growth]
    in_flight: Sequence[Growth]
    soak: Soak | None

    @property
    def budgets(self) -> list[tuple[Budget, str]]:
        """The promises, each with the module that measures it."""
        by_module = {
            "zero_code": zero_code.budgets(self.zero_code),
            "hot_path": self.hot_path.budgets,
            "decision": self.decision.budgets,
            "otlp": self.otlp.budgets,
            "event_loop_lag": event_loop.budgets(self.lags),
        }
        return [(budget, name) for name, budgets in by_module.items() for budget in budgets]


def page(figures: Figures, title: str) -> str:
    """Return the page; `title` is that of its chart."""
    return "\n".join(
        [
            _HEAD.format(takeaway=zero_code.takeaway(figures.zero_code), title=title),
            *missed([budget for budget, _ in figures.budgets]),
            _HOW,
            _machine(figures.hot_path, figures.comparison),
            "\n## Zero code\n",
            _ZERO_CODE,
            *zero_code.tables(figures.zero_code),
            "\n## Budgets\n",
            *_budgets(figures.budgets),
            "",
            request.encoding_of_records(figures.hot_path),
            "\n## Where it goes\n",
            *request.where_it_goes(figures.hot_path),
            "\n## The decision\n",
            *request.decisions(figures.decision),
            "\n## OTLP\n",
            *request.encodings(figures.otlp),
            "\n## The event loop\n",
            *event_loop.section(figures.lags),
            "\n## Peers\n",
            *peers.section(figures.comparison),
            "\n## Growth\n",
            *growth_section.section(figures.endpoints, figures.in_flight),
            "\n## A long run\n",
            *soak.section(figures.soak),
            "",
        ]
    )


def missed(budgets: Sequence[Budget]) -> Iterator[str]:
    """Return which promises are not kept, and why."""
    broken = [budget for budget in budgets if not budget.met]
    if not broken:
        yield f"All {len(budgets)} [budgets](#budgets) are kept.\n"
        return
    yield f"Of {len(budgets)} [budgets](#budgets), {len(broken)} are missed:\n"
    for budget in broken:
        bound = "at least" if budget.at_least else "at most"
        why = f" {budget.why}." if budget.why else ""
        yield (
            f"- {budget.what}: {budget.measured:.2f} {budget.unit}, promised {bound} "
            f"{budget.limit:g}.{why}"
        )
    yield ""


def _budgets(budgets: Sequence[tuple[Budget, str]]) -> Iterator[str]:
    yield from table(
        ("promise", "limit", "measured", "", "`python -m benchmarks.`"),
        (
            (
                budget.what,
                f"{'≥' if budget.at_least else '≤'} {budget.limit:g} {budget.unit}",
                f"{max(0.0, budget.measured):.2f} {budget.unit}",
                "kept" if budget.met else "missed",
                f"`{module}`",
            )
            for budget, module in budgets
        ),
    )


def _machine(costs: HotPath, comparison: Comparison) -> str:
    loads = [*costs.load, *comparison.load]
    sdk = importlib.metadata.version("opentelemetry-sdk")
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.machine()}; Python "
        f"{platform.python_version()}, opentelemetry-sdk {sdk}.\nLoad of the machine: "
        f"{min(loads):.1f} to {max(loads):.1f}, about 1 of it ours. {hot_path.ROUNDS} rounds of "
        f"{hot_path.REQUESTS} requests for\nthe budgets, {compare.ROUNDS} of {compare.REQUESTS} "
        f"for the peers, {growth.ROUNDS} of {growth.REQUESTS} for the growth."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
