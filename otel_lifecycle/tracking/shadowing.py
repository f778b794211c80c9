"""Starts shadow prediction, which most routers do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_lifecycle.config import TrackerConfig

if TYPE_CHECKING:
    from otel_lifecycle.prediction.shadow import ShadowPrediction


def open_shadow(config: TrackerConfig) -> ShadowPrediction | None:
    """Starts shadow prediction, if there is a model or a service for it."""
    prediction = config.prediction
    if not (prediction.model or prediction.url or prediction.training_url):
        return None
    from otel_lifecycle.prediction.shadow import ShadowPrediction  # and asyncio

    return ShadowPrediction(prediction)
