"""The span of a request is made when it is read, and nobody can tell it from one of the SDK."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, TraceState

from otel_lifecycle import (
    LifecycleSpanProcessor,
    PersistenceConfig,
    RecordAllSampler,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    TrackedRequest,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.telemetry import told as told_module
from otel_lifecycle.telemetry.lifecycle_span import LifecycleSpan, told_by
from otel_lifecycle.telemetry.otlp.encoders import SpanEncoder
from otel_lifecycle.telemetry.otlp.span import encode_span
from otel_lifecycle.testing import ManualClock
from otel_lifecycle.tracking import lifecycle
from tests.conftest import Bench
from tests.routes import NOW_NS, aggregated, disaggregated, start

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Deed: TypeAlias = "Callable[[TrackedRequest, trace.Span, ManualClock], None]"


class Ids(IdGenerator):
    """Ids that come again in the same order."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        return next(self._numbers) << 64


class VendorTracer(trace.Tracer):
    """A tracer of somebody else, around the SDK's: its spans are the SDK's own."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._tracer.start_span(*args, **kwargs)

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.start_as_current_span(*args, **kwargs)


class VendorProvider(TracerProvider):
    """What makes them."""

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return VendorTracer(super().get_tracer(*args, **kwargs))


class Seeing(SpanProcessor):
    """Notes what a span says when it starts and when it has ended, and adds to it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        parent = trace.get_current_span(parent_context).get_span_context()
        self.seen.append(("start", span.name, dict(span.attributes or {}), parent))
        span.set_attribute("by.processor", [1, 2])

    def on_end(self, span: ReadableSpan) -> None:
        self.seen.append(("end", plain(span)))


class Choosing(Sampler):
    """Decides by the attributes, and adds one."""

    def __init__(self, decision: Decision = Decision.RECORD_AND_SAMPLE) -> None:
        self.decision = decision
        self.seen: list[Any] = []

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        self.seen.append((trace_id, name, kind, dict(attributes or {}), links))
        return SamplingResult(
            self.decision, {**(attributes or {}), "by.sampler": True}, TraceState([("s", "1")])
        )

    def get_description(self) -> str:
        return "Choosing"


def plain(span: ReadableSpan) -> dict[str, Any]:
    """All that a span says."""
    return {
        "json": span.to_json(),
        "attributes": list((span.attributes or {}).items()),
        "types": [type(value) for value in (span.attributes or {}).values()],
        "events": [
            (event.name, event.timestamp, list((event.attributes or {}).items()))
            for event in span.events
        ],
        "links": [(link.context, dict(link.attributes or {})) for link in span.links],
        "times": (span.start_time, span.end_time),
        "context": (span.context, span.parent, span.kind),
        "scope": span.instrumentation_scope,
        "resource": span.resource,
        "dropped": (span.dropped_attributes, span.dropped_events, span.dropped_links),
        "of events": [event.dropped_attributes for event in span.events],
    }


def nothing(tracked: TrackedRequest, span: trace.Span, clock: ManualClock) -> None:
    """Nobody touches it."""


def sets(tracked: TrackedRequest, span: trace.Span, clock: ManualClock) -> None:
    """Attributes, of ours too, which our own win."""
    span.set_attribute("mine", "a text of some length")
    span.set_attributes({"mine.too": [1, 2], "llm_router.outcome": "lie"})


def adds(tracked: TrackedRequest, span: trace.Span, clock: ManualClock) -> None:
    """Events, an exception and a link."""
    span.add_event("mine", {"a": 1, "b": "a text of some length"}, NOW_NS + 5)
    span.record_exception(ValueError("text"), timestamp=NOW_NS + 6)
    span.add_link(trace.SpanContext(1, 2, is_remote=True), {"a": 1})


def renames(tracked: TrackedRequest, span: trace.Span, clock: ManualClock) -> None:
    """Its name and its status."""
    span.update_name("another")
    span.set_status(Status(StatusCode.OK))


def describes(tracked: TrackedRequest, span: trace.Span, clock: ManualClock) -> None:
    """The router learns of the model late."""
    span.set_attribute("mine", 1)
    tracked.describe(RequestStart("request-1", aggregated(), "another model", streaming=True))


