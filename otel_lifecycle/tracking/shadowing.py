"""Starts shadow prediction, whose client is an extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.config.settings import missing_extra

if TYPE_CHECKING:
    from otel_lifecycle.prediction.shadow import ShadowPrediction


def open_shadow(config: TrackerConfig) -> ShadowPrediction | None:
    """Starts shadow prediction, if there is a model or a service for it."""
    prediction = config.prediction
    if not (prediction.model or prediction.url or prediction.training_url):
        return None
    try:
        from otel_lifecycle.prediction.shadow import ShadowPrediction  # needs an extra
    except ImportError as error:
        if prediction.model:
            raise missing_extra("prediction.model", error, "ml") from error
        raise missing_extra("prediction.url", error) from error
    return ShadowPrediction(prediction)
