"""The live span of a request: how it starts, and what it ends with."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
)

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import sanitize, semconv
from otel_lifecycle.model.endpoint_state import EndpointView
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.clean_attributes import add_clean_event, set_clean_attributes
from otel_lifecycle.telemetry.phases import emit_phases
from otel_lifecycle.telemetry.span_reader import resource_attributes
from otel_lifecycle.telemetry.spans import (
    Moments,
    end_attributes,
    span_events,
    span_name,
    start_attributes,
)
from otel_lifecycle.version import __version__


def tracer_of(provider: TracerProvider) -> Tracer:
    """What makes the package's spans."""
    return provider.get_tracer(semconv.SCOPE, __version__, semconv.SCHEMA_URL)


def resource_of(provider: TracerProvider) -> dict[str, str]:
    """What a record keeps of the resource of the spans that a provider makes."""
    resource = getattr(provider, "resource", None)
    if not isinstance(resource, Resource):
        resource = Resource.create()
    return resource_attributes(resource.attributes)


class SpanProcessorError(Exception):
    """A span processor of the provider raised when a span ended."""


def start_span(
    tracer: Tracer, record: LifecycleRecord, headers: Mapping[str, str] | None, begins_ns: int
) -> Span:
    """Starts the span of a request and links its record to it.

    Args:
        tracer: Makes it.
        record: What is known at dispatch.
        headers: The inbound headers: a parent, where no span is current.
        begins_ns: Arrival, or dispatch if that is unknown, Unix nanoseconds.
    """
    context: Context | None = None
    parent = trace.get_current_span().get_span_context()
    kind = SpanKind.INTERNAL
    if not parent.is_valid and headers is not None:
        context = remote_context(headers)
        parent = trace.get_current_span(context).get_span_context()
    if not parent.is_valid or parent.is_remote:
        kind = SpanKind.SERVER
    span = tracer.start_span(
        span_name(record.model),
        context=context,
        kind=kind,
        attributes=start_attributes(record),
        start_time=begins_ns,
    )
    _link(record, span, parent, kind.name.lower())
    return span


def rename_span(span: Span, record: LifecycleRecord) -> None:
    """Has a live span tell of another model."""
    span.update_name(span_name(record.model))
    span.set_attributes(start_attributes(record))


def remote_context(headers: Mapping[str, str]) -> Context:
    """The trace context in headers that others sent, within its bounds.

    Without the baggage: nothing here reads it, and the SDK would log what it refuses of it as it
    came, megabytes or control characters, and split it in time quadratic in its blanks. So it would
    log an invalid `tracestate`.
    """
    carrier = {name: value for name, value in headers.items() if name != "baggage"}
    if "tracestate" in carrier:
        carrier["tracestate"] = sanitize.trace_state(carrier["tracestate"])
    return propagate.extract(carrier)


def end_span(
    span: Span,
    record: LifecycleRecord,
    at: Moments,
    views: Mapping[str, EndpointView],
    config: TrackerConfig,
    tracer: Tracer,
    *,
    again: bool = False,
) -> None:
    """Puts on the span of a finished request what its record says, and ends it.

    Args:
        span: The live span.
        record: The finished request.
        at: Its moments.
        views: The endpoints of its route, by role.
        config: Which details there are.
        tracer: Makes the spans of its phases.
        again: Whether an earlier attempt was interrupted, at any point.

    Raises:
        SpanProcessorError: A processor raised; the span has ended.
    """
    try:
        if span.get_span_context().trace_flags.sampled:
            details = Details(config.npu_device_attributes, config.first_byte_attribute)
            set_clean_attributes(span, end_attributes(record, at, details, views))
            _add_events(span, record, at, again=again)
            if record.error is not None:
                span.set_status(Status(StatusCode.ERROR))
            if config.phase_spans and not again:
                emit_phases(tracer, span, record)
    except Exception:
        _end(span, at.completed_ns)
        raise
    _end(span, at.completed_ns)


def _add_events(span: Span, record: LifecycleRecord, at: Moments, *, again: bool) -> None:
    events = getattr(span, "events", ()) if again else ()
    there = {(event.name, event.timestamp) for event in events}
    for name, at_ns, attributes in span_events(record, at):
        if (name, at_ns) not in there:
            add_clean_event(span, name, attributes, at_ns)


def _end(span: Span, at_ns: int | None) -> None:
    try:
        span.end(at_ns)
    except Exception as error:
        raise SpanProcessorError from error


def _link(record: LifecycleRecord, span: Span, parent: SpanContext, kind: str) -> None:
    """Links a record to its span, as far as there is one."""
    context = span.get_span_context()
    if parent.is_valid:
        record.parent_span_id = format(parent.span_id, "016x")
    if not context.is_valid:
        return
    span_id = context.span_id
    record.trace_id = format(context.trace_id, "032x")
    record.trace_flags = int(context.trace_flags)
    if context.trace_state:
        record.trace_state = sanitize.trace_state(context.trace_state.to_header())
    # A disabled tracer hands out the parent's context instead of a span of its own.
    if span_id != parent.span_id:
        record.span_id = format(span_id, "016x")
        record.span_kind = kind