def reroutes(tracked: TrackedRequest, span: trace.Span, clock: ManualClock) -> None:
    """The request goes somewhere else."""
    clock.advance(3)
    tracked.reroute(aggregated("qwen-1"), reason="connect_error")


def arrives(tracked: TrackedRequest, span: trace.Span, clock: ManualClock) -> None:
    """The first call to the engine is made some time after the request came."""
    clock.advance(20)
    tracked.dispatched_at(clock.monotonic_ns())


def ends(tracked: TrackedRequest, span: trace.Span, clock: ManualClock) -> None:
    """Somebody ends it before its request has ended."""
    span.end(NOW_NS + 7)
    span.set_attribute("too.late", True)


def served(
    provider_type: Callable[..., TracerProvider],
    deed: Deed,
    *,
    sampler: Sampler = ALWAYS_ON,
    limits: SpanLimits | None = None,
    processors: Sequence[SpanProcessor] = (),
    headers: Mapping[str, str] | None = None,
    fails: bool = False,
) -> tuple[list[Any], dict[str, str]]:
    """What the spans of one request say, and what its engine gets."""
    clock = ManualClock(NOW_NS)
    exporter = InMemorySpanExporter()
    provider = provider_type(sampler, span_limits=limits, id_generator=Ids())
    for processor in (*processors, SimpleSpanProcessor(exporter)):
        provider.add_span_processor(processor)
    tracker = RequestLifecycleTracker(TrackerConfig(store_name="span"), provider, clock=clock)
    arrived_ns = clock.monotonic_ns() - 7_000_000 if deed is arrives else None
    tracked = tracker.track(start(route=disaggregated()), headers, arrived_ns=arrived_ns)
    with tracked.active():
        deed(tracked, trace.get_current_span(), clock)
    sent: dict[str, str] = {}
    tracked.inject(sent)
    clock.advance(250)
    tracked.chunk()
    clock.advance(1_000)
    if fails:
        tracked.fail("http_500")
    else:
        tracked.complete(output_tokens=128, cached_tokens=200)
    tracker.close()
    return [plain(span) for span in exporter.get_finished_spans()], sent


@pytest.mark.parametrize(
    "limits",
    [
        None,
        SpanLimits(max_span_attributes=20),
        SpanLimits(max_span_attribute_length=8),
        SpanLimits(max_attribute_length=4),
        SpanLimits(max_events=1, max_event_attributes=1, max_link_attributes=0),
        SpanLimits(max_attributes=0, max_events=0, max_links=0),
        SpanLimits(max_attributes=SpanLimits.UNSET, max_events=SpanLimits.UNSET),
    ],
    ids=["none", "20 attributes", "8 characters", "4 everywhere", "events", "zero", "unset"],
)
@pytest.mark.parametrize("deed", [nothing, sets, adds, renames, describes, reroutes, arrives, ends])
def test_the_same_as_the_sdk_s(deed: Deed, limits: SpanLimits | None) -> None:
    """Whatever others do to it and whatever the limits are, it says what a span of the SDK says."""
    own = served(TracerProvider, deed, limits=limits)
    of_the_sdk = served(VendorProvider, deed, limits=limits)

    assert own == of_the_sdk
    assert len(own[0]) == 1


@pytest.mark.parametrize("headers", [None, {"traceparent": TRACEPARENT, "tracestate": "v=1"}])
@pytest.mark.parametrize(
    "sampler",
    [
        ALWAYS_OFF,
        ParentBased(ALWAYS_OFF),
        ParentBased(TraceIdRatioBased(0.5)),
        RecordAllSampler(ALWAYS_OFF),
        RecordAllSampler(ParentBased(ALWAYS_ON)),
        Choosing(),
        Choosing(Decision.RECORD_ONLY),
        Choosing(Decision.DROP),
        ParentBased(Choosing(), remote_parent_sampled=Choosing()),
    ],
    ids=lambda sampler: sampler.get_description().partition("{")[0],
)
@pytest.mark.parametrize("deed", [nothing, sets])
def test_samplers(deed: Deed, sampler: Sampler, headers: Mapping[str, str] | None) -> None:
    """A sampler is shown the same, and what it decides and adds is there."""
    seeing, seeing_too = Seeing(), Seeing()
    getattr(sampler, "seen", []).clear()
    own = served(
        TracerProvider, deed, sampler=sampler, headers=headers, processors=[seeing], fails=True
    )
    shown = getattr(sampler, "seen", [])[:]
    of_the_sdk = served(
        VendorProvider, deed, sampler=sampler, headers=headers, processors=[seeing_too], fails=True
    )

    assert own == of_the_sdk
    assert seeing.seen == seeing_too.seen
    assert getattr(sampler, "seen", []) == shown * 2


