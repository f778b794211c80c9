"""The measured latencies of a finished request, and the error of their prediction."""

from __future__ import annotations

from typing import Annotated

import msgspec

from otel_lifecycle.model.fields import (
    Difference,
    Elapsed,
    Milliseconds,
    Ratio,
    declare,
    record_name,
)
from otel_lifecycle.model.route import LatencyPrediction

PREDICTION_MODE_ACTIVE = "active"
PREDICTION_MODE_SHADOW = "shadow"


class ActualLatency(msgspec.Struct, rename=record_name, gc=False):
    """The measured latencies, in milliseconds of a monotonic clock.

    All but `queue_ms` count from the dispatch, as predictions do.
    TPOT is per token, not per chunk as in llm-d's predictor, because its features count tokens.
    """

    ttft_ms: Annotated[
        Elapsed | None, declare("Time from dispatch to the first chunk; only for a stream.")
    ] = None
    tpot_ms: Annotated[
        Elapsed | None,
        declare(
            "`(e2e - ttft) / (output tokens - 1)`; only for a stream with two tokens or more.",
            attribute="llm_router.response.time_per_output_token",
        ),
    ] = None
    e2e_ms: Annotated[
        Elapsed | None,
        declare(
            "Time from dispatch to end; from arrival if there was no dispatch.",
            attribute="llm_router.request.duration",
        ),
    ] = None
    prefill_ms: Annotated[
        Milliseconds | None,
        declare(
            "Time from the call of a PD route's prefill endpoint to its answer.",
            attribute="llm_router.route.prefill.duration",
        ),
    ] = None
    queue_ms: Annotated[
        Elapsed | None,
        declare("Time from arrival to dispatch; null if either is unknown."),
    ] = None

    def since_arrival(self, latency_ms: float) -> float:
        """Return a latency as the client sees it: with the time before the dispatch, if known.

        Args:
            latency_ms: A latency that counts from the dispatch.
        """
        return latency_ms + (self.queue_ms or 0.0)


class PredictionError(msgspec.Struct, rename=record_name, gc=False):
    """Actual minus predicted, in milliseconds and as a fraction of the actual value."""

    ttft_ms: Annotated[
        Difference | None,
        declare(
            "Actual time to first token minus the predicted one.",
            attribute=".time_to_first_token.error",
        ),
    ] = None
    tpot_ms: Annotated[
        Difference | None,
        declare(
            "Actual time per output token minus the predicted one.",
            attribute=".time_per_output_token.error",
        ),
    ] = None
    ttft_ratio: Annotated[
        Ratio | None, declare("This error as a fraction of the actual time to first token.")
    ] = None
    tpot_ratio: Annotated[
        Ratio | None, declare("This error as a fraction of the actual time per output token.")
    ] = None


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
