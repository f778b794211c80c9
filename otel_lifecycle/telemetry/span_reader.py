"""A finished lifecycle span as the record it was made from.

The inverse of `otel_lifecycle.telemetry.spans`: exact to the last field, as long as the span
carries the per-device NPU arrays (or there are no devices) and nobody cut its attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from fractions import Fraction
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanKind

from otel_lifecycle.model import (
    EndpointMetrics,
    InputTokenSource,
    LatencyPrediction,
    Load,
    MissingReason,
    NPUDevice,
    NPUState,
    Outcome,
    latency,
)
from otel_lifecycle.model.features import POD_TYPES, prediction_input
from otel_lifecycle.model.record import (
    EndpointSnapshot,
    ErrorInfo,
    LifecycleRecord,
    MissingFeature,
    Reroute,
    RouteSnapshot,
)
from otel_lifecycle.model.timestamps import datetime_from_ns, format_timestamp
from otel_lifecycle.telemetry import semconv
from otel_lifecycle.telemetry.spans import (
    DEVICE_FIELDS,
    LORA_FIELDS,
    METRICS_FIELDS,
    NPU_FIELDS,
    UNKNOWN_UTILIZATION,
)

RESOURCE_KEYS = ("service.name", "service.instance.id")


def is_lifecycle_span(span: ReadableSpan) -> bool:
    """Whether a span is one of ours, and tells of a whole request."""
    scope = span.instrumentation_scope
    return (
        scope is not None
        and scope.name == semconv.SCOPE
        and span.context is not None
        and semconv.PHASE not in (span.attributes or {})
    )


def record_from_span(span: ReadableSpan) -> LifecycleRecord:
    """The record of a finished lifecycle span.

    Raises:
        ValueError: The span is not a lifecycle span, or lacks what every one has.
    """
    if not is_lifecycle_span(span) or span.start_time is None or span.context is None:
        raise ValueError(f"span {span.name!r} is not a lifecycle span")
    attributes: Mapping[str, Any] = span.attributes or {}
    events: dict[str, Event] = {event.name: event for event in span.events}
    started_ns = span.start_time
    first_chunk = events.get(semconv.EVENT_FIRST_CHUNK)
    first_chunk_ns = None if first_chunk is None else first_chunk.timestamp - started_ns
    ended_ns = span.end_time if span.end_time is not None else started_ns
    route = _route(attributes, started_ns)
    output_length = attributes.get(semconv.OUTPUT_TOKENS)
    prediction = LatencyPrediction(
        _milliseconds(attributes.get(semconv.PREDICTED_TTFT)),
        _milliseconds(attributes.get(semconv.PREDICTED_TPOT)),
    )
    streaming = attributes.get(semconv.REQUEST_STREAM)
    actual = latency.actual_latency(ended_ns - started_ns, first_chunk_ns, output_length)
    actual.prefill_ms = _milliseconds(attributes.get(semconv.ROUTE_PREFILL_DURATION))
    completion = events.get(semconv.EVENT_COMPLETION)
    error_type = attributes.get(semconv.ERROR_TYPE)
    record = LifecycleRecord(
        request_id=attributes.get(semconv.REQUEST_ID, ""),
        model=attributes.get(semconv.REQUEST_MODEL, ""),
        operation=attributes.get(semconv.OPERATION_NAME, ""),
        provider=attributes.get(semconv.PROVIDER_NAME, ""),
        outcome=Outcome(attributes.get(semconv.OUTCOME)),
        streaming=streaming,
        started_at=format_timestamp(started_ns),
        first_chunk_at=None if first_chunk is None else format_timestamp(first_chunk.timestamp),
        completed_at=None if span.end_time is None else format_timestamp(span.end_time),
        output_length=output_length,
        cached_tokens=attributes.get(semconv.CACHED_TOKENS),
        selected_endpoint="" if route is None else route.leader.id,
        served_endpoint=(completion.attributes or {}).get(semconv.ROUTE_SERVED_ID)  # pyright: ignore[reportArgumentType]
        if completion is not None
        else attributes.get(semconv.ROUTE_SERVED_ID),
        candidates=attributes.get(semconv.ROUTE_CANDIDATES),
        policy=attributes.get(semconv.ROUTE_POLICY, ""),
        engine_request_id=attributes.get(semconv.ENGINE_REQUEST_ID),
        attempt=attributes.get(semconv.ROUTE_ATTEMPT, 1),
        rerouted=[_reroute(event) for event in span.events if event.name == semconv.EVENT_REROUTED],
        dispatch_inflight=_load(
            attributes, semconv.DISPATCH_INFLIGHT_TOKENS, semconv.DISPATCH_INFLIGHT_REQUESTS
        ),
        prefix_cache_score=attributes.get(semconv.PREFIX_CACHE_SCORE),
        prediction=prediction,
        prediction_mode=attributes.get(semconv.PREDICTION_MODE, ""),
        missing_feature_reasons=_missing(attributes),
        selected_route=route,
        route_mismatch=attributes.get(semconv.ROUTE_MISMATCH, False),
        endpoint_deleted=list(attributes.get(semconv.ROUTE_DELETED_ROLES, ())),
        error=None if error_type is None else ErrorInfo(error_type),
        actual=actual,
        prediction_error=latency.prediction_error(actual, prediction),
        trace_id=format(span.context.trace_id, "032x"),
        span_id=format(span.context.span_id, "016x"),
        parent_span_id=None if span.parent is None else format(span.parent.span_id, "016x"),
        trace_flags=int(span.context.trace_flags),
        trace_state=span.context.trace_state.to_header(),
        span_kind="internal" if span.kind is SpanKind.INTERNAL else "server",
        resource=resource_attributes(span.resource.attributes),
    )
    _set_input_tokens(record, attributes)
    _set_counted(record, shared=attributes.get(semconv.ROUTE_SHARED, False))
    return record


def resource_attributes(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The part of a resource that the record keeps."""
    return {key: str(attributes[key]) for key in RESOURCE_KEYS if key in attributes}