def test_nothing_is_made_until_it_is_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router waits for no record and no attribute, once a batch of spans is on its way."""
    made: list[str] = []

    for module, name in (
        (lifecycle, "whole_record"),
        (told_module, "start_attributes"),
        (told_module, "end_attributes"),
        (told_module, "span_events"),
    ):
        original = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *args, original=original, name=name: (
                made.append(f"{name} {threading.current_thread().name}") or original(*args)
            ),
        )
    tracked = bench.tracker.track(start())
    tracked.chunk()
    tracked.complete()
    here = threading.current_thread().name
    assert [entry for entry in made if entry.endswith(here)] == []

    (span,) = bench.telemetry.spans
    assert span.attributes is not None
    assert sorted({entry.partition(" ")[0] for entry in made}) == [
        "end_attributes",
        "start_attributes",
        "whole_record",
    ]


def test_processors_that_come_later(bench: Bench) -> None:
    """One added while a request is in flight sees its end, and the start of the next."""
    first = bench.tracker.track(start("1"))
    seeing = Seeing()
    bench.telemetry.tracer_provider.add_span_processor(seeing)
    first.complete()
    bench.tracker.track(start("2")).complete()

    assert [seen[0] for seen in seeing.seen] == ["end", "start", "end"]
    assert [(span.attributes or {}).get("by.processor") for span in bench.telemetry.spans] == [
        None,
        (1, 2),
    ]


def test_record_of_a_span(bench: Bench) -> None:
    """An exporter may ask for the record instead of reading attributes, on any thread."""
    bench.tracker.track(start()).complete(output_tokens=3)
    bench.telemetry.tracer_provider.get_tracer("other").start_span("other").end()

    (span,) = bench.telemetry.spans
    told = told_by(span)
    assert told is not None
    assert isinstance(span, LifecycleSpan)
    assert [told.record] == bench.records


def test_read_by_many_threads_at_once(bench: Bench) -> None:
    """All see the same, whoever makes it."""
    for number in range(20):
        bench.tracker.track(start(f"request-{number}", disaggregated())).complete()
    seen: list[Any] = []
    gate = threading.Barrier(4)

    def read() -> None:
        gate.wait()
        seen.append([plain(span) for span in bench.telemetry.spans])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(seen) == 4
    assert seen[1:] == seen[:-1]
    assert len(bench.records) == 20


def test_what_cannot_be_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug of ours costs a span what it says, but not the exporter its other spans."""
    monkeypatch.setattr("otel_lifecycle.telemetry.told.end_attributes", None)
    exported: list[Any] = []

    class Reading(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            exported.extend(dict(span.attributes or {}) for span in spans)
            return SpanExportResult.SUCCESS

    bench.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(Reading()))
    bench.tracker.track(start()).complete()

    (attributes,) = exported
    assert attributes["llm_router.request.id"] == "request-1"
    assert "llm_router.outcome" not in attributes
    assert bench.tracker.store.ignored == {"hook_error": 1}
    assert len(bench.records) == 1


def test_candidates_that_change(bench: Bench) -> None:
    """What the router does to its list after the dispatch is not in the record."""
    candidates: list[object] = ["a", "b", "c"]
    tracked = bench.tracker.track(RequestStart("request-1", aggregated(), candidates=candidates))
    candidates.clear()
    tracked.complete()

    assert [record.candidates for record in bench.records] == [3]


def test_few_objects_in_flight(bench: Bench) -> None:
    """The collector has few objects to visit for a request in flight: 30 were too many."""

    def objects() -> int:
        gc.collect()
        return len(gc.get_objects())

    route = disaggregated()
    starts = [start(f"request-{number}", route) for number in range(110)]
    held = [bench.tracker.track(each) for each in starts[:10]]
    before = objects()
    held += [bench.tracker.track(each) for each in starts[10:]]
    more = (objects() - before) / 100
    for tracked in held:
        tracked.complete()

    assert more < 13


