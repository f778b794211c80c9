"""A record as a span, and back.

Attributes and events are a function of the record. The live span gets those a sampler may want
when it starts and all others in one call when it ends, so that nothing a reroute made untrue stays
on it, a request in flight holds little memory, and an unsampled request builds none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from otel_lifecycle.model import EndpointMetrics, InputTokenSource, NPUState
from otel_lifecycle.model.record import EndpointSnapshot, LifecycleRecord
from otel_lifecycle.model.timestamps import datetime_to_ns, parse_timestamp
from otel_lifecycle.telemetry import semconv
from otel_lifecycle.telemetry.clean_attributes import add_clean_event, set_clean_attributes
from otel_lifecycle.version import __version__

Attributes: TypeAlias = dict[str, Any]

_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}


class Moments(NamedTuple):
    """When a request was dispatched, answered first and ended; Unix nanoseconds."""

    started_ns: int
    first_chunk_ns: int | None
    completed_ns: int | None


def moments(record: LifecycleRecord) -> Moments:
    """Those of a record that was read: the live request still has the numbers themselves."""
    first, completed = record.first_chunk_at, record.completed_at
    return Moments(
        parse_timestamp(record.started_at),
        None if first is None else parse_timestamp(first),
        None if completed is None else parse_timestamp(completed),
    )


def span_name(model: str) -> str:
    """`route {model}`, or `route`."""
    return f"route {model}" if model else "route"


def start_attributes(record: LifecycleRecord) -> Attributes:
    """What a sampler sees."""
    attributes: Attributes = {semconv.REQUEST_ID: record.request_id}
    if record.operation:
        attributes[semconv.OPERATION_NAME] = record.operation
    if record.provider:
        attributes[semconv.PROVIDER_NAME] = record.provider
    if record.model:
        attributes[semconv.REQUEST_MODEL] = record.model
    if record.streaming is not None:
        attributes[semconv.REQUEST_STREAM] = record.streaming
    return attributes


def end_attributes(
    record: LifecycleRecord, started_ns: int, *, devices: bool = False, keep: bool = True
) -> Attributes:
    """All other attributes of a finished request.

    Args:
        record: The finished request.
        started_ns: Its dispatch, Unix nanoseconds.
        devices: Whether to add the per-device NPU arrays.
        keep: Whether to keep what other requests to the same endpoints will have in common.
    """
    attributes: Attributes = {}
    _set_request(attributes, record)
    _set_route(attributes, record, started_ns, devices, keep)
    _set_prediction(attributes, record)
    _set_result(attributes, record)
    return attributes


def span_events(record: LifecycleRecord, at: Moments) -> list[tuple[str, int, Attributes]]:
    """Name, Unix nanoseconds and attributes of each event, in order of time."""
    events: list[tuple[str, int, Attributes]] = [
        (
            semconv.EVENT_REROUTED,
            parse_timestamp(reroute.at),
            {
                semconv.REROUTED_FROM: reroute.from_endpoint,
                semconv.REROUTED_TO: reroute.to_endpoint,
                semconv.REROUTED_REASON: reroute.reason,
            },
        )
        for reroute in record.rerouted
    ]
    if at.first_chunk_ns is not None:
        events.append((semconv.EVENT_FIRST_CHUNK, at.first_chunk_ns, {}))
    events.sort(key=lambda event: event[1])
    if at.completed_ns is not None:
        completion: Attributes = {semconv.OUTCOME: record.outcome.value}
        if record.output_length is not None:
            completion[semconv.OUTPUT_TOKENS] = record.output_length
        if record.served_endpoint is not None:
            completion[semconv.ROUTE_SERVED_ID] = record.served_endpoint
        events.append((semconv.EVENT_COMPLETION, at.completed_ns, completion))
    return events


def finish_span(
    span: Span, record: LifecycleRecord, at: Moments, *, devices: bool, again: bool = False
) -> None:
    """Puts what a finished request has to say on its live span; the caller ends it.

    Args:
        span: The live span.
        record: The finished request.
        at: Its moments.
        devices: Whether to add the per-device NPU arrays.
        again: Whether some of it may be there already.
    """
    events = getattr(span, "events", ()) if again else ()
    there = {(event.name, event.timestamp) for event in events}
    set_clean_attributes(span, end_attributes(record, at.started_ns, devices=devices))
    for name, at_ns, attributes in span_events(record, at):
        if (name, at_ns) not in there:
            add_clean_event(span, name, attributes, at_ns)
    if record.error is not None:
        span.set_status(Status(StatusCode.ERROR))


def server_attributes(endpoint: EndpointSnapshot) -> Attributes:
    """Where an endpoint is, in OpenTelemetry's words."""
    attributes: Attributes = {}
    if endpoint.address:
        attributes[semconv.SERVER_ADDRESS] = endpoint.address
    if endpoint.port.isdecimal() and len(endpoint.port) <= 5:
        attributes[semconv.SERVER_PORT] = int(endpoint.port)
    if endpoint.id.startswith("pod://"):
        namespace, _, pod = endpoint.id.removeprefix("pod://").partition("/")
        attributes[semconv.K8S_NAMESPACE_NAME] = namespace
        attributes[semconv.K8S_POD_NAME] = pod
    return attributes