def _set_input_tokens(record: LifecycleRecord, attributes: Mapping[str, Any]) -> None:
    tokens = attributes.get(semconv.INPUT_TOKENS, attributes.get(semconv.INPUT_TOKENS_ESTIMATE))
    if tokens is not None:
        record.input_token_length = tokens
        record.input_token_source = InputTokenSource(attributes[semconv.INPUT_TOKENS_SOURCE])


def _set_counted(record: LifecycleRecord, *, shared: bool) -> None:
    route = record.selected_route
    if route is None:
        return
    if route.prefill is None or route.decode is None:
        counted = [("leader", route.leader)]
    elif shared:
        counted = [("prefill", route.prefill)]
    else:
        counted = [("prefill", route.prefill), ("decode", route.decode)]
    record.tracked_endpoints = [snapshot.id for _, snapshot in counted]
    record.prediction_inputs = [
        prediction_input(
            role,
            snapshot,
            input_tokens=record.input_token_length,
            score=record.prefix_cache_score,
            missing=record.missing_feature_reasons,
        )
        for role, snapshot in counted
    ]


def _route(attributes: Mapping[str, Any], started_ns: int) -> RouteSnapshot | None:
    leader = _endpoint(attributes, "leader", started_ns)
    if leader is None:
        return None
    return RouteSnapshot(
        leader=leader,
        prefill=_endpoint(attributes, "prefill", started_ns),
        decode=_endpoint(attributes, "decode", started_ns),
    )


