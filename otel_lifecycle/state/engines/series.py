"""From the series of an engine to its metrics: what its readers have in common."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import TypeAlias

import msgspec

from otel_lifecycle.model import EndpointMetrics, sanitize
from otel_lifecycle.state.exposition import Sample

Series: TypeAlias = Mapping[str, list[Sample]]

_NOTHING = EndpointMetrics()


def by_rank(samples: Iterable[Sample], label: str) -> Mapping[str, Series]:
    """The samples of each data-parallel rank, by name of the metric.

    What names no rank belongs to the only one there is; with several it cannot be told whose it is.

    Args:
        samples: What was read.
        label: The label that names the rank.
    """
    ranks: dict[str, dict[str, list[Sample]]] = {}
    for sample in samples:
        rank = ranks.setdefault(sample.labels.get(label, ""), {})
        rank.setdefault(sample.name, []).append(sample)
    if len(ranks) > 1:
        shared = ranks.pop("", {})
        if len(ranks) == 1:
            only = next(iter(ranks.values()))
            for name, found in shared.items():
                only.setdefault(name, found)
    return ranks


def known(
    metrics: Mapping[str, EndpointMetrics], scraped_at: float
) -> Mapping[str, EndpointMetrics]:
    """Those of which anything is known, with the time of the scrape."""
    update_time = datetime.fromtimestamp(scraped_at, timezone.utc)
    return {
        rank: msgspec.structs.replace(one, update_time=update_time)
        for rank, one in metrics.items()
        if one != _NOTHING
    }


def count(series: Series, name: str) -> int | None:
    """A number of things."""
    return sanitize.count(_first(series, name))


def size(series: Series, name: str) -> int | None:
    """A number of things of which there is at least one."""
    return count(series, name) or None


def fraction(series: Series, *names: str) -> float | None:
    """A part of a whole, 0 to 1; by the first of the names under which there is one."""
    fractions = (sanitize.fraction(_first(series, name)) for name in names)
    return next((one for one in fractions if one is not None), None)


def ratio(series: Series, part: str, whole: str) -> float | None:
    """What part of one counter another one is, 0 to 1; None while both are 0.

    Each is summed over its remaining labels.
    """
    parts, wholes = (
        math.fsum(sample.value for sample in series[name]) if _are_counters(series, name) else None
        for name in (part, whole)
    )
    return sanitize.fraction(parts / wholes) if parts is not None and wholes else None


def label_size(series: Series, name: str, label: str) -> int | None:
    """A size that is told in a label of an info metric."""
    found = series.get(name)
    text = found[0].labels.get(label, "") if found else ""
    if not (text.isascii() and text.isdecimal() and len(text) <= 16):
        return None
    return sanitize.count(int(text)) or None


def product(left: int | None, right: int | None) -> int | None:
    """The capacity of so many blocks of such a size."""
    return None if left is None or right is None else left * right


def _first(series: Series, name: str) -> float | None:
    found = series.get(name)
    return found[0].value if found else None


def _are_counters(series: Series, name: str) -> bool:
    return name in series and all(0.0 <= sample.value < math.inf for sample in series[name])