def span_from_record(
    record: LifecycleRecord,
    *,
    devices: bool = True,
    resource: Mapping[str, AttributeValue] | None = None,
) -> ReadableSpan:
    """The span of a finished request, ready for any exporter.

    Args:
        record: A record with trace and span id.
        devices: Whether to add the per-device NPU arrays.
        resource: Attributes of the resource beside those that the record keeps.

    Raises:
        ValueError: The record has no trace id or span id.
    """
    if record.trace_id is None or record.span_id is None:
        raise ValueError("the record has no traceId or spanId: its request was not traced")
    at = moments(record)
    trace_id = int(record.trace_id, 16)
    flags = TraceFlags(record.trace_flags or 0)
    state = TraceState.from_header([record.trace_state]) if record.trace_state else TraceState()
    parent = None
    kind = _KINDS.get(record.span_kind or "", SpanKind.SERVER)
    if record.parent_span_id is not None:
        parent = SpanContext(
            trace_id, int(record.parent_span_id, 16), kind is SpanKind.SERVER, flags, state
        )
    return ReadableSpan(
        name=span_name(record.model),
        context=SpanContext(trace_id, int(record.span_id, 16), False, flags, state),
        parent=parent,
        resource=Resource({**(resource or {}), **record.resource}),
        attributes={
            **start_attributes(record),
            # A record that was read shares no endpoint state with others.
            **end_attributes(record, at.started_ns, devices=devices, keep=False),
        },
        events=[
            Event(name, attributes, at_ns) for name, at_ns, attributes in span_events(record, at)
        ],
        kind=kind,
        status=Status(StatusCode.ERROR if record.error is not None else StatusCode.UNSET),
        start_time=at.started_ns,
        end_time=at.completed_ns,
        instrumentation_scope=InstrumentationScope(semconv.SCOPE, __version__, semconv.SCHEMA_URL),
    )


def _set_request(attributes: Attributes, record: LifecycleRecord) -> None:
    if record.streaming is not None:  # may have been learnt from the response
        attributes[semconv.REQUEST_STREAM] = record.streaming
    if record.engine_request_id is not None:
        attributes[semconv.ENGINE_REQUEST_ID] = record.engine_request_id
    if record.input_token_length is not None:
        attributes[semconv.INPUT_TOKENS_SOURCE] = record.input_token_source.value
        estimated = record.input_token_source is InputTokenSource.ESTIMATED
        name = semconv.INPUT_TOKENS_ESTIMATE if estimated else semconv.INPUT_TOKENS
        attributes[name] = record.input_token_length
    if record.cached_tokens is not None:
        attributes[semconv.CACHED_TOKENS] = record.cached_tokens
    if record.output_length is not None:
        attributes[semconv.OUTPUT_TOKENS] = record.output_length


def _set_route(
    attributes: Attributes, record: LifecycleRecord, started_ns: int, devices: bool, keep: bool
) -> None:
    route = record.selected_route
    if route is None:
        return
    disaggregated = route.prefill is not None and route.decode is not None
    attributes[semconv.ROUTE_TYPE] = "prefill_decode" if disaggregated else "aggregated"
    served = record.served_endpoint
    if served is not None and served != record.selected_endpoint:
        attributes[semconv.ROUTE_SERVED_ID] = served
    if record.candidates is not None:
        attributes[semconv.ROUTE_CANDIDATES] = record.candidates
    if record.policy:
        attributes[semconv.ROUTE_POLICY] = record.policy
    attributes[semconv.ROUTE_ATTEMPT] = record.attempt
    if disaggregated and len(record.tracked_endpoints) == 1:
        attributes[semconv.ROUTE_SHARED] = True
    if record.route_mismatch:
        attributes[semconv.ROUTE_MISMATCH] = True
    if record.endpoint_deleted:
        attributes[semconv.ROUTE_DELETED_ROLES] = tuple(record.endpoint_deleted)
    if record.dispatch_inflight is not None:
        attributes[semconv.DISPATCH_INFLIGHT_REQUESTS] = record.dispatch_inflight.requests
        attributes[semconv.DISPATCH_INFLIGHT_TOKENS] = record.dispatch_inflight.tokens
    # A reroute has taken a new snapshot.
    dispatched_ns = parse_timestamp(record.rerouted[-1].at) if record.rerouted else started_ns
    for role in ("leader", "prefill", "decode"):
        snapshot: EndpointSnapshot | None = getattr(route, role)
        if snapshot is not None:
            prefix = semconv.ROLE_PREFIX[role]
            endpoint_attributes = _kept_endpoint_attributes if keep else _endpoint_attributes
            attributes.update(endpoint_attributes(prefix, snapshot, devices))
            _set_state(attributes, prefix, snapshot, dispatched_ns)


