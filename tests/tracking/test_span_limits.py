"""The SDK's limits hold for lifecycle spans, with the same values as in the SDK."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span

from otel_lifecycle import RequestLifecycleTracker, TrackerConfig
from otel_lifecycle.model import semconv
from tests.routes import disaggregated, start


def served(limits: SpanLimits | None) -> ReadableSpan:
    """Return the span of one request under some limits."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(span_limits=limits)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracker = RequestLifecycleTracker(TrackerConfig(store_name="limits"), provider)
    tracker.track(start(route=disaggregated())).complete(output_tokens=128)
    tracker.close()
    (span,) = exporter.get_finished_spans()
    return span


def test_values_are_not_cleaned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without limits the SDK, which looks at each value it is given, is given none."""
    for name in ("set_attributes", "add_event"):
        monkeypatch.setattr(Span, name, lambda *_: pytest.fail("cleaned by the SDK"))
    span = served(None)

    assert (span.attributes or {})[semconv.OUTPUT_TOKENS] == 128
    assert [event.name for event in span.events] == [semconv.EVENT_COMPLETION]


def test_count_limit() -> None:
    """A limit on the number of attributes holds, and dropped ones are counted."""
    everything = len(served(None).attributes or {})
    span = served(SpanLimits(max_span_attributes=10))

    assert len(span.attributes or {}) == 10
    assert span.dropped_attributes == everything - 10


def test_length_limit() -> None:
    """A limit on the length of values holds."""
    span = served(SpanLimits(max_span_attribute_length=4))

    texts = [value for value in (span.attributes or {}).values() if isinstance(value, str)]
    assert max(map(len, texts)) == 4


def test_ended_span() -> None:
    """A span that others have ended accepts no more attributes."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracker = RequestLifecycleTracker(TrackerConfig(store_name="limits"), provider)
    with tracker.track(start()) as tracked, tracked.active():
        current = get_current_span()
        assert isinstance(current, Span)
        current.end()
        tracked.complete()
    tracker.close()

    (span,) = exporter.get_finished_spans()
    assert "llm_router.outcome" not in (span.attributes or {})


def test_event_limits() -> None:
    """Limits on the number and length of an event's attributes hold."""
    (few,) = served(SpanLimits(max_event_attributes=1)).events
    (short,) = served(SpanLimits(max_attribute_length=4)).events

    assert (len(few.attributes or {}), few.dropped_attributes) == (1, 1)
    assert (short.attributes or {})[semconv.OUTCOME] == "comp"
