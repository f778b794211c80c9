"""Was it the prompt, or the queue?"""

from __future__ import annotations

import math
from collections import defaultdict
from statistics import median_low
from typing import NamedTuple

from otel_lifecycle.analysis.page.elements import (
    MatrixCell,
    Section,
    matrix,
    number,
    strong,
    times,
)
from otel_lifecycle.analysis.page.facts import Facts, bin_edges

_ENOUGH = 20
_CORNER = "in flight ↓ uncached →"


class Bins(NamedTuple):
    """The bins of prompt and load, by their lower edges, in tokens."""

    sizes: list[int]
    loads: list[int]


def find_bins(facts: Facts) -> Bins:
    """Return bins that fit the requests."""
    sizes, loads = facts.one(
        """SELECT quantile_disc(uncached, [0.05, 0.95]) FILTER (uncached > 0),
            quantile_disc(inflight_tokens, [0.05, 0.95]) FILTER (inflight_tokens > 0)
        FROM facts WHERE outcome = 'completed' AND waited_ms IS NOT NULL"""
    )
    return Bins(bin_edges(sizes or [None, None]), bin_edges(loads or [None, None]))


def binned(bins: Bins, value: str, condition: str = "true") -> str:
    """Return SQL: column, row, median of a value, and number of requests, of each cell."""

    def place(column: str, edges: list[int]) -> str:
        return f"len(list_filter({edges}, lambda edge: edge <= {column})) - 1"

    return f"""SELECT {place("uncached", bins.sizes)} AS size,
    {place("inflight_tokens", bins.loads)} AS load,
    quantile_disc({value}, 0.5), count(*)
FROM facts
WHERE outcome = 'completed' AND uncached IS NOT NULL AND inflight_tokens IS NOT NULL
    AND {value} IS NOT NULL AND {condition}
GROUP BY ALL"""


def section(facts: Facts, bins: Bins) -> Section:
    """A matrix of the median TTFT: size of the prompt by load of the endpoint."""
    query = binned(bins, "waited_ms")
    rows = facts.rows(query)
    logs = [math.log(max(value, 1e-3)) for _, _, value, _ in rows] or [0.0]
    low, width = min(logs), (max(logs) - min(logs)) or 1.0
    result = Section(
        "prompt",
        "Was it the prompt, or the queue?",
        "Prompt or queue",
        _answer(rows),
        how="Median TTFT of completed requests. Across: <code>inputTokenLength</code> less "
        "<code>cachedTokens</code>; all input tokens where the engine does not report cached ones. "
        "Down: the input tokens in flight at dispatch on the endpoint that computes the prompt, "
        "without this request. Cells of fewer than five requests are pale.",
        queries=[query],
    )
    if rows:
        result.body.append(
            matrix(
                "Median TTFT in ms; small: requests",
                _CORNER,
                bins.sizes,
                bins.loads,
                (
                    MatrixCell(x, y, number(value), count, 0.05 + 0.95 * (log - low) / width)
                    for (x, y, value, count), log in zip(rows, logs, strict=True)
                ),
            )
        )
    return result


def _answer(rows: list[tuple[int, int, float, int]]) -> str:
    by_size: defaultdict[int, list[float]] = defaultdict(list)
    by_load: defaultdict[int, list[float]] = defaultdict(list)
    for size, load, value, count in rows:
        if count >= _ENOUGH and value > 0:
            by_size[size].append(value)
            by_load[load].append(value)
    of_load, of_size = _spread(by_size), _spread(by_load)
    if of_load is None or of_size is None:
        return "Too few loads or prompt sizes were seen to tell the two apart."
    verdict = "Both count alike."
    if of_load > of_size * 1.2:
        verdict = "Mostly the queue."
    elif of_size > of_load * 1.2:
        verdict = "Mostly the prompt."
    return (
        f"For prompts of one size, TTFT varies {strong(times(of_load))} with the tokens in flight; "
        f"for one load, {strong(times(of_size))} with the size of the prompt. {verdict}"
    )


def _spread(groups: dict[int, list[float]]) -> float | None:
    """Return how much values differ within a group, in the median of the groups."""
    spreads = [max(values) / min(values) for values in groups.values() if len(values) > 2]
    return median_low(spreads) if spreads else None
