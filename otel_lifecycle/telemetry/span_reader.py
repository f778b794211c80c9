"""A finished lifecycle span as the record it was made from.

The inverse of `otel_lifecycle.telemetry.spans`: exact to the last field, as long as the span
carries the per-device NPU arrays (or there are no devices) and nobody cut its attributes. Of
candidates a span has but the names and scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, TypeVar

import msgspec
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import SpanKind

from otel_lifecycle.model import (
    LatencyPrediction,
    MissingReason,
    Outcome,
    latency,
    sanitize,
    semconv,
)
from otel_lifecycle.model.features import POD_TYPES, MissingFeature, prediction_input
from otel_lifecycle.model.fields import Field, fields_of, prefixed
from otel_lifecycle.model.latency import ActualLatency
from otel_lifecycle.model.record import LifecycleRecord, RecordedLeg, Reroute
from otel_lifecycle.model.route import RouteSnapshot
from otel_lifecycle.model.timestamps import datetime_from_ns, format_timestamp, parse_timestamp
from otel_lifecycle.telemetry.attributes import attribute_name, unknown
from otel_lifecycle.telemetry.setters.decision import read_decision
from otel_lifecycle.telemetry.setters.labels import read_labels

_Struct = TypeVar("_Struct", bound=msgspec.Struct)

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
    begins_ns = span.start_time
    dispatch = events.get(semconv.EVENT_DISPATCH)
    started_ns = begins_ns if dispatch is None else dispatch.timestamp
    first_chunk = events.get(semconv.EVENT_FIRST_CHUNK)
    first_chunk_ns = None if first_chunk is None else first_chunk.timestamp - started_ns
    ended_ns = span.end_time if span.end_time is not None else started_ns
    values: dict[str, Any] = {
        "request_id": "",
        "selected_route": None,
        "actual": ActualLatency(),
        "prediction": LatencyPrediction(),
        **_read(LifecycleRecord, attributes, "", started_ns),
    }
    rerouted = [_reroute(event) for event in span.events if event.name == semconv.EVENT_REROUTED]
    if rerouted:  # which has taken a new snapshot
        dispatched_ns = parse_timestamp(rerouted[-1].at)
        prefix = attribute_name("selected_route")
        values["selected_route"] = _read_struct(RouteSnapshot, attributes, prefix, dispatched_ns)
    route: RouteSnapshot | None = values["selected_route"]
    actual = latency.actual_latency(
        ended_ns - started_ns, first_chunk_ns, values.get("output_length")
    )
    actual.prefill_ms = values["actual"].prefill_ms
    if dispatch is not None:
        actual.queue_ms = (started_ns - begins_ns) / 1e6
    completion = events.get(semconv.EVENT_COMPLETION)
    values |= {
        "outcome": Outcome(attributes.get(semconv.OUTCOME)),
        "received_at": format_timestamp(begins_ns)
        if semconv.QUEUE_DURATION in attributes
        else None,
        "started_at": format_timestamp(started_ns),
        "first_chunk_at": None if first_chunk is None else format_timestamp(first_chunk.timestamp),
        "completed_at": None if span.end_time is None else format_timestamp(span.end_time),
        "selected_endpoint": "" if route is None else route.leader.id,
        "rerouted": rerouted,
        "decision": read_decision(attributes),
        "labels": read_labels(attributes),
        "missing_feature_reasons": _missing(attributes),
        "actual": actual,
        "prediction_error": latency.prediction_error(actual, values["prediction"]),
        "trace_id": format(span.context.trace_id, "032x"),
        "span_id": format(span.context.span_id, "016x"),
        "parent_span_id": None if span.parent is None else format(span.parent.span_id, "016x"),
        "trace_flags": int(span.context.trace_flags),
        "trace_state": sanitize.trace_state(span.context.trace_state.to_header()),
        "span_kind": "internal" if span.kind is SpanKind.INTERNAL else "server",
        "resource": resource_attributes(span.resource.attributes),
    }
    legs = _read_columns(RecordedLeg, attributes, attribute_name("legs"), begins_ns)
    if legs is not None:
        values["legs"] = legs
    if completion is not None:
        values["served_endpoint"] = (completion.attributes or {}).get(semconv.ROUTE_SERVED_ID)
    record = LifecycleRecord(**values)
    record.input_token_length = attributes.get(
        semconv.INPUT_TOKENS, attributes.get(semconv.INPUT_TOKENS_ESTIMATE)
    )
    _set_counted(record, shared=attributes.get(semconv.ROUTE_SHARED, False))
    return record


def resource_attributes(attributes: Mapping[str, Any]) -> dict[str, str]:
    """The part of a resource that the record keeps."""
    return {key: str(attributes[key]) for key in RESOURCE_KEYS if key in attributes}


def _set_counted(record: LifecycleRecord, *, shared: bool) -> None:
    route = record.selected_route
    if route is None:
        return
    if route.prefill is None:
        counted = [("leader", route.leader)]
    elif shared or route.decode is None:
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


def _read(
    struct: type[msgspec.Struct], attributes: Mapping[str, Any], prefix: str, since_ns: int
) -> dict[str, Any]:
    """The fields of a struct that are on a span."""
    values: dict[str, Any] = {}
    for field in fields_of(struct):
        names = field.declared.attribute
        if isinstance(names, tuple):
            if field.struct is None and not field.kind and prefixed(prefix, names[0]) in attributes:
                keys, numbers = (attributes[prefixed(prefix, name)] for name in names)
                values[field.name] = dict(zip(keys, numbers, strict=True))
        elif names and field.struct is not None:
            name = prefixed(prefix, names)
            read = _read_columns if field.many else _read_struct
            value = read(field.struct, attributes, name, since_ns)
            if value is not None:
                values[field.name] = value
        elif names and prefixed(prefix, names) in attributes:
            value = attributes[prefixed(prefix, names)]
            values[field.name] = _converted(field, value, since_ns)
    return values


def _read_struct(
    struct: type[_Struct], attributes: Mapping[str, Any], prefix: str, since_ns: int
) -> _Struct | None:
    """A struct; None if nothing of it is on the span."""
    values = _read(struct, attributes, prefix, since_ns)
    return struct(**values) if values else None


def _read_columns(
    struct: type[msgspec.Struct], attributes: Mapping[str, Any], prefix: str, since_ns: int
) -> tuple[msgspec.Struct, ...] | None:
    """The structs of a list, from one array for each of their fields; None if there are none."""
    columns = {
        field: attributes.get(prefixed(prefix, str(field.declared.attribute)), ())
        for field in fields_of(struct)
    }
    rows = zip(*columns.values(), strict=True)
    structs = tuple(
        struct(
            **{
                field.name: None
                if field.optional and value == unknown(field)
                else _converted(field, value, since_ns)
                for field, value in zip(columns, row, strict=True)
            }
        )
        for row in rows
    )
    return structs or None


def _converted(field: Field, value: Any, since_ns: int) -> Any:
    """The value that the setters made this one of."""
    if field.many:
        return list(value)
    if field.is_enum:
        return field.type(value)
    # Of seconds in whole numbers, as is the division in the setters: floats lose microseconds of
    # long ages.
    if field.kind == "moment":
        return datetime_from_ns(since_ns - round(Fraction(value) * 1_000_000_000))
    if field.kind == "timestamp":
        return format_timestamp(since_ns + round(Fraction(value) * 1_000_000_000))
    factor = {"ms": 1000, "%": 100}.get(field.unit)
    return value if factor is None else round(value * factor, 6)


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
    values = _read(Reroute, event.attributes or {}, "", event.timestamp)
    return Reroute(at=format_timestamp(event.timestamp), **values)
