"""A record as a span, and back.

Attributes and events are a function of the record. The live span gets those a sampler may want
when it starts and all others in one call when it ends, so that nothing a reroute made untrue stays
on it, a request in flight holds little memory, and an unsampled request builds none of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from otel_lifecycle.model import semconv
from otel_lifecycle.model.record import LifecycleRecord, Reroute
from otel_lifecycle.model.route import EndpointSnapshot
from otel_lifecycle.model.timestamps import parse_timestamp
from otel_lifecycle.telemetry.attributes import (
    ASSIGNMENTS,
    Attributes,
    Details,
    setter,
)
from otel_lifecycle.telemetry.setters.record import (
    NO_VIEWS,
    KeptAttributes,
    Moments,
    RecordSetters,
    set_server,
)
from otel_lifecycle.version import __version__

_NO_DETAILS = Details()
ALL_DETAILS = Details(*(True for _ in Details._fields))

_KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL}


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """What attributes and events of a span are made of.

    Those of a span whose `recorded` is one of these say what the record says, and nothing else, and
    lost nothing to a limit. An exporter need not read them then.

    Attributes:
        record: The finished request.
        at: Its moments.
        details: The optional attributes that the span has.
        views: The endpoints of its route, by role.
    """

    record: LifecycleRecord
    at: Moments
    details: Details
    views: Mapping[str, KeptAttributes] = NO_VIEWS


def moments(record: LifecycleRecord) -> Moments:
    """Those of a record that was read: the live request still has the numbers themselves."""
    first, completed = record.first_chunk_at, record.completed_at
    started_ns, received_at = parse_timestamp(record.started_at), record.received_at
    return Moments(
        started_ns if received_at is None else parse_timestamp(received_at),
        None if record.actual.queue_ms is None else started_ns,
        None if first is None else parse_timestamp(first),
        None if completed is None else parse_timestamp(completed),
    )


def span_name(model: str) -> str:
    """`route {model}`, or `route`."""
    return f"route {model}" if model else "route"


def span_kind(record: LifecycleRecord) -> SpanKind:
    """Whether the span opens the trace in this process; a parent of a server's is remote."""
    return _KINDS.get(record.span_kind or "", SpanKind.SERVER)


def start_attributes(record: LifecycleRecord) -> Attributes:
    """What a sampler sees."""
    attributes: Attributes = {}
    _set_start(attributes, record, 0, _NO_DETAILS)
    return attributes


def end_attributes(
    record: LifecycleRecord,
    at: Moments,
    details: Details = _NO_DETAILS,
    views: Mapping[str, KeptAttributes] = NO_VIEWS,
) -> Attributes:
    """All other attributes of a finished request.

    Args:
        record: The finished request.
        at: Its moments.
        details: Which optional attributes to add.
        views: The endpoints of its route, by role: they keep what other requests to them will say
            too.
    """
    attributes: Attributes = {}
    _SETTERS.put_end(attributes, record, at, details, views)
    return attributes


def span_events(record: LifecycleRecord, at: Moments) -> list[tuple[str, int, Attributes]]:
    """Name, Unix nanoseconds and attributes of each event, in order of time."""
    events: list[tuple[str, int, Attributes]] = [
        (
            semconv.EVENT_REROUTED,
            parse_timestamp(reroute.at),
            _reroute_attributes(reroute),
        )
        for reroute in record.rerouted
    ]
    if at.dispatched_ns is not None:
        events.insert(0, (semconv.EVENT_DISPATCH, at.dispatched_ns, {}))
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


def server_attributes(endpoint: EndpointSnapshot) -> Attributes:
    """Where an endpoint is, in OpenTelemetry's words."""
    attributes: Attributes = {}
    set_server(attributes, endpoint)
    return attributes


def span_from_record(
    record: LifecycleRecord,
    details: Details = ALL_DETAILS,
    *,
    resource: Mapping[str, AttributeValue] | None = None,
) -> ReadableSpan:
    """The span of a finished request, ready for any exporter.

    Args:
        record: A record with trace and span id.
        details: Which optional attributes to add.
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
    kind = span_kind(record)
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
            **end_attributes(record, at, details),
        },
        events=[
            Event(name, attributes, at_ns) for name, at_ns, attributes in span_events(record, at)
        ],
        kind=kind,
        status=Status(StatusCode.ERROR if record.error is not None else StatusCode.UNSET),
        start_time=at.begins_ns,
        end_time=at.completed_ns,
        instrumentation_scope=InstrumentationScope(semconv.SCOPE, __version__, semconv.SCHEMA_URL),
    )


def _reroute_attributes(reroute: Reroute) -> Attributes:
    attributes: Attributes = {}
    _set_reroute(attributes, reroute, 0, _NO_DETAILS)
    return attributes


_set_start = setter(LifecycleRecord, lambda field, section, _: field.declared.at_start)
_set_reroute = setter(Reroute, lambda _field, _section, _source: True)
_SETTERS = RecordSetters[Attributes](dict, ASSIGNMENTS)
