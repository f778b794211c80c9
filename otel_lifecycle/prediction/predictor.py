"""Predicts TTFT and TPOT from the features of a request, within a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from otel_lifecycle.model import LatencyPrediction, sanitize
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.runtime.text import without_secrets

_logger = get_logger(__name__)

_UNPREDICTED = LatencyPrediction()


class Predictor(Protocol):
    """Predicts the latencies of a request on each of several endpoints."""

    async def predict(self, inputs: Sequence[PredictionInput]) -> Sequence[LatencyPrediction]:
        """Return one prediction for each input, in order; empty if there is none.

        It may be slow and may raise: call it through `predict_within`.

        Args:
            inputs: One for each endpoint. A feature that is None is unknown.
        """
        ...


async def predict_within(
    predictor: Predictor, inputs: Sequence[PredictionInput], timeout: float
) -> Sequence[LatencyPrediction]:
    """Return the predictions, or empty ones if the predictor is late or fails.

    Args:
        predictor: The predictor.
        inputs: One for each endpoint.
        timeout: Time limit in seconds.
    """
    answer = await answer_within(predictor, inputs, timeout)
    return [_UNPREDICTED] * len(inputs) if answer is None else answer


async def answer_within(
    predictor: Predictor, inputs: Sequence[PredictionInput], timeout: float
) -> Sequence[LatencyPrediction] | None:
    """Return the predictions, empty ones if the predictor fails, or None if it is late.

    Args:
        predictor: The predictor.
        inputs: One for each endpoint.
        timeout: Time limit in seconds.
    """
    nothing = [_UNPREDICTED] * len(inputs)
    try:
        predictions = await asyncio.wait_for(predictor.predict(inputs), timeout)
    except Exception as error:
        _logger.debug("no prediction: %s", without_secrets(repr(error)))
        return None if isinstance(error, asyncio.TimeoutError) else nothing
    return predictions if len(predictions) == len(inputs) else nothing


def route_prediction(
    inputs: Sequence[PredictionInput], predictions: Sequence[LatencyPrediction]
) -> LatencyPrediction:
    """Combine the TTFT of a route's prefill endpoint and the TPOT of its decode endpoint.

    Args:
        inputs: One for each counted endpoint of the route.
        predictions: The prediction for each input.
    """
    ttft = tpot = None
    for one, prediction in zip(inputs, predictions, strict=True):
        if one.pod_type != "decode":
            ttft = sanitize.milliseconds(prediction.ttft_ms)
        if one.pod_type != "prefill" or len(inputs) == 1:
            tpot = sanitize.milliseconds(prediction.tpot_ms)
    return LatencyPrediction(ttft, tpot)
