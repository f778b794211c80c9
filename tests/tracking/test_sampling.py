"""The file has every request, exporters only the sampled ones, and no one else is affected."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)

from otel_lifecycle import (
    LifecycleSpanProcessor,
    PersistenceConfig,
    RecordAllSampler,
    RequestLifecycleTracker,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.testing import InMemoryTelemetry
from tests.conftest import Bench
from tests.routes import start


class Seen(SpanProcessor):
    """Remembers every ended span, sampled or not."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def test_head_sampling(make_bench: Callable[..., Bench]) -> None:
    """With a ratio sampler the exported spans are exactly the sampled records."""
    bench = make_bench(ParentBased(TraceIdRatioBased(0.3)))
    for number in range(200):
        bench.tracker.track(start(f"request-{number}")).complete()

    records = bench.records
    sampled = {
        record.span_id for record in records if record.trace_flags and record.trace_flags & 1
    }
    exported = {
        format(span.context.span_id, "016x") for span in bench.telemetry.spans if span.context
    }
    assert len(records) == 200
    assert exported == sampled
    assert 0 < len(sampled) < 200


def test_unsampled(make_bench: Callable[..., Bench]) -> None:
    """An unsampled request is in the file, with the ids sent to the engine, but has no span."""
    bench = make_bench(ALWAYS_OFF)
    seen = Seen()
    bench.telemetry.tracer_provider.add_span_processor(seen)
    tracked = bench.tracker.track(start())
    headers: dict[str, str] = {}
    tracked.inject(headers)
    tracked.complete()

    (record,) = bench.records
    assert seen.spans == []
    assert headers == {
        "traceparent": f"00-{record.trace_id}-{record.span_id}-{record.trace_flags:02x}"
    }
    assert not (record.trace_flags or 0) & 1


@pytest.mark.parametrize("sampler", [ALWAYS_OFF, ALWAYS_ON], ids=["off", "on"])
def test_trace_state(make_bench: Callable[..., Bench], sampler: Sampler) -> None:
    """Vendors' trace state is passed on to the engine, whatever is sampled."""
    bench = make_bench(RecordAllSampler(ParentBased(sampler)))
    parent = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "tracestate": "vendor=value",
    }
    headers: dict[str, str] = {}
    tracked = bench.tracker.track(start(), parent)
    tracked.inject(headers)
    tracked.complete()

    assert headers["tracestate"] == "vendor=value"
    assert [record.trace_state for record in bench.records] == ["vendor=value"]


def test_by_hand(tmp_path) -> None:
    """Sampler and processor can be added to a provider by hand, without a tracker's settings."""
    path = tmp_path / "records.jsonl"
    telemetry = InMemoryTelemetry(RecordAllSampler(ALWAYS_OFF))
    config = PersistenceConfig(enabled=True, output_path=str(path))
    telemetry.tracer_provider.add_span_processor(LifecycleSpanProcessor(config))
    tracker = RequestLifecycleTracker(
        TrackerConfig(store_name="by-hand"), telemetry.tracer_provider, telemetry.meter_provider
    )
    tracker.track(start()).complete(output_tokens=128)
    other = telemetry.tracer_provider.get_tracer("somebody").start_span("POST")
    other.end()
    tracker.close()
    telemetry.shutdown()

    (record,) = read_records(path)
    assert (record.request_id, record.output_length, telemetry.spans) == ("request-1", 128, [])
    assert not other.is_recording()


def test_description() -> None:
    """The sampler's description names the wrapped sampler."""
    assert RecordAllSampler(ALWAYS_OFF).get_description() == "RecordAllSampler{AlwaysOffSampler}"
