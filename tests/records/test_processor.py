"""Lifecycle spans become records, each exactly once, whatever other processors do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider
from opentelemetry.trace import TracerProvider as AnyTracerProvider

from otel_lifecycle import (
    ConfigError,
    LifecycleSpanProcessor,
    PersistenceConfig,
    RecordAllSampler,
    RequestLifecycleTracker,
    read_records,
)
from tests.records.helpers import recorded, serve

MakeTracker = Callable[..., RequestLifecycleTracker]
MakeProcessor = Callable[..., LifecycleSpanProcessor]


class Raising(SpanProcessor):
    """Another processor, with a bug."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        raise RuntimeError("on_start")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("on_end")


class RaisingAtEnd(Raising):
    """A processor that raises at the end of spans."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        pass


def provider_of(*processors: SpanProcessor, sampler: Sampler = ALWAYS_ON) -> TracerProvider:
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "sampled out"])
def test_tracker_records_whatever_the_sampling(
    make_tracker: MakeTracker, path: Path, sampler: Sampler
) -> None:
    """A tracker's file has every request, sampled or not."""
    tracker = make_tracker(path, provider_of(sampler=sampler))
    serve(tracker, *(expected := ["a", "b"]))
    assert tracker.flush()
    assert expected == recorded(path)


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (ALWAYS_ON, ["a"]),
        (RecordAllSampler(ALWAYS_OFF), ["a"]),
        (ALWAYS_OFF, []),
    ],
    ids=["sampled", "record only", "dropped"],
)
def test_ordinary_processor(
    make_tracker: MakeTracker,
    make_processor: MakeProcessor,
    path: Path,
    sampler: Sampler,
    expected: list[str],
) -> None:
    """Added by hand, the processor gets the spans that the SDK gives it."""
    processor = make_processor(path)
    serve(make_tracker(None, provider_of(processor, sampler=sampler)), "a")
    assert processor.force_flush()
    assert expected == recorded(path)


def test_replayed_span(
    make_tracker: MakeTracker, make_processor: MakeProcessor, tmp_path: Path
) -> None:
    """A lifecycle span without its record is converted to the same record."""
    exporter = InMemorySpanExporter()
    tracker = make_tracker(
        original := tmp_path / "original.jsonl", provider_of(SimpleSpanProcessor(exporter))
    )
    serve(tracker, "a", "b")
    assert tracker.flush()
    processor = make_processor(replayed := tmp_path / "replayed.jsonl")
    for span in exporter.get_finished_spans():
        processor.on_end(span)
    assert processor.force_flush()
    assert [(r.request_id, r.trace_id, r.span_id, r.actual) for r in read_records(original)] == [
        (r.request_id, r.trace_id, r.span_id, r.actual) for r in read_records(replayed)
    ]


def test_foreign_spans(
    make_tracker: MakeTracker, make_processor: MakeProcessor, path: Path
) -> None:
    """Other spans are ignored, even inside a request and with our attribute names."""
    processor = make_processor(path)
    provider = provider_of(processor)
    tracker = make_tracker(None, provider)
    tracer = provider.get_tracer("somebody.else")
    with tracer.start_as_current_span("server", attributes={"llm_router.request.id": "foreign"}):
        serve(tracker, *(expected := ["ours"]))
        tracer.start_span("client").end()
    assert processor.force_flush()
    assert expected == recorded(path)
    assert processor.dropped == 0


@pytest.mark.parametrize("raising", [Raising, RaisingAtEnd])
@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
def test_raising_processor(
    make_tracker: MakeTracker, path: Path, raising: type[SpanProcessor], first: bool
) -> None:
    """A processor that raises, before or after ours, loses or doubles no record."""
    provider = provider_of(*[raising()][:first])
    tracker = make_tracker(path, provider)
    if not first:
        provider.add_span_processor(raising())
    serve(tracker, *(expected := ["a", "b"]))
    assert tracker.flush()
    assert expected == recorded(path)