def _set_state(
    attributes: Attributes, prefix: str, snapshot: EndpointSnapshot, dispatched_ns: int
) -> None:
    if snapshot.inflight is not None:
        attributes[prefix + semconv.ROLE_INFLIGHT_REQUESTS] = snapshot.inflight.requests
        attributes[prefix + semconv.ROLE_INFLIGHT_TOKENS] = snapshot.inflight.tokens
    metrics, npu = snapshot.metrics, snapshot.npu
    if metrics is not None and metrics.update_time is not None:
        age_ns = dispatched_ns - datetime_to_ns(metrics.update_time)
        attributes[prefix + semconv.ROLE_METRICS_AGE] = age_ns / 1_000_000_000
    if npu is not None and npu.observation_time is not None:
        age_ns = dispatched_ns - datetime_to_ns(npu.observation_time)
        attributes[prefix + semconv.ROLE_NPU_AGE] = age_ns / 1_000_000_000


# Of each known endpoint what it says in two roles: as itself, or as one half of a pair.
_MAX_KEPT_ENDPOINTS = 20_000


class _Kept(NamedTuple):
    metrics: EndpointMetrics | None
    npu: NPUState | None
    devices: bool
    attributes: Attributes


_kept_endpoints: dict[tuple[str, ...], _Kept] = {}


def _kept_endpoint_attributes(prefix: str, snapshot: EndpointSnapshot, devices: bool) -> Attributes:
    """The part that stays the same until the next scrape, kept for the requests until then."""
    key = (prefix, snapshot.id, snapshot.address, snapshot.port, snapshot.name)
    metrics, npu = snapshot.metrics, snapshot.npu
    kept = _kept_endpoints.get(key)
    if (
        kept is None
        or kept.metrics is not metrics
        or kept.npu is not npu
        or kept.devices is not devices
    ):
        if len(_kept_endpoints) >= _MAX_KEPT_ENDPOINTS:
            _kept_endpoints.clear()
        attributes = _endpoint_attributes(prefix, snapshot, devices)
        kept = _kept_endpoints[key] = _Kept(metrics, npu, devices, attributes)
    return kept.attributes


def _endpoint_attributes(prefix: str, snapshot: EndpointSnapshot, devices: bool) -> Attributes:
    attributes: Attributes = {prefix + semconv.ROLE_ID: snapshot.id}
    if snapshot.address:
        attributes[prefix + semconv.ROLE_ADDRESS] = snapshot.address
    if snapshot.port:
        attributes[prefix + semconv.ROLE_PORT] = snapshot.port
    if snapshot.name:
        attributes[prefix + semconv.ROLE_NAME] = snapshot.name
    if prefix == semconv.ROLE_PREFIX["leader"]:
        attributes.update(server_attributes(snapshot))
    if snapshot.metrics is not None:
        _set_metrics(attributes, prefix, snapshot.metrics)
    if snapshot.npu is not None:
        _set_npu(attributes, prefix, snapshot.npu, devices)
    return attributes


METRICS_FIELDS = (
    (semconv.ROLE_RUNNING, "running_requests"),
    (semconv.ROLE_WAITING, "waiting_requests"),
    (semconv.ROLE_KV_CACHE_UTILIZATION, "kv_cache_usage"),
    (semconv.ROLE_KV_CACHE_CAPACITY, "kv_cache_max_token_capacity"),
    (semconv.ROLE_KV_CACHE_BLOCK_SIZE, "cache_block_size"),
    (semconv.ROLE_KV_CACHE_BLOCK_COUNT, "cache_num_blocks"),
    (semconv.ROLE_LORA_MAX, "max_active_models"),
    (semconv.ROLE_PREFIX_CACHE_HIT_RATE, "prefix_cache_hit_rate"),
)
LORA_FIELDS = (
    (semconv.ROLE_LORA_ACTIVE_MODELS, semconv.ROLE_LORA_ACTIVE_COUNTS, "active_models"),
    (semconv.ROLE_LORA_WAITING_MODELS, semconv.ROLE_LORA_WAITING_COUNTS, "waiting_models"),
)
NPU_FIELDS = (
    (semconv.ROLE_NPU_CORE_AVG, "ai_core_utilization_avg"),
    (semconv.ROLE_NPU_CORE_MAX, "ai_core_utilization_max"),
    (semconv.ROLE_NPU_MEMORY_AVG, "hbm_utilization_avg"),
    (semconv.ROLE_NPU_MEMORY_MAX, "hbm_utilization_max"),
    (semconv.ROLE_NPU_BANDWIDTH_AVG, "hbm_bandwidth_utilization_avg"),
    (semconv.ROLE_NPU_BANDWIDTH_MAX, "hbm_bandwidth_utilization_max"),
)
DEVICE_FIELDS = (
    (semconv.ROLE_NPU_DEVICE_CORE, "ai_core_utilization"),
    (semconv.ROLE_NPU_DEVICE_MEMORY, "hbm_utilization"),
    (semconv.ROLE_NPU_DEVICE_BANDWIDTH, "hbm_bandwidth_utilization"),
)
# Arrays must be homogeneous and cannot hold a gap: -1 is what npu-exporter itself writes for one.
UNKNOWN_UTILIZATION = -1.0


