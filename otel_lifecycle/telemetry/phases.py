"""Optional child spans of a request, `prefill` and `decode`, each with the endpoint that did it.

They say nothing the lifecycle span does not say; they let a waterfall show it. Made when the
request ends, from the times of its record.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from otel_lifecycle.model import semconv
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import EndpointSnapshot
from otel_lifecycle.model.timestamps import parse_timestamp
from otel_lifecycle.telemetry.spans import server_attributes


class Phase(NamedTuple):
    """One part of a request; times are Unix nanoseconds."""

    name: str
    started_ns: int
    ended_ns: int
    attributes: dict[str, Any]


def phases(record: LifecycleRecord) -> list[Phase]:
    """The two phases of a finished stream: dispatch to first chunk, first chunk to end.

    Empty where the record cannot tell them apart: without a first chunk (not a stream, or ended
    before it), without a route, and where the router changed the route after the first chunk.
    Dispatch is the last one: what a request lost on endpoints that failed it is in neither phase.
    """
    route = record.selected_route
    if route is None or record.first_chunk_at is None or record.completed_at is None:
        return []
    dispatched_at = record.rerouted[-1].at if record.rerouted else record.started_at
    dispatched_ns = parse_timestamp(dispatched_at)
    first_chunk_ns = parse_timestamp(record.first_chunk_at)
    if dispatched_ns > first_chunk_ns:
        return []
    prefill = _attributes("prefill", route.prefill or route.leader, record)
    decode = _attributes("decode", route.decode or route.leader, record)
    if record.error is not None:
        decode[semconv.ERROR_TYPE] = record.error.type
    return [
        Phase("prefill", dispatched_ns, first_chunk_ns, prefill),
        Phase("decode", first_chunk_ns, parse_timestamp(record.completed_at), decode),
    ]


def emit_phases(tracer: Tracer, span: Span, record: LifecycleRecord) -> None:
    """Makes the phases of a finished request children of its span."""
    context = set_span_in_context(span)
    for phase in phases(record):
        child = tracer.start_span(
            phase.name,
            context,
            SpanKind.INTERNAL,
            phase.attributes,
            start_time=phase.started_ns,
        )
        if semconv.ERROR_TYPE in phase.attributes:
            child.set_status(Status(StatusCode.ERROR))
        child.end(phase.ended_ns)


def _attributes(name: str, endpoint: EndpointSnapshot, record: LifecycleRecord) -> dict[str, Any]:
    attributes = {
        semconv.PHASE: name,
        semconv.ENDPOINT_ID: endpoint.label,
        **server_attributes(endpoint),
    }
    if record.model:
        attributes[semconv.REQUEST_MODEL] = record.model
    return attributes