def test_two_files(
    make_tracker: MakeTracker, make_processor: MakeProcessor, tmp_path: Path
) -> None:
    """Two processors with two files, and the tracker's own, get every record once."""
    paths = [tmp_path / f"{name}.jsonl" for name in ("one", "two", "own")]
    processors = [make_processor(path) for path in paths[:2]]
    tracker = make_tracker(paths[2], provider_of(*processors))
    serve(tracker, *(expected := ["a", "b"]))
    assert tracker.flush()
    for processor in processors:
        assert processor.force_flush()
    assert [expected] * 3 == [recorded(path) for path in paths]
    assert paths[0].read_bytes() == paths[1].read_bytes() == paths[2].read_bytes()


def test_processor_added_twice(
    make_tracker: MakeTracker, make_processor: MakeProcessor, path: Path
) -> None:
    """A processor that is added twice writes each record once."""
    processor = make_processor(path)
    serve(make_tracker(None, provider_of(processor, processor)), *(expected := ["a"]))
    assert processor.force_flush()
    assert expected == recorded(path)


def test_two_trackers_of_one_store(make_tracker: MakeTracker, path: Path) -> None:
    """Trackers that share store, file and provider write each record once."""
    provider = provider_of()
    trackers = [make_tracker(path, provider) for _ in range(2)]
    serve(trackers[0], "a")
    serve(trackers[1], "b")
    assert trackers[0].flush()
    expected = ["a", "b"]
    assert expected == recorded(path)


def test_two_stores_of_one_provider(make_tracker: MakeTracker, tmp_path: Path) -> None:
    """On one provider each store's file has the records of its own requests only."""
    provider = provider_of()
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    trackers = [make_tracker(path, provider) for path in paths]
    serve(trackers[0], "a")
    serve(trackers[1], "b")
    for tracker in trackers:
        assert tracker.flush()
    expected = [["a"], ["b"]]
    assert expected == [recorded(path) for path in paths]


def test_successor(make_tracker: MakeTracker, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A closed tracker's processor, which the provider keeps, ignores its successor's spans."""
    provider = provider_of()
    for request_id in (expected := ["a", "b", "c"]):
        tracker = make_tracker(path, provider)
        serve(tracker, request_id)
        tracker.close()
        sink = tracker.store.sink
        assert sink is not None
        assert (sink.written, sink.dropped) == (1, 0)
    assert expected == recorded(path)
    assert not caplog.messages


def test_provider_shut_down_first(make_tracker: MakeTracker, path: Path) -> None:
    """A provider's shutdown writes queued records; requests in flight are recorded later."""
    provider = provider_of()
    tracker = make_tracker(path, provider, flush_threshold=1_000)
    serve(tracker, "a")
    provider.shutdown()
    expected = ["a"]
    assert expected == recorded(path)
    serve(tracker, "b")
    tracker.close()
    expected = ["a", "b"]
    assert expected == recorded(path)


def disabled_sdk() -> AnyTracerProvider:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_SDK_DISABLED", "true")
        return TracerProvider(shutdown_on_exit=False)


@pytest.mark.parametrize("make_provider", [NoOpTracerProvider, ProxyTracerProvider, disabled_sdk])
def test_no_sdk(
    make_tracker: MakeTracker, path: Path, make_provider: Callable[[], AnyTracerProvider]
) -> None:
    """Without an SDK, or with a disabled one, there is no span but still a record."""
    tracker = make_tracker(path, make_provider())
    serve(tracker, "a", "b")
    assert tracker.flush()
    expected = [("a", None, None), ("b", None, None)]
    assert expected == [(r.request_id, r.trace_id, r.span_id) for r in read_records(path)]


def test_not_enabled() -> None:
    """A processor with persistence disabled is refused."""
    with pytest.raises(ConfigError) as refusal:
        LifecycleSpanProcessor(PersistenceConfig())
    expected = "persistence.enabled is False: there is nothing to process"
    assert expected == str(refusal.value)
