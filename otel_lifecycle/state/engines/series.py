"""Converts the series of an engine to its metrics; shared by the readers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import TypeAlias

import msgspec

from otel_lifecycle.model import EndpointMetrics, sanitize
from otel_lifecycle.state.exposition import Sample

Series: TypeAlias = Mapping[str, list[Sample]]

_NOTHING = EndpointMetrics()
_MODEL_LABELS = ("model", "model_name", "version")  # of Triton, vLLM and SGLang
_MAX_MODELS = 100  # of one port; more are not told apart


class Ranks(dict[str, EndpointMetrics]):
    """The metrics of an engine by data-parallel rank.

    Attributes:
        models: The metrics of each model, if there are several on the port.
    """

    def __init__(self, ranks: Mapping[str, EndpointMetrics] = MappingProxyType({})) -> None:
        super().__init__(ranks)
        self.models: Mapping[str, Ranks] = {}


def read_ranks(
    samples: Iterable[Sample],
    label: str,
    metrics: Callable[[Series], EndpointMetrics],
    scraped_at: float,
) -> Ranks:
    """Return the metrics of each rank, and of each model of several.

    Samples that name no model are of all models together, and so of none of several.

    Args:
        samples: The samples.
        label: The label that names the rank.
        metrics: Converts the series of one rank.
        scraped_at: Time of the scrape, in seconds since the epoch.
    """
    samples = list(samples)
    by_model: dict[str, list[Sample]] = {}
    for sample in samples:
        by_model.setdefault(_model(sample), []).append(sample)
    by_model.pop("", None)

    def of(some: list[Sample]) -> Ranks:
        series = by_rank(some, label)
        return known({rank: metrics(one) for rank, one in series.items()}, scraped_at)

    ranks = of(samples)
    if 1 < len(by_model) <= _MAX_MODELS:
        ranks.models = {model: of(its) for model, its in by_model.items()}
    return ranks


def by_rank(samples: Iterable[Sample], label: str) -> Mapping[str, Series]:
    """Group the samples by data-parallel rank and metric name.

    Samples without a rank belong to the only rank; if there are several, their rank is unknown.

    Args:
        samples: The samples.
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


def known(metrics: Mapping[str, EndpointMetrics], scraped_at: float) -> Ranks:
    """Keep the ranks with any known value, and set the time of the scrape."""
    update_time = datetime.fromtimestamp(scraped_at, timezone.utc)
    return Ranks(
        {
            rank: msgspec.structs.replace(one, update_time=update_time)
            for rank, one in metrics.items()
            if one != _NOTHING
        }
    )


def count(series: Series, name: str) -> int | None:
    """Return a number of things, summed over the models on one port."""
    found = _distinct(series, name)
    if len(found) > 1 and not _differ_by_model(found):
        return None
    counts = [sanitize.count(sample.value) for sample in found]
    return None if not counts or None in counts else sum(filter(None, counts))


def size(series: Series, name: str) -> int | None:
    """Return a number greater than 0 that all models on one port share."""
    return sanitize.count(_only(series, name)) or None


def fraction(series: Series, *names: str) -> float | None:
    """Return a fraction, from the first name with a valid value; None for several models."""
    fractions = (sanitize.fraction(_only(series, name)) for name in names)
    return next((one for one in fractions if one is not None), None)


def ratio(
    series: Series, part: str, whole: str, *, if_missing: float | None = None
) -> float | None:
    """Return one counter as a fraction of another, 0 to 1; None while both are 0.

    Each is summed over its remaining labels.

    Args:
        series: The samples by name.
        part: The counter in the numerator.
        whole: The counter in the denominator.
        if_missing: The fraction while `part` has no series and `whole` is above 0.
    """
    if part not in series and whole in series and _total(series[whole]) > 0:
        return if_missing
    parts, wholes = (
        _total(series[name]) if _are_counters(series, name) else None for name in (part, whole)
    )
    return sanitize.fraction(parts / wholes) if parts is not None and wholes else None


def label_size(series: Series, name: str, label: str) -> int | None:
    """Return a size from a label of an info metric."""
    texts = {sample.labels.get(label, "") for sample in series.get(name, [])}
    text = texts.pop() if len(texts) == 1 else ""
    if not (text.isascii() and text.isdecimal() and len(text) <= 16):
        return None
    return sanitize.count(int(text)) or None


def product(left: int | None, right: int | None) -> int | None:
    """Return the product of a block size and a number of blocks."""
    return None if left is None or right is None else left * right


def _model(sample: Sample) -> str:
    return sample.labels.get("model_name") or sample.labels.get("model", "")


def _total(samples: Iterable[Sample]) -> float:
    return math.fsum(sample.value for sample in samples)


def _distinct(series: Series, name: str) -> list[Sample]:
    """Return the samples of a metric, the first of equal labels, as Prometheus does."""
    found = {tuple(sorted(sample.labels.items())): sample for sample in series.get(name, [])[::-1]}
    return list(found.values())


def _only(series: Series, name: str) -> float | None:
    """Return the value that all samples of a metric share."""
    values = {sample.value for sample in _distinct(series, name)}
    return values.pop() if len(values) == 1 else None


def _differ_by_model(samples: list[Sample]) -> bool:
    """Return whether samples differ in their model and in no other label, such as a server."""
    others = {
        tuple((name, value) for name, value in sample.labels.items() if name not in _MODEL_LABELS)
        for sample in samples
    }
    models = {tuple(sample.labels.get(name) for name in _MODEL_LABELS) for sample in samples}
    return len(others) == 1 and len(models) == len(samples)


def _are_counters(series: Series, name: str) -> bool:
    return name in series and all(0.0 <= sample.value < math.inf for sample in series[name])
