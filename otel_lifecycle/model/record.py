"""The record of a finished request: one line of the file, and the source of its span.

The record is begun when the request is dispatched and completed when it ends; from then on nobody
changes it. Span attributes are a function of it (`otel_lifecycle.telemetry.spans`), so the two
cannot disagree. Field names and meaning: the seed, and hermes-router's `prediction.proto` for the
prediction inputs.
"""

from __future__ import annotations

import inspect
from enum import Enum
from typing import Any

import msgspec

from otel_lifecycle.model.endpoint import EndpointMetrics, Load, NPUState
from otel_lifecycle.model.request import InputTokenSource, Outcome
from otel_lifecycle.model.route import LatencyPrediction
from otel_lifecycle.model.timestamps import Timestamp

SCHEMA_VERSION = 1
_SCHEMA_ID = "https://github.com/otel-lifecycle/otel-lifecycle/schemas/record-v1.json"


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


class EndpointSnapshot(msgspec.Struct, rename="camel", omit_defaults=True):
    """An endpoint of the route as the router saw it at dispatch, this request not counted.

    Attributes:
        id: `Endpoint.id`.
        address: Host or IP address.
        port: Port, as text.
        name: The name that tells ranks of one pod apart.
        metrics: Absent for an endpoint that is only identified (the leader of a PD route).
        inflight: Likewise.
        npu: Absent when there is no state.
    """

    id: str = ""
    address: str = ""
    port: str = ""
    name: str = ""
    metrics: EndpointMetrics | None = None
    inflight: Load | None = None
    npu: NPUState | None = None

    @property
    def label(self) -> str:
        """What metrics call it: `Endpoint.label`."""
        return f"{self.id}#{self.name}" if self.name else self.id


class RouteSnapshot(msgspec.Struct, rename="camel", omit_defaults=True):
    """The route: a leader alone, or leader (identity only), prefill and decode."""

    leader: EndpointSnapshot
    prefill: EndpointSnapshot | None = None
    decode: EndpointSnapshot | None = None


class PredictionInput(msgspec.Struct, rename="camel", gc=False):
    """The features of one counted endpoint, as hermes-router's predictor takes them.

    `pod_type` is `prefill`, `decode` or empty (aggregated). `kv_cache_usage` and
    `prefix_cache_score` are fractions, the utilizations percent. None has its reason in
    `LifecycleRecord.missing_feature_reasons`.
    """

    pod_type: str = ""
    input_token_length: int | None = None
    prefix_cache_score: float | None = None
    num_request_waiting: int | None = None
    num_request_running: int | None = None
    kv_cache_usage: float | None = None
    inflight_tokens: int | None = None
    hbm_utilization: float | None = None
    ai_core_utilization: float | None = None
    bandwidth_utilization: float | None = None
    server_ip: str | None = None


class MissingFeature(msgspec.Struct, rename="camel", gc=False):
    """Why one feature of one prediction input is missing."""

    pod_type: str
    feature: str
    reason: MissingReason


class ActualLatency(
    msgspec.Struct,
    rename={
        "ttft_ms": "ttftMillis",
        "tpot_ms": "tpotMillis",
        "e2e_ms": "e2eMillis",
        "prefill_ms": "prefillMillis",
    },
    gc=False,
):
    """What was measured, in milliseconds of a monotonic clock.

    TTFT: dispatch to first chunk, of a stream only. TPOT: `(e2e - ttft) / (output tokens - 1)`,
    of a stream with two tokens or more. llm-d's predictor divides by the number of chunks
    instead; tokens are what its features speak of. Prefill: call to answer of the prefill endpoint
    of a PD route.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    prefill_ms: float | None = None


class PredictionError(
    msgspec.Struct,
    rename={
        "ttft_ms": "ttftMillis",
        "tpot_ms": "tpotMillis",
        "ttft_ratio": "ttftRatio",
        "tpot_ratio": "tpotRatio",
    },
    gc=False,
):
    """Actual minus predicted, in milliseconds and as a fraction of the actual value."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    ttft_ratio: float | None = None
    tpot_ratio: float | None = None


class ErrorInfo(msgspec.Struct, rename="camel", gc=False):
    """The error a request ended with: a short type name, never a message."""

    type: str


class Reroute(
    msgspec.Struct,
    rename={"at": "at", "from_endpoint": "from", "to_endpoint": "to", "reason": "reason"},
    gc=False,
):
    """One change of route on the way; prefill and decode of a pair are joined by `+`."""

    at: Timestamp
    from_endpoint: str
    to_endpoint: str
    reason: str


class LifecycleRecord(msgspec.Struct, rename="camel", kw_only=True):
    """One finished request.

    Timestamps are RFC 3339 text in UTC with nanoseconds, anchored at the wall clock at dispatch
    and advanced by a monotonic clock, so that a stepped clock never makes a span run backwards.
    """

    schema_version: int = SCHEMA_VERSION
    request_id: str
    model: str = ""
    operation: str = ""
    provider: str = ""
    outcome: Outcome = Outcome.COMPLETED
    streaming: bool | None = None
    started_at: Timestamp
    first_chunk_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    input_token_length: int | None = None
    input_token_source: InputTokenSource = InputTokenSource.UNKNOWN
    output_length: int | None = None
    cached_tokens: int | None = None
    selected_endpoint: str = ""
    served_endpoint: str | None = None
    tracked_endpoints: list[str] = []
    candidates: int | None = None
    policy: str = ""
    engine_request_id: str | None = None
    attempt: int = 1
    rerouted: list[Reroute] = []
    dispatch_inflight: Load | None = None
    prefix_cache_score: float | None = None
    prediction: LatencyPrediction
    prediction_mode: str = ""
    prediction_inputs: list[PredictionInput] = []
    missing_feature_reasons: list[MissingFeature] = []
    selected_route: RouteSnapshot | None
    route_mismatch: bool = False
    endpoint_deleted: list[str] = []
    error: ErrorInfo | None = None
    actual: ActualLatency
    prediction_error: PredictionError
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    trace_flags: int | None = None
    trace_state: str = ""
    span_kind: str | None = None
    resource: dict[str, str] = {}


def record_schema() -> dict[str, Any]:
    """The JSON Schema of a record, as shipped in `record.schema.json`."""
    schema = msgspec.json.schema(LifecycleRecord)
    for definition in schema["$defs"].values():
        definition["description"] = inspect.cleandoc(definition["description"])
    record = schema["$defs"][LifecycleRecord.__name__]
    record["required"].insert(0, "schemaVersion")  # it has a default only for those who write
    record["properties"]["schemaVersion"]["const"] = SCHEMA_VERSION
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _SCHEMA_ID,
        "title": "A finished request of an LLM router",
        **schema,
    }
