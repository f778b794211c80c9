"""The inputs of the latency predictor, and the reasons for missing inputs.

The features are those of hermes-router's `prediction.proto` (`PredictInput`); the seed calls the
function `selectedPredictionInputs`. A feature that cannot be trusted is None and has one reason
from a closed list; a present feature has no reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Annotated

import msgspec

from otel_lifecycle.model import sanitize
from otel_lifecycle.model.endpoint import EndpointMetrics, NPUState
from otel_lifecycle.model.fields import Count, Fraction, Percent, Text, Total, declare, record_name
from otel_lifecycle.model.route import EndpointSnapshot


class MissingReason(str, Enum):
    """Why a feature of the latency predictor is missing; the list is closed."""

    METRICS_MISSING = "metrics_missing"
    METRICS_STALE = "metrics_stale"
    NPU_MISSING = "npu_missing"
    NPU_STALE = "npu_stale"
    NPU_PARTIAL = "npu_partial"
    NPU_INVALID_VALUE = "npu_invalid_value"
    PREFIX_CACHE_MISSING = "prefix_cache_missing"
    INPUT_TOKENS_MISSING = "input_tokens_missing"
    INFLIGHT_MISSING = "inflight_missing"
    ADDRESS_MISSING = "address_missing"
    ENDPOINT_MISSING = "endpoint_missing"
    NOT_FINITE = "not_finite"


class PredictionInput(msgspec.Struct, rename=record_name, gc=False):
    """The features of one counted endpoint, as hermes-router's predictor takes them.

    If a feature is None, `LifecycleRecord.missing_feature_reasons` has the reason.
    """

    pod_type: Annotated[str, declare("`prefill`, `decode` or empty (aggregated).")] = ""
    input_token_length: Annotated[Count | None, declare("Length of the prompt.", "{token}")] = None
    prefix_cache_score: Annotated[
        Fraction | None, declare("Fraction of the prompt that is cached.")
    ] = None
    num_request_waiting: Annotated[
        Count | None, declare("Requests in the engine's queue.", "{request}", source="engine")
    ] = None
    num_request_running: Annotated[
        Count | None, declare("Requests being executed.", "{request}", source="engine")
    ] = None
    kv_cache_usage: Annotated[
        Fraction | None, declare("Fraction of the KV cache in use.", source="engine")
    ] = None
    inflight_tokens: Annotated[
        Total | None, declare("Prompt tokens in flight on the endpoint.", "{token}", source="load")
    ] = None
    hbm_utilization: Annotated[
        Percent | None, declare("Device memory in use, averaged.", source="device")
    ] = None
    ai_core_utilization: Annotated[
        Percent | None, declare("Compute in use, averaged.", source="device")
    ] = None
    bandwidth_utilization: Annotated[
        Percent | None, declare("Device memory bandwidth in use, averaged.", source="device")
    ] = None
    server_ip: Annotated[Text | None, declare("Host or IP address.")] = None
    prefill_tokens: Annotated[
        Total | None,
        declare("Prompt tokens left to prefill on the endpoint.", "{token}", source="load"),
    ] = None


class MissingFeature(msgspec.Struct, rename=record_name, gc=False):
    """Why one feature of one prediction input is missing."""

    pod_type: Annotated[str, declare("The `podType` of the prediction input.")]
    feature: Annotated[str, declare("The field of the prediction input.")]
    reason: Annotated[MissingReason, declare("One of a closed list of reasons.")]


POD_TYPES = {"leader": "", "prefill": "prefill", "decode": "decode"}

_METRICS_FEATURES = (
    ("numRequestWaiting", "waiting_requests"),
    ("numRequestRunning", "running_requests"),
    ("kvCacheUsage", "kv_cache_usage"),
)
# It is not public whether hermes uses the average or the maximum; this assumes the average.
_NPU_FEATURES = (
    ("hbmUtilization", "hbm_utilization_avg"),
    ("aiCoreUtilization", "ai_core_utilization_avg"),
    ("bandwidthUtilization", "hbm_bandwidth_utilization_avg"),
)
_NO_METRICS = EndpointMetrics()
_NO_NPU = NPUState()
_NPU_STATUS_REASONS = {
    "stale": MissingReason.NPU_STALE,
    "missing": MissingReason.NPU_MISSING,
}


def missing_request_features(
    roles: Iterable[str], tokens: int | None, raw_score: object, score: float | None
) -> list[MissingFeature]:
    """Return the features that the request itself lacks, with the reasons.

    Args:
        roles: The counted roles: each has its own prediction input.
        tokens: Length of the prompt.
        raw_score: The prefix-cache score as the router gave it.
        score: The cleaned score.
    """
    missing: list[MissingFeature] = []
    if tokens is not None and score is not None:
        return missing
    for role in roles:
        pod_type = POD_TYPES[role]
        if tokens is None:
            reason = MissingReason.INPUT_TOKENS_MISSING
            missing.append(MissingFeature(pod_type, "inputTokenLength", reason))
        if score is None:
            reason = (
                MissingReason.NOT_FINITE
                if sanitize.is_not_finite(raw_score)
                else MissingReason.PREFIX_CACHE_MISSING
            )
            missing.append(MissingFeature(pod_type, "prefixCacheScore", reason))
    return missing


def prediction_input(
    role: str,
    snapshot: EndpointSnapshot,
    *,
    input_tokens: int | None,
    score: float | None,
    missing: Iterable[MissingFeature],
) -> PredictionInput:
    """Return the features of one counted endpoint, without the `missing` ones."""
    pod_type = POD_TYPES[role]
    metrics = snapshot.metrics or _NO_METRICS
    npu = snapshot.npu or _NO_NPU
    result = PredictionInput(
        pod_type,
        input_tokens,
        score,
        metrics.waiting_requests,
        metrics.running_requests,
        metrics.kv_cache_usage,
        None if snapshot.inflight is None else snapshot.inflight.tokens,
        npu.hbm_utilization_avg,
        npu.ai_core_utilization_avg,
        npu.hbm_bandwidth_utilization_avg,
        snapshot.address,
        snapshot.prefill_tokens,
    )
    if snapshot.address and metrics is _NO_METRICS and npu is _NO_NPU:
        return result  # all that is missing is None already
    for entry in missing:
        if entry.pod_type == pod_type:
            field = _FIELDS.get(entry.feature)
            if field is not None:
                setattr(result, field, None)
    return result


_FIELDS = dict(
    zip(PredictionInput.__struct_encode_fields__, PredictionInput.__struct_fields__, strict=True)
)


def missing_metrics(
    raw: EndpointMetrics | None, metrics: EndpointMetrics | None, *, stale: bool
) -> list[tuple[str, MissingReason]]:
    """Return the features that the engine's metrics lack, with the reasons.

    Args:
        raw: The metrics as the router gave them.
        metrics: The cleaned metrics.
        stale: Whether they are too old to be used.
    """
    if raw is None or metrics is None:
        return [(feature, MissingReason.METRICS_MISSING) for feature, _ in _METRICS_FEATURES]
    if stale:
        return [(feature, MissingReason.METRICS_STALE) for feature, _ in _METRICS_FEATURES]
    return [
        (
            feature,
            MissingReason.NOT_FINITE
            if sanitize.is_not_finite(getattr(raw, field))
            else MissingReason.METRICS_MISSING,
        )
        for feature, field in _METRICS_FEATURES
        if getattr(metrics, field) is None
    ]


def missing_npu(
    raw: NPUState | None, npu: NPUState | None, *, stale: bool
) -> list[tuple[str, MissingReason]]:
    """Return the features that the NPU state lacks, with the reasons.

    Args:
        raw: The state as the router gave it.
        npu: The cleaned state.
        stale: Whether the state is too old to be used, whatever its status is.
    """
    if raw is None or npu is None:
        return [(feature, MissingReason.NPU_MISSING) for feature, _ in _NPU_FEATURES]
    whole = MissingReason.NPU_STALE if stale else _NPU_STATUS_REASONS.get(npu.data_status)
    if whole is not None:
        return [(feature, whole) for feature, _ in _NPU_FEATURES]
    absent = (
        MissingReason.NPU_PARTIAL if npu.data_status == "partial" else MissingReason.NPU_MISSING
    )
    return [
        (
            feature,
            absent if getattr(raw, field) is None else MissingReason.NPU_INVALID_VALUE,
        )
        for feature, field in _NPU_FEATURES
        if getattr(npu, field) is None
    ]
