"""The live spans of requests: how they start, and how they end."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, get_current
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, SynchronousMultiSpanProcessor
from opentelemetry.sdk.trace import Tracer as SDKTracer
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TracerProvider,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_lifecycle.model import sanitize, semconv
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.lifecycle_span import LifecycleSpan, offered
from otel_lifecycle.telemetry.phases import emit_phases
from otel_lifecycle.telemetry.sampling import KnownSampler
from otel_lifecycle.telemetry.span_reader import resource_attributes
from otel_lifecycle.telemetry.spans import span_name
from otel_lifecycle.telemetry.told import Told
from otel_lifecycle.version import __version__

_EMPTY = Context()
_RANDOM_TRACE_ID = 2
_FLAGS = tuple(map(TraceFlags, range(4)))


class _On:
    """The configuration of a tracer, where the SDK's version has none."""

    is_enabled = True


_ON = _On()


class SpanProcessorError(Exception):
    """A span processor of the provider raised when a span ended."""


class Request(Protocol):
    """A request that has a span.

    Attributes:
        told: What its span tells.
    """

    told: Told

    @property
    def model(self) -> str:
        """The model it is for, as its span names it."""
        ...

    @property
    def is_error(self) -> bool:
        """Whether it has ended with an error."""
        ...

    @property
    def ended_ns(self) -> int:
        """When it ended, Unix nanoseconds."""
        ...


