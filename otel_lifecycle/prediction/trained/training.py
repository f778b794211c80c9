"""Trains a model on records, and says how good it is on later ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.prediction.trained.model import TrainedModel
from otel_lifecycle.prediction.trained.rows import FEATURES, Floats, Rows, Target, read_rows
from otel_lifecycle.prediction.trained.trees import MEDIAN, Trees, grow

QUANTILES = (MEDIAN, 0.9)
HELD_OUT = 0.3
"""The share of the rows, the latest ones, that a model is judged on."""

MIN_ROWS = 200
_DRIFTED = 1.5
_KNOWN_EXACTLY, _SUSPICIOUS_SHARE = 1e-6, 0.5
_GROUPS = 4
# Where latencies vary little, as TPOT does, large trees learn the noise.
_SIZES: tuple[Mapping[str, int], ...] = (
    {"num_leaves": 31, "min_data_in_leaf": 20},
    {"num_leaves": 15, "min_data_in_leaf": 50},
)
_VALIDATED = 0.2
# llm-d's predictor begins with a linear model of its features, without those it does not have.
_LINEAR = (
    "kv_cache_usage",
    "input_token_length",
    "num_request_waiting",
    "num_request_running",
    "prefix_cache_score",
    "inflight_tokens",
)


class TrainingError(ValueError):
    """Records that nothing can be learnt from; the text says what is missing."""


def train_on(records: Iterable[LifecycleRecord]) -> TrainedModel:
    """Train on the records of completed requests.

    The errors of the card are those of models that have seen only what was known when the held-out
    requests began. The trees that are returned have then learnt from all rows.

    Raises:
        TrainingError: There are too few rows, they are of one endpoint, or the router's predictions
            are the measured latencies.
    """
    rows = {target: one for target, one in read_rows(records).items() if len(one) >= MIN_ROWS}
    _check(rows)
    card: dict[str, Any] = {"features": list(FEATURES), "targets": {}}
    trees: dict[Target, dict[float, Trees]] = {}
    for target, one in rows.items():
        size = _best_size(one.features, one.latencies)
        card["targets"][target.value] = _judge(one)
        trees[target] = {
            quantile: _fit(one.features, one.latencies, quantile, size) for quantile in QUANTILES
        }
    model = TrainedModel(trees, card)
    for target in rows:
        card["targets"][target.value]["importance"] = model.importance(target)
    return model


def drift(
    model: TrainedModel, records: Iterable[LifecycleRecord]
) -> dict[Target, tuple[float, float]]:
    """Return the mean absolute error on newer records and that of the card, in ms, by target.

    Raises:
        TrainingError: There are no completed requests with latencies.
    """
    errors: dict[Target, tuple[float, float]] = {}
    for target, rows in read_rows(records).items():
        judged = model.card["targets"].get(target.value)
        if judged is not None and len(rows):
            predicted = model.predict(target, rows.features)
            errors[target] = (_error(predicted, rows.latencies), judged["errors"]["trained"])
    if not errors:
        raise TrainingError(
            "no record has a completed request with a latency that the model predicts"
        )
    return errors


def has_drifted(now: float, then: float) -> bool:
    """Return whether an error has grown so much that the model should be trained anew."""
    return now > _DRIFTED * then


def _check(rows: Mapping[Target, Rows]) -> None:
    if not rows:
        raise TrainingError(
            f"at least {MIN_ROWS} completed requests with a TTFT or a TPOT are needed"
        )
    for target, one in rows.items():
        if len(set(one.endpoints)) == 1:
            raise TrainingError(
                f"all requests with a {target.value.upper()} went to one endpoint "
                f"({one.endpoints[0] or 'unknown'}): there is nothing to choose between"
            )
        exact = np.abs(one.predicted - one.latencies) < _KNOWN_EXACTLY
        if exact.mean() > _SUSPICIOUS_SHARE:
            raise TrainingError(
                f"the router's predictions of {target.value.upper()} equal the measured latencies "
                f"in {exact.mean():.0%} of the records: they know the future"
            )


def _judge(rows: Rows) -> dict[str, Any]:
    """Return the errors on the latest rows, of the model and of its alternatives, in ms."""
    begin = float(rows.started[int(len(rows) * (1 - HELD_OUT))])
    # What ended later was not known when the held-out requests began.
    known, later = rows.ended <= begin, rows.started >= begin
    if known.sum() < MIN_ROWS / 2 or later.sum() < MIN_ROWS / 10:
        raise TrainingError(
            "the records cover too short a time: too few requests had ended before the latest began"
        )
    features, latencies = rows.features[later], rows.latencies[later]
    size = _best_size(rows.features[known], rows.latencies[known])
    trees = _fit(rows.features[known], rows.latencies[known], MEDIAN, size)
    predicted = trees.predict(features)
    high = _fit(rows.features[known], rows.latencies[known], max(QUANTILES), size)
    own = rows.predicted[later]
    has_own = ~np.isnan(own)
    errors: dict[str, float | None] = {
        "trained": _error(predicted, latencies),
        "median": _error(np.full(len(latencies), np.median(rows.latencies[known])), latencies),
        "linear": _error(_linear(rows.features[known], rows.latencies[known], features), latencies),
        "router": _error(own[has_own], latencies[has_own]) if has_own.any() else None,
        "trained where the router predicted": (
            _error(predicted[has_own], latencies[has_own]) if has_own.any() else None
        ),
    }
    covered = latencies <= high.predict(features)
    return {
        "rows": int(known.sum()),
        "held out": int(later.sum()),
        "errors": errors,
        "covered by the 0.9 quantile": float(covered.mean()),
        "by": {
            name: _errors_by(rows.features[later][:, FEATURES.index(name)], predicted, latencies)
            for name in ("input_token_length", "num_request_waiting", "inflight_tokens")
        },
        "by endpoint": _errors_by_endpoint(
            [one for one, is_later in zip(rows.endpoints, later, strict=True) if is_later],
            np.abs(predicted - latencies),
        ),
    }


def _best_size(features: Floats, latencies: Floats) -> Mapping[str, int]:
    """Return the size of trees with the least error on the latest of these rows."""
    cut = int(len(features) * (1 - _VALIDATED))

    def error(size: Mapping[str, int]) -> float:
        trees = _fit(features[:cut], latencies[:cut], MEDIAN, size)
        return _error(trees.predict(features[cut:]), latencies[cut:])

    return min(_SIZES, key=error)


def _fit(features: Floats, latencies: Floats, quantile: float, size: Mapping[str, int]) -> Trees:
    return grow(features, latencies, quantile, size, FEATURES)


def _linear(known: Floats, latencies: Floats, asked: Floats) -> Floats:
    """Return what a linear model of llm-d's features predicts, unknown ones at their mean."""
    columns = [FEATURES.index(name) for name in _LINEAR]
    known, asked = known[:, columns], asked[:, columns]
    counts = np.maximum((~np.isnan(known)).sum(axis=0), 1)
    means = np.nansum(known, axis=0) / counts

    def prepared(rows: Floats) -> Floats:
        filled = np.where(np.isnan(rows), means, rows)
        return np.column_stack([np.ones(len(filled)), filled])

    coefficients, *_ = np.linalg.lstsq(prepared(known), latencies, rcond=None)
    return prepared(asked) @ coefficients


def _errors_by(values: Floats, predicted: Floats, latencies: Floats) -> list[dict[str, Any]]:
    """Return the error in each quarter of the values; equal values are in one group."""
    known = ~np.isnan(values)
    if not known.any():
        return []
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, _GROUPS + 1)[1:-1]))
    groups = np.searchsorted(edges, values, side="left")
    found: list[dict[str, Any]] = []
    for group in range(len(edges) + 1):
        chosen = known & (groups == group)
        if chosen.any():
            found.append(
                {
                    "from": float(values[chosen].min()),
                    "to": float(values[chosen].max()),
                    "requests": int(chosen.sum()),
                    "error": _error(predicted[chosen], latencies[chosen]),
                }
            )
    return found


def _errors_by_endpoint(endpoints: list[str], errors: Floats) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row, endpoint in enumerate(endpoints):
        found.setdefault(endpoint, []).append(float(errors[row]))
    return {endpoint: sum(own) / len(own) for endpoint, own in sorted(found.items())}


def _error(predicted: Floats, latencies: Floats) -> float:
    return float(np.abs(predicted - latencies).mean())
