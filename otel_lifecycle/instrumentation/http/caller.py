"""The span of a router that traces by itself."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext

from otel_lifecycle.telemetry.live_span import remote_context


def caller_span(
    inbound: Mapping[str, str], outbound: Mapping[str, str]
) -> AbstractContextManager[Any]:
    """Makes the span current that the router's own tracing put on a call to an engine.

    Our span then goes between the router's and the engine's, in one trace. A router that only
    passes on the trace context it got has no span of its own there, and where a span is current
    already that is the parent.

    Args:
        inbound: Headers of the client's request.
        outbound: Headers of the call.
    """
    sent = outbound.get("traceparent")
    if not sent or sent == inbound.get("traceparent"):
        return nullcontext()
    theirs = trace.get_current_span(remote_context(outbound)).get_span_context()
    return unless_current(
        SpanContext(theirs.trace_id, theirs.span_id, False, theirs.trace_flags, theirs.trace_state)
    )


def unless_current(span_context: SpanContext | None) -> AbstractContextManager[Any]:
    """Makes a span current, as far as it is one, where none is current already.

    Args:
        span_context: Of a span of this process.
    """
    if span_context is None or not span_context.is_valid:
        return nullcontext()
    if trace.get_current_span().get_span_context().is_valid:
        return nullcontext()
    return trace.use_span(NonRecordingSpan(span_context), end_on_exit=False)
