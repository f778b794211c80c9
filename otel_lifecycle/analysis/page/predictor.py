"""Is the predictor right, and where is it not?"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from otel_lifecycle.analysis.page.elements import (
    MatrixCell,
    Section,
    matrix,
    ms,
    percent,
    plural,
    strong,
)
from otel_lifecycle.analysis.page.facts import Facts
from otel_lifecycle.analysis.page.workload import Bins, binned

_CELLS = 60
_FACTOR = 2
_PAIRS = {"TTFT": ("predicted_ttft_ms", "ttft_ms"), "TPOT": ("predicted_tpot_ms", "tpot_ms")}


class Accuracy(NamedTuple):
    """How right the predictions of one latency are.

    Attributes:
        requests: Completed requests that have both.
        median_ratio: Median of predicted by actual.
        within: The share of ratios from 0.5 to 2.
        mean_error_ms: Mean of the absolute errors.
    """

    requests: int
    median_ratio: float
    within: float
    mean_error_ms: float


def accuracy(facts: Facts, name: str) -> Accuracy | None:
    """Return the accuracy for `TTFT` or `TPOT`; None without any pair."""
    row = facts.one(_query(name))
    return Accuracy(*row) if row[0] else None


def _query(name: str) -> str:
    predicted, actual = _PAIRS[name]
    return f"""SELECT count(*), quantile_disc({predicted} / {actual}, 0.5),
    avg(CAST({predicted} / {actual} BETWEEN {1 / _FACTOR} AND {_FACTOR} AS INTEGER)),
    avg(abs({predicted} - {actual}))
FROM facts WHERE {_both(name)}"""


def _both(name: str) -> str:
    predicted, actual = _PAIRS[name]
    return f"outcome = 'completed' AND {predicted} > 0 AND {actual} > 0"


def section(facts: Facts, bins: Bins) -> Section:
    """The density of predicted against actual TTFT, its ratio by prompt and load, and over time."""
    found = {name: accuracy(facts, name) for name in _PAIRS}
    sentences = [
        f"{name}: {strong(percent(one.within))} of {plural(one.requests, 'prediction')} are "
        f"within a factor of two (median ratio {one.median_ratio:.2f}, mean error "
        f"{ms(one.mean_error_ms)})."
        for name, one in found.items()
        if one is not None
    ]
    result = Section(
        "predictor",
        "Is the predictor right, and where is it not?",
        "Predictor",
        " ".join(sentences) or "No completed request has a prediction.",
        how="The ratio is predicted by actual latency of completed requests that have both, "
        "counted from the dispatch. The matrix has its median, with the axes of the one above.",
        queries=[_query(name) for name, one in found.items() if one is not None],
    )
    if found["TTFT"] is not None:
        ratio = binned(bins, "predicted_ttft_ms / ttft_ms", _both("TTFT"))
        rows = facts.rows(ratio)
        result.queries.append(ratio)
        places = matrix(
            "Predicted ÷ actual TTFT, median; small: requests",
            "in flight ↓ uncached →",
            bins.sizes,
            bins.loads,
            (MatrixCell(x, y, f"{value:.2f}", n, _strength(value)) for x, y, value, n in rows),
        )
        note = '<p class="note">Above 1: predicted too long. Below 1: too short.</p>'
        result.body.append(
            f'<div class="two">{_density(facts, result)}<div>{places}{note}</div></div>'
        )
    series: list[dict[str, Any]] = []
    for name, one in found.items():
        if one is None:
            continue
        predicted, actual = _PAIRS[name]
        query = f"""SELECT {facts.bucket("started")} AS point,
    quantile_disc({predicted} / {actual}, 0.5)
FROM facts WHERE {_both(name)} GROUP BY point"""
        (values,) = facts.over_time(query, 1)
        clamped = [None if value is None else min(16.0, max(1 / 16, value)) for value in values]
        series.append({"name": name, "values": clamped})
        result.queries.append(query)
    if series:
        chart = result.chart(
            "ratio",
            "Predicted ÷ actual over time, median; 1 is right",
            160,
            kind="time",
            series=series,
            unit="×",
            log=True,
        )
        result.body.append(chart)
    return result


def _density(facts: Facts, result: Section) -> str:
    both = _both("TTFT")
    low, high = facts.one(
        "SELECT log10(least(min(predicted_ttft_ms), min(ttft_ms))), "
        f"log10(greatest(max(predicted_ttft_ms), max(ttft_ms))) FROM facts WHERE {both}"
    )
    low, high = math.floor(low * 4) / 4, math.ceil(high * 4) / 4
    width = (high - low) or 0.25

    def place(column: str) -> str:
        return (
            f"CAST(least({_CELLS - 1}, floor((log10({column}) - {low}) / {width} * {_CELLS})) "
            "AS INTEGER)"
        )

    query = f"""SELECT {place("ttft_ms")} AS actual,
    {place("predicted_ttft_ms")} AS predicted, count(*)
FROM facts WHERE {both} GROUP BY ALL"""
    result.queries.append(query)
    return result.chart(
        "density",
        "TTFT, ms: predicted against actual (dashed: a factor of two)",
        400,
        kind="density",
        cells=facts.rows(query),
        size=_CELLS,
        low=low,
        high=low + width,
        log=True,
        band=math.log10(_FACTOR) / width,
        x="actual",
        y="predicted",
    )


def _strength(ratio: float) -> float:
    return max(-1.0, min(1.0, math.log2(ratio) / 2)) if ratio > 0 else -1.0
