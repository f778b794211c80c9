"""Gradient-boosted trees, by LightGBM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightgbm
import numpy as np

from otel_lifecycle.prediction.trained.rows import Floats

# Its types are partly unknown.
_lightgbm: Any = lightgbm

MEDIAN = 0.5
_ROUNDS = 300
_PARAMETERS: Mapping[str, Any] = {
    "learning_rate": 0.05,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "seed": 0,
    "verbose": -1,
}


class Trees:
    """Trees that predict a quantile. Immutable and thread-safe.

    Args:
        text: They, as LightGBM writes them.

    Raises:
        ValueError: The text has no trees.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._booster = _lightgbm.Booster(model_str=text)
        except _lightgbm.basic.LightGBMError as error:
            raise ValueError(str(error)) from error

    def predict(self, features: Floats) -> Floats:
        """Return a prediction for each row, not below 0."""
        predicted: Floats = np.asarray(
            self._booster.predict(features, num_threads=1), dtype=np.float64
        )
        return np.maximum(predicted, 0.0)

    def gains(self) -> list[float]:
        """Return how much of the error each feature has taken away."""
        return [float(gain) for gain in self._booster.feature_importance("gain")]


def grow(
    features: Floats,
    latencies: Floats,
    quantile: float,
    size: Mapping[str, int],
    names: Sequence[str],
) -> Trees:
    """Return trees that have learnt a quantile of latencies.

    Args:
        features: One row per latency; NaN is unknown.
        latencies: What to learn.
        quantile: Above 0, below 1.
        size: LightGBM's parameters for the size of a tree.
        names: Of the features.
    """
    objective: dict[str, Any] = {"objective": "quantile", "alpha": quantile}
    if quantile == MEDIAN:
        objective = {"objective": "l1"}
    data = _lightgbm.Dataset(features, latencies, feature_name=list(names))
    booster = _lightgbm.train({**_PARAMETERS, **size, **objective}, data, _ROUNDS)
    return Trees(booster.model_to_string())
