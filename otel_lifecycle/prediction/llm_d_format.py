"""Converts to the rows of llm-d's latency predictor (`llm-d/llm-d-latency-predictor`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otel_lifecycle.model import Outcome
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.record import LifecycleRecord


def training_entries(record: LifecycleRecord) -> list[dict[str, Any]]:
    """Return the training entries of a finished request: one for its TTFT, one for its TPOT.

    As in llm-d's router, the first entry has the features of the prefill endpoint and a TPOT of 0,
    the second those of the decode endpoint and a TTFT of 0. Only a completed stream has entries. An
    unknown latency or feature makes no entry.

    Args:
        record: The finished request.
    """
    if record.outcome is not Outcome.COMPLETED:
        return []
    actual = record.actual
    return training_rows(
        record.prediction_inputs,
        record.completed_at,
        actual.ttft_ms,
        actual.tpot_ms,
        record.output_length,
    )


def training_rows(
    inputs: Sequence[PredictionInput],
    completed_at: str | None,
    ttft_ms: float | None,
    tpot_ms: float | None,
    output_length: int | None,
) -> list[dict[str, Any]]:
    """Return the training entries of a completed stream; see `training_entries`."""
    entries: list[dict[str, Any]] = []
    for one in inputs:
        features = features_of(one)
        if features is None:
            continue
        features["timestamp"] = completed_at
        if ttft_ms is not None and one.pod_type != "decode":
            entries.append({**features, "actual_ttft_ms": ttft_ms, "actual_tpot_ms": 0.0})
        if tpot_ms is not None and (one.pod_type != "prefill" or len(inputs) == 1):
            tokens = {"num_tokens_generated": output_length or 0}
            entries.append({**features, **tokens, "actual_ttft_ms": 0.0, "actual_tpot_ms": tpot_ms})
    return entries


def features_of(one: PredictionInput) -> dict[str, Any] | None:
    """Return an input in the service's format; None if a feature is missing (never 0)."""
    features: dict[str, Any] = {
        "kv_cache_percentage": one.kv_cache_usage,
        "input_token_length": one.input_token_length,
        "num_request_waiting": one.num_request_waiting,
        "num_request_running": one.num_request_running,
        "num_tokens_generated": 0,
        "prefix_cache_score": one.prefix_cache_score,
        # llm-d counts the tokens of prompts being prefilled, never those being decoded.
        "prefill_tokens_in_flight": 0 if one.pod_type == "decode" else one.inflight_tokens,
        "pod_type": one.pod_type,
    }
    return None if None in features.values() else features
