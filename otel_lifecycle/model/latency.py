"""The measured latencies of a finished request, and the error of their prediction."""

from __future__ import annotations

from otel_lifecycle.model.record import ActualLatency, PredictionError
from otel_lifecycle.model.route import LatencyPrediction

PREDICTION_MODE_ACTIVE = "active"
PREDICTION_MODE_SHADOW = "shadow"


def prediction_mode(prediction: LatencyPrediction) -> str:
    """Return `active` if the router predicted anything, else empty text (the seed's rule)."""
    return PREDICTION_MODE_ACTIVE if is_prediction(prediction) else ""


def is_prediction(prediction: LatencyPrediction) -> bool:
    """Return whether anything is predicted."""
    return prediction.ttft_ms is not None or prediction.tpot_ms is not None


def actual_latency(
    e2e_ns: int, first_chunk_ns: int | None, output_tokens: int | None
) -> ActualLatency:
    """Return the measured latencies.

    Args:
        e2e_ns: Dispatch to end, nanoseconds.
        first_chunk_ns: Dispatch to first chunk of a stream; None if there was no chunk.
        output_tokens: Completion tokens of the usage.
    """
    ttft_ms = tpot_ms = None
    if first_chunk_ns is not None:
        ttft_ms = first_chunk_ns / 1e6
        if output_tokens is not None and output_tokens >= 2:
            tpot_ms = (e2e_ns - first_chunk_ns) / (output_tokens - 1) / 1e6
    return ActualLatency(ttft_ms, tpot_ms, e2e_ns / 1e6)


def prediction_error(actual: ActualLatency, prediction: LatencyPrediction) -> PredictionError:
    """Return actual minus predicted latency, where both exist."""
    ttft_ms, ttft_ratio = _difference(actual.ttft_ms, prediction.ttft_ms)
    tpot_ms, tpot_ratio = _difference(actual.tpot_ms, prediction.tpot_ms)
    return PredictionError(ttft_ms, tpot_ms, ttft_ratio, tpot_ratio)


def _difference(actual: float | None, predicted: float | None) -> tuple[float | None, float | None]:
    if actual is None or predicted is None:
        return None, None
    difference = actual - predicted
    return difference, difference / actual if actual > 0 else None