def _set_metrics(attributes: Attributes, prefix: str, metrics: EndpointMetrics) -> None:
    for suffix, field in METRICS_FIELDS:
        value = getattr(metrics, field)
        if value is not None:
            attributes[prefix + suffix] = value
    for models_suffix, counts_suffix, field in LORA_FIELDS:
        models: Mapping[str, int] = getattr(metrics, field)
        if models:
            attributes[prefix + models_suffix] = tuple(models)
            attributes[prefix + counts_suffix] = tuple(models.values())


def _set_npu(attributes: Attributes, prefix: str, npu: NPUState, devices: bool) -> None:
    attributes[prefix + semconv.ROLE_NPU_STATUS] = npu.data_status
    if npu.device_count is not None:
        attributes[prefix + semconv.ROLE_NPU_COUNT] = npu.device_count
    for suffix, field in NPU_FIELDS:
        percent = getattr(npu, field)
        if percent is not None:
            attributes[prefix + suffix] = percent / 100
    if devices and npu.devices:
        attributes[prefix + semconv.ROLE_NPU_DEVICE_IDS] = tuple(d.device_id for d in npu.devices)
        attributes[prefix + semconv.ROLE_NPU_DEVICE_TARGETS] = tuple(d.target for d in npu.devices)
        for suffix, field in DEVICE_FIELDS:
            attributes[prefix + suffix] = tuple(
                UNKNOWN_UTILIZATION if percent is None else percent / 100
                for percent in (getattr(device, field) for device in npu.devices)
            )


def _set_prediction(attributes: Attributes, record: LifecycleRecord) -> None:
    if record.prefix_cache_score is not None:
        attributes[semconv.PREFIX_CACHE_SCORE] = record.prefix_cache_score
    if record.prediction_mode:
        attributes[semconv.PREDICTION_MODE] = record.prediction_mode
    if record.prediction.ttft_ms is not None:
        attributes[semconv.PREDICTED_TTFT] = record.prediction.ttft_ms / 1000
    if record.prediction.tpot_ms is not None:
        attributes[semconv.PREDICTED_TPOT] = record.prediction.tpot_ms / 1000
    if record.missing_feature_reasons:
        attributes[semconv.MISSING_FEATURES] = tuple(
            f"{missing.pod_type}.{missing.feature}" if missing.pod_type else missing.feature
            for missing in record.missing_feature_reasons
        )
        attributes[semconv.MISSING_REASONS] = tuple(
            missing.reason.value for missing in record.missing_feature_reasons
        )
    if record.prediction_error.ttft_ms is not None:
        attributes[semconv.PREDICTED_TTFT_ERROR] = record.prediction_error.ttft_ms / 1000
    if record.prediction_error.tpot_ms is not None:
        attributes[semconv.PREDICTED_TPOT_ERROR] = record.prediction_error.tpot_ms / 1000


def _set_result(attributes: Attributes, record: LifecycleRecord) -> None:
    attributes[semconv.OUTCOME] = record.outcome.value
    if record.error is not None:
        attributes[semconv.ERROR_TYPE] = record.error.type
    if record.actual.prefill_ms is not None:
        attributes[semconv.ROUTE_PREFILL_DURATION] = record.actual.prefill_ms / 1000
    if record.actual.ttft_ms is not None:
        attributes[semconv.TIME_TO_FIRST_CHUNK] = record.actual.ttft_ms / 1000
    if record.actual.tpot_ms is not None:
        attributes[semconv.TIME_PER_OUTPUT_TOKEN] = record.actual.tpot_ms / 1000
    if record.actual.e2e_ms is not None:
        attributes[semconv.REQUEST_DURATION] = record.actual.e2e_ms / 1000
