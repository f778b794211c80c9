"""Starts shadow prediction, whose client is an extra."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.config.settings import missing_extra
from otel_lifecycle.runtime.logs import get_logger

if TYPE_CHECKING:
    from otel_lifecycle.prediction.shadow import ShadowPrediction

_logger = get_logger(__name__)


def open_shadow(config: TrackerConfig) -> ShadowPrediction | None:
    """Starts shadow prediction, if there is a model or a service for it."""
    prediction = config.prediction
    if not (prediction.model or prediction.url or prediction.training_url):
        return None
    try:
        from otel_lifecycle.prediction.shadow import ShadowPrediction  # needs an extra
    except ImportError as error:
        if not prediction.model:
            raise missing_extra("prediction.url", error) from error
        problem = missing_extra("prediction.model", error, "ml")
        _logger.warning("%s; requests are recorded without a prediction", problem)
        return None
    return ShadowPrediction(prediction)
