"""The live span of a request: how it starts, and what it ends with."""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import Span, SpanKind, Tracer, TracerProvider

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import sanitize
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.phases import emit_phases
from otel_lifecycle.telemetry.span_reader import resource_attributes
from otel_lifecycle.telemetry.spans import Moments, finish_span, span_name, start_attributes
from otel_lifecycle.tracking.dispatch import set_span
from otel_lifecycle.tracking.lifecycle import Lifecycle


def resource_of(provider: TracerProvider) -> dict[str, str]:
    """What a record keeps of the resource of the spans that a provider makes."""
    resource = getattr(provider, "resource", None)
    if not isinstance(resource, Resource):
        resource = Resource.create()
    return resource_attributes(resource.attributes)


class SpanProcessorError(Exception):
    """A span processor of the provider raised when a span ended."""


def start_span(
    tracer: Tracer, record: LifecycleRecord, headers: Mapping[str, str] | None, started_ns: int
) -> Span:
    """Starts the span of a request and links its record to it.

    Args:
        tracer: Makes it.
        record: What is known at dispatch.
        headers: The inbound headers: a parent, where no span is current.
        started_ns: Dispatch, Unix nanoseconds.
    """
    context: Context | None = None
    parent = trace.get_current_span().get_span_context()
    kind = SpanKind.INTERNAL
    if not parent.is_valid and headers is not None:
        state = headers.get("tracestate", "")
        if len(state) > sanitize.MAX_TRACE_STATE_LENGTH:
            headers = {**headers, "tracestate": sanitize.trace_state(state)}
        context = propagate.extract(headers)
        parent = trace.get_current_span(context).get_span_context()
    if not parent.is_valid or parent.is_remote:
        kind = SpanKind.SERVER
    span = tracer.start_span(
        span_name(record.model),
        context=context,
        kind=kind,
        attributes=start_attributes(record),
        start_time=started_ns,
    )
    set_span(record, span, parent, kind.name.lower())
    return span


def end_span(
    lifecycle: Lifecycle,
    ended_monotonic_ns: int,
    config: TrackerConfig,
    tracer: Tracer,
    *,
    again: bool = False,
) -> None:
    """Puts on the span of a finished request what its record says, and ends it.

    Args:
        lifecycle: The request, with its record complete.
        ended_monotonic_ns: Its end, on the monotonic clock.
        config: Which details there are.
        tracer: Makes the spans of its phases.
        again: Whether that was begun before, and broken off anywhere.

    Raises:
        SpanProcessorError: A processor raised; the span has ended.
    """
    span, record = lifecycle.span, lifecycle.record
    at = _moments(lifecycle, ended_monotonic_ns)
    try:
        if span.get_span_context().trace_flags.sampled:
            details = Details(config.npu_device_attributes, config.first_byte_attribute)
            finish_span(span, record, at, details, again=again)
            if config.phase_spans and not again:
                emit_phases(tracer, span, record)
    except Exception:
        _end(span, at.completed_ns)
        raise
    _end(span, at.completed_ns)


def _end(span: Span, at_ns: int | None) -> None:
    try:
        span.end(at_ns)
    except Exception as error:
        raise SpanProcessorError from error


def _moments(lifecycle: Lifecycle, ended_monotonic_ns: int) -> Moments:
    """The same that are in its record as text."""
    started_ns, first_chunk_ns = lifecycle.started_ns, lifecycle.first_chunk_ns
    return Moments(
        started_ns,
        None if first_chunk_ns is None else started_ns + first_chunk_ns,
        started_ns + max(0, ended_monotonic_ns - lifecycle.started_monotonic_ns),
    )