@pytest.mark.parametrize("limits", [None, SpanLimits(max_span_attributes=20)], ids=["none", "20"])
@pytest.mark.parametrize("deed", [nothing, sets, adds, renames, reroutes, arrives])
def test_exported_from_its_record(
    deed: Deed, limits: SpanLimits | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message made of the record is that of the span; others' part in it is never lost."""
    exported: list[tuple[bool, bytes, bytes]] = []

    class Encoding(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for span in spans:
                _, _, message = SpanEncoder().encode(span)
                is_short = getattr(span, "recorded", None) is not None
                exported.append((is_short, message, encode_span(span)))
            return SpanExportResult.SUCCESS

    served(TracerProvider, deed, limits=limits, processors=[SimpleSpanProcessor(Encoding())])

    ((is_short, message, expected),) = exported
    assert message == expected
    assert is_short is (deed in (nothing, renames, reroutes, arrives) and limits is None)


@pytest.mark.parametrize("details", [{}, {"npu_device_attributes": True}], ids=["usual", "chips"])
@pytest.mark.parametrize("route", [aggregated(), disaggregated()], ids=["one", "pair"])
def test_exported_from_its_record_up_to_the_limit(route: Route, details: dict[str, Any]) -> None:
    """A span with as many attributes as the limit allows is exported from its record."""

    def ended(most: int | None) -> ReadableSpan:
        exporter = InMemorySpanExporter()
        provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=most))
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        tracker = RequestLifecycleTracker(TrackerConfig(store_name="span", **details), provider)
        tracked = tracker.track(start(route=route))
        tracked.reroute(route, reason="connect_error")
        tracked.complete(output_tokens=128)
        tracker.close()
        return exporter.get_finished_spans()[0]

    number = len(ended(None).attributes or {})
    whole, cut = ended(number), ended(number - 1)

    assert isinstance(whole, LifecycleSpan)
    assert isinstance(cut, LifecycleSpan)
    assert (whole.recorded is not None, whole.dropped_attributes) == (True, 0)
    assert (cut.recorded, cut.dropped_attributes) == (None, 1)


def test_changed_by_a_processor(bench: Bench) -> None:
    """What a processor puts in the place of the attributes of an ended span is exported."""
    exported: list[ReadableSpan] = []

    class Redacting(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            attributes = dict(span.attributes or {})
            attributes["gen_ai.request.model"] = "redacted"
            span._attributes = attributes
            exported.append(span)

    bench.telemetry.tracer_provider.add_span_processor(Redacting())
    bench.tracker.track(start()).complete()

    (span,) = exported
    assert (span.attributes or {})["gen_ai.request.model"] == "redacted"
    assert b"redacted" in b"".join(SpanEncoder().encode(span))


@pytest.mark.parametrize("sampler", [ALWAYS_ON, RecordAllSampler(ALWAYS_OFF)], ids=["on", "off"])
def test_processor_of_a_vendor_s_provider(tmp_path: Path, sampler: Sampler) -> None:
    """Spans of a vendor's own making come with their record too, sampled or not."""
    path = tmp_path / "records.jsonl"
    provider = VendorProvider(sampler)
    processor = LifecycleSpanProcessor(PersistenceConfig(enabled=True, output_path=str(path)))
    provider.add_span_processor(processor)
    tracker = RequestLifecycleTracker(TrackerConfig(store_name="vendor"), provider)
    tracker.track(start()).complete(output_tokens=8)
    tracker.close()
    processor.shutdown()

    assert [record.output_length for record in read_records(path)] == [8]


def test_sdk_that_counts_its_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the SDK has metrics of its own spans, which it counts itself, the spans are its own."""
    expected, _ = served(TracerProvider, nothing)
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    reader = InMemoryMetricReader()
    metrics = MeterProvider([reader])
    counting = partial(TracerProvider, meter_provider=metrics)
    try:
        spans, _ = served(counting, nothing)
    except TypeError:
        pytest.skip("this version of the SDK has no such metrics")
    data = reader.get_metrics_data()
    metrics.shutdown()

    assert spans == expected
    assert data is not None
    names = {metric.name for metric in data.resource_metrics[0].scope_metrics[0].metrics}
    assert "otel.sdk.span.started" in names