class SpanMaker:
    """Makes the spans of requests with the tracer of one provider; thread-safe.

    With the SDK's own tracer they are ours (`LifecycleSpan`), else those of the provider.

    Args:
        provider: The provider.
        phases: Whether each request also has a span for its prefill and one for its decode.

    Attributes:
        resource: What a record keeps of the resource of its spans.
    """

    def __init__(self, provider: TracerProvider, phases: bool) -> None:
        self._tracer: Any = provider.get_tracer(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
        resource = getattr(provider, "resource", None)
        if not isinstance(resource, Resource):
            resource = Resource.create()
        self.resource = resource_attributes(resource.attributes)
        self._phases = phases
        self._is_ours = type(self._tracer) is SDKTracer and not _counts_spans(self._tracer)
        self._sampler = KnownSampler(ALWAYS_ON)
        self._ids: object = None
        self._random = 0
        self._processors: object = None
        self._have_early = True

    def start(
        self, request: Request, headers: Mapping[str, str] | None, begins_ns: int
    ) -> tuple[Span | None, SpanContext, SpanContext, SpanKind]:
        """Starts the span of a request.

        Args:
            request: What is known at dispatch.
            headers: The inbound headers: a parent, where no span is current.
            begins_ns: Arrival, or dispatch if that is unknown, Unix nanoseconds.

        Returns:
            The span, if it records anything, its ids, its parent, which may be invalid, and its
            kind.
        """
        context: Context | None = None
        # Most routers have none: to look for a span there costs more than to see that it is empty.
        is_alone = not get_current()
        parent = INVALID_SPAN_CONTEXT if is_alone else trace.get_current_span().get_span_context()
        if not parent.is_valid and headers is not None:
            context = _EMPTY
            if _may_have_parent(headers):
                context = remote_context(headers)
                parent = trace.get_current_span(context).get_span_context()
        is_server = not parent.is_valid or parent.is_remote
        kind = SpanKind.SERVER if is_server else SpanKind.INTERNAL
        tracer = self._tracer
        if self._is_ours and getattr(tracer, "_tracer_config", _ON).is_enabled:
            return *self._start(tracer, request, parent, context, kind, begins_ns), parent, kind
        span = tracer.start_span(
            span_name(request.model),
            context=context,
            kind=kind,
            attributes=request.told.start_attributes(),
            start_time=begins_ns,
        )
        return span, span.get_span_context(), parent, kind

    def _start(
        self,
        tracer: Any,
        request: Request,
        parent: SpanContext,
        context: Context | None,
        kind: SpanKind,
        begins_ns: int,
    ) -> tuple[LifecycleSpan | None, SpanContext]:
        """Does what the SDK's `Tracer.start_span` does."""
        ids, state, attributes = tracer.id_generator, None, None
        if parent.is_valid:
            trace_id, flags = parent.trace_id, parent.trace_flags & _RANDOM_TRACE_ID
            state = parent.trace_state
        else:
            trace_id, flags = ids.generate_trace_id(), self._random_flag(ids)
        sampler = self._sampler
        if sampler.sampler is not tracer.sampler:
            sampler = self._sampler = KnownSampler(tracer.sampler)
        if sampler.reads_attributes:
            attributes, name = request.told.start_attributes(), span_name(request.model)
            result = tracer.sampler.should_sample(context, trace_id, name, kind, attributes, ())
            decision, attributes, state = result.decision, result.attributes, result.trace_state
        else:
            decision = sampler.decide(context, trace_id, kind, parent)
        if decision is Decision.RECORD_AND_SAMPLE:
            flags |= TraceFlags.SAMPLED
        own = SpanContext(trace_id, ids.generate_span_id(), False, _FLAGS[flags], state)
        if decision is Decision.DROP:
            return None, own
        span = LifecycleSpan(
            tracer,
            request.told,
            span_name(request.model),
            own,
            parent if parent.is_valid else None,
            kind,
            begins_ns,
        )
        if sampler.reads_attributes:
            span.begin_with(attributes)
        processor = tracer.span_processor
        if self._announces(processor):
            processor.on_start(span, parent_context=context)
        return span, own

    def _random_flag(self, ids: Any) -> int:
        """The flag of random trace ids, where they are and the SDK's version knows it."""
        if ids is not self._ids:
            is_random = getattr(ids, "is_trace_id_random", None)
            self._random = _RANDOM_TRACE_ID if is_random is not None and is_random() else 0
            self._ids = ids
        return self._random

    def _announces(self, processor: Any) -> bool:
        """Whether any processor does something before a span has ended."""
        processors = getattr(processor, "_span_processors", None)
        if processors is None or processors is not self._processors:
            self._have_early = not _only_at_end(processor)
            self._processors = processors
        return self._have_early

    def rename(self, span: Span, request: Request) -> None:
        """Has a live span tell of another model."""
        if isinstance(span, LifecycleSpan):
            span.renamed(span_name(request.model))
        else:
            span.update_name(span_name(request.model))
            span.set_attributes(request.told.start_attributes())

    def end(self, span: Span, request: Request, *, again: bool = False) -> None:
        """Ends the span of a finished request.

        Args:
            span: The live span.
            request: The finished request.
            again: Whether an earlier attempt was interrupted, at any point.

        Raises:
            SpanProcessorError: A processor raised; the span has ended.
        """
        is_ours = isinstance(span, LifecycleSpan)
        if not is_ours and not span.is_recording():
            return
        try:
            if self._phases and not again and _is_sampled(span):
                emit_phases(self._tracer, span, request.told.record)
            if not is_ours:
                _tell(span, request, again=again)
        except Exception:
            self._end(span, request)
            raise
        self._end(span, request)

    def _end(self, span: Span, request: Request) -> None:
        try:
            if isinstance(span, LifecycleSpan):
                announces = self._announces(self._tracer.span_processor)
                span.finish(request.ended_ns, is_error=request.is_error, announces=announces)
            else:
                with offered(span, request.told):
                    span.end(request.ended_ns)
        except Exception as error:
            raise SpanProcessorError from error


def inject(span: Span | None, context: SpanContext, headers: MutableMapping[str, str]) -> None:
    """Adds the trace context of a request to headers; that of the caller, if it has none.

    W3C's, which is the default, is written directly.

    Args:
        span: The span of the request; None if it records nothing.
        context: The ids of the span.
        headers: Changed in place.
    """
    if not context.is_valid:
        propagate.inject(headers)
    elif _is_w3c(propagate.get_global_textmap()) and not (get_current() and baggage.get_all()):
        headers["traceparent"] = (
            f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        )
        if context.trace_state:
            headers["tracestate"] = context.trace_state.to_header()
    else:
        current = trace.set_span_in_context(span or trace.NonRecordingSpan(context))
        propagate.inject(headers, context=current)


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


def link(
    record: LifecycleRecord, context: SpanContext, parent: SpanContext, kind: SpanKind
) -> None:
    """Links a record to its span, as far as there is one."""
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
        record.span_kind = kind.name.lower()


def _is_sampled(span: Span) -> bool:
    return span.get_span_context().trace_flags.sampled


def _tell(span: Span, request: Request, *, again: bool) -> None:
    """Puts on a span of others what the record of its request says."""
    if not _is_sampled(span):
        return
    span.set_attributes(request.told.end_attributes())
    events = getattr(span, "events", ()) if again else ()
    there = {(event.name, event.timestamp) for event in events}
    for name, at_ns, attributes in request.told.events():
        if (name, at_ns) not in there:
            span.add_event(name, attributes, at_ns)
    if request.is_error:
        span.set_status(Status(StatusCode.ERROR))


def _counts_spans(tracer: Any) -> bool:
    """Whether a tracer of the SDK has metrics of its own spans, as later versions can."""
    metrics = getattr(tracer, "_tracer_metrics", None)
    return metrics is not None and type(metrics).__name__ != "NoOpTracerMetrics"


def _only_at_end(processor: Any) -> bool:
    """Whether no processor of a provider does anything before a span has ended."""
    return type(processor) is SynchronousMultiSpanProcessor and all(
        getattr(getattr(each, name, None), "__func__", None) in _NOTHING
        for each in getattr(processor, "_span_processors", (None,))
        for name in ("on_start", "_on_ending")
    )


_NOTHING = {
    getattr(kind, name, None)
    for kind in (SpanProcessor, BatchSpanProcessor, SimpleSpanProcessor)
    for name in ("on_start", "_on_ending")
}


def _may_have_parent(headers: Mapping[str, str]) -> bool:
    """Whether headers may name a parent: the default propagator reads one header alone."""
    return "traceparent" in headers or not _is_w3c(propagate.get_global_textmap())


def _is_w3c(propagator: object) -> bool:
    """Whether a propagator is the default one: trace context and baggage, both of W3C."""
    global _last_propagator
    last = _last_propagator
    if last[0] is not propagator:
        is_default = type(propagator) is CompositePropagator and [
            type(each) for each in getattr(propagator, "_propagators", ())
        ] == [TraceContextTextMapPropagator, W3CBaggagePropagator]
        last = _last_propagator = propagator, is_default
    return last[1]


_last_propagator: tuple[object, bool] = None, False