def _endpoint(attributes: Mapping[str, Any], role: str, started_ns: int) -> EndpointSnapshot | None:
    prefix = semconv.ROLE_PREFIX[role]
    endpoint_id = attributes.get(prefix + semconv.ROLE_ID)
    if endpoint_id is None:
        return None
    return EndpointSnapshot(
        id=endpoint_id,
        address=attributes.get(prefix + semconv.ROLE_ADDRESS, ""),
        port=attributes.get(prefix + semconv.ROLE_PORT, ""),
        name=attributes.get(prefix + semconv.ROLE_NAME, ""),
        metrics=_metrics(attributes, prefix, started_ns),
        inflight=_load(
            attributes,
            prefix + semconv.ROLE_INFLIGHT_TOKENS,
            prefix + semconv.ROLE_INFLIGHT_REQUESTS,
        ),
        npu=_npu(attributes, prefix, started_ns),
    )


def _metrics(attributes: Mapping[str, Any], prefix: str, started_ns: int) -> EndpointMetrics | None:
    fields: dict[str, Any] = {
        field: attributes[prefix + suffix]
        for suffix, field in METRICS_FIELDS
        if prefix + suffix in attributes
    }
    for models_suffix, counts_suffix, field in LORA_FIELDS:
        models = attributes.get(prefix + models_suffix)
        if models is not None:
            fields[field] = dict(zip(models, attributes[prefix + counts_suffix], strict=True))
    age = attributes.get(prefix + semconv.ROLE_METRICS_AGE)
    if age is not None:
        fields["update_time"] = _moment(started_ns, age)
    return EndpointMetrics(**fields) if fields else None


def _npu(attributes: Mapping[str, Any], prefix: str, started_ns: int) -> NPUState | None:
    status = attributes.get(prefix + semconv.ROLE_NPU_STATUS)
    if status is None:
        return None
    age = attributes.get(prefix + semconv.ROLE_NPU_AGE)
    return NPUState(
        observation_time=None if age is None else _moment(started_ns, age),
        data_status=status,
        device_count=attributes.get(prefix + semconv.ROLE_NPU_COUNT),
        devices=_devices(attributes, prefix),
        **{field: _percent(attributes.get(prefix + suffix)) for suffix, field in NPU_FIELDS},
    )


def _moment(started_ns: int, age: float) -> datetime:
    # In whole numbers, as is the division in `spans`: floats lose microseconds of long ages.
    return datetime_from_ns(started_ns - round(Fraction(age) * 1_000_000_000))


def _devices(attributes: Mapping[str, Any], prefix: str) -> tuple[NPUDevice, ...]:
    ids = attributes.get(prefix + semconv.ROLE_NPU_DEVICE_IDS)
    if ids is None:
        return ()
    targets = attributes[prefix + semconv.ROLE_NPU_DEVICE_TARGETS]
    columns = {field: attributes[prefix + suffix] for suffix, field in DEVICE_FIELDS}
    return tuple(
        NPUDevice(
            target=targets[index],
            device_id=device_id,
            **{
                field: None if values[index] == UNKNOWN_UTILIZATION else _percent(values[index])
                for field, values in columns.items()
            },
        )
        for index, device_id in enumerate(ids)
    )


def _missing(attributes: Mapping[str, Any]) -> list[MissingFeature]:
    features = attributes.get(semconv.MISSING_FEATURES, ())
    reasons = attributes.get(semconv.MISSING_REASONS, ())
    missing: list[MissingFeature] = []
    for name, reason in zip(features, reasons, strict=True):
        pod_type, dot, feature = name.partition(".")
        if not dot:
            pod_type, feature = POD_TYPES["leader"], name
        missing.append(MissingFeature(pod_type, feature, MissingReason(reason)))
    return missing


def _reroute(event: Event) -> Reroute:
    attributes: Mapping[str, Any] = event.attributes or {}
    return Reroute(
        at=format_timestamp(event.timestamp),
        from_endpoint=attributes[semconv.REROUTED_FROM],
        to_endpoint=attributes[semconv.REROUTED_TO],
        reason=attributes[semconv.REROUTED_REASON],
    )


def _load(attributes: Mapping[str, Any], tokens: str, requests: str) -> Load | None:
    if tokens not in attributes:
        return None
    return Load(attributes[tokens], attributes[requests])


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 6)


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else round(fraction * 100, 6)
