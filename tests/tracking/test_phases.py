"""The optional `prefill` and `decode` spans below a request's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from otel_lifecycle import LifecycleSpanProcessor, PersistenceConfig, Route, read_records
from otel_lifecycle.telemetry.phases import phases
from otel_lifecycle.telemetry.spans import span_from_record
from otel_lifecycle.testing import span_as_dict
from tests.conftest import Bench, moments
from tests.routes import aggregated, disaggregated, start
from tests.tracking.expected import answer
from tests.tracking.test_round_trip import comparable


@pytest.fixture
def phase_bench(make_bench: Callable[..., Bench]) -> Callable[..., tuple[Bench, Exported]]:
    """Make benches with phase spans, and a way to read all exported spans."""

    def make(sampler: Sampler = ALWAYS_ON, **settings: Any) -> tuple[Bench, Exported]:
        bench = make_bench(sampler, **{"phase_spans": True, **settings})
        exporter = InMemorySpanExporter()
        bench.telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(exporter))
        return bench, exporter.get_finished_spans

    return make


Exported = Callable[[], tuple[ReadableSpan, ...]]


def phase(name: str, pod: str, **more: str) -> dict[str, Any]:
    """A phase span on one endpoint."""
    return {
        "name": name,
        "kind": "INTERNAL",
        "status": "ERROR" if more else "UNSET",
        "attributes": {
            "llm_router.phase": name,
            "llm_router.endpoint.id": f"pod://llm/{pod}",
            "server.address": f"{pod}.local",
            "server.port": 8000,
            "k8s.namespace.name": "llm",
            "k8s.pod.name": pod,
            "gen_ai.request.model": "Qwen/Qwen3-8B",
            **more,
        },
        "events": [],
    }


def test_both_endpoints(phase_bench: Callable[..., tuple[Bench, Exported]]) -> None:
    """Prefill is dispatch to first chunk, decode first chunk to end, each on its endpoint."""
    bench, exported = phase_bench()
    answer(bench, bench.tracker.track(start(route=disaggregated())))

    prefill, decode, request = exported()
    assert [phase("prefill", "prefill-0"), phase("decode", "decode-0")] == [
        span_as_dict(prefill),
        span_as_dict(decode),
    ]
    assert [moments(span) for span in exported()] == [[0, 250], [250, 2790], [0, 250, 2790, 2790]]
    assert request.context is not None
    assert [(request.context.trace_id, request.context.span_id)] * 2 == [
        (span.parent.trace_id, span.parent.span_id)
        for span in (prefill, decode)
        if span.parent is not None
    ]


def test_one_endpoint(phase_bench: Callable[..., tuple[Bench, Exported]]) -> None:
    """An aggregated request has both phases on the same endpoint."""
    bench, exported = phase_bench()
    tracked = bench.tracker.track(start())
    tracked.chunk()
    tracked.complete()

    assert [phase("prefill", "qwen-0"), phase("decode", "qwen-0")] == [
        span_as_dict(span) for span in exported()[:-1]
    ]


def test_error_while_decoding(phase_bench: Callable[..., tuple[Bench, Exported]]) -> None:
    """A stream that fails after its first chunk failed while decoding."""
    bench, exported = phase_bench()
    tracked = bench.tracker.track(start(route=disaggregated()))
    tracked.chunk()
    tracked.fail("stream_truncated")

    assert [
        phase("prefill", "prefill-0"),
        phase("decode", "decode-0", **{"error.type": "stream_truncated"}),
    ] == [span_as_dict(span) for span in exported()[:-1]]


def test_after_a_reroute(phase_bench: Callable[..., tuple[Bench, Exported]]) -> None:
    """Prefill starts at the dispatch whose answer had the first chunk."""
    bench, exported = phase_bench()
    tracked = bench.tracker.track(start(route=aggregated("qwen-0")))
    bench.clock.advance(100)
    tracked.reroute(Route(aggregated("qwen-1").leader), reason="connect_error")
    answer(bench, tracked)

    prefill = exported()[0]
    assert (span_as_dict(prefill), moments(prefill)) == (phase("prefill", "qwen-1"), [100, 350])


def test_rerouted_after_the_first_chunk(
    phase_bench: Callable[..., tuple[Bench, Exported]],
) -> None:
    """A request rerouted after its first chunk has no phases: their endpoints are unknown."""
    bench, exported = phase_bench()
    tracked = bench.tracker.track(start(route=aggregated("qwen-0")))
    tracked.chunk()
    bench.clock.advance(1)
    tracked.reroute(Route(aggregated("qwen-1").leader), reason="connect_error")
    tracked.complete()

    assert [span.name for span in exported()] == ["route Qwen/Qwen3-8B"]


def test_no_first_chunk(phase_bench: Callable[..., tuple[Bench, Exported]]) -> None:
    """Without a first chunk the end of prefill is unknown: there are no phases."""
    bench, exported = phase_bench()
    bench.tracker.track(start(route=disaggregated())).complete(output_tokens=128)

    assert [span.name for span in exported()] == ["route Qwen/Qwen3-8B"]


def test_record_without_an_end(bench: Bench) -> None:
    """A foreign record without an end has no phases."""
    answer(bench, bench.tracker.track(start()))
    (record,) = bench.records
    assert [phase.name for phase in phases(record)] == ["prefill", "decode"]

    record.completed_at = None

    assert phases(record) == []


@pytest.mark.parametrize(
    ("sampler", "settings", "names"),
    [(ALWAYS_OFF, {}, []), (ALWAYS_ON, {"phase_spans": False}, ["route Qwen/Qwen3-8B"])],
    ids=["unsampled", "off"],
)
def test_only_when_wanted(
    phase_bench: Callable[..., tuple[Bench, Exported]],
    sampler: Sampler,
    settings: dict[str, Any],
    names: list[str],
) -> None:
    """Unsampled requests have no phases; nor has any request by default."""
    bench, exported = phase_bench(sampler, **settings)
    tracked = bench.tracker.track(start(route=disaggregated()))
    tracked.chunk()
    tracked.complete()

    assert names == [span.name for span in exported()]
    assert len(bench.records) == 1


def test_record_round_trip(
    phase_bench: Callable[..., tuple[Bench, Exported]], tmp_path: Any
) -> None:
    """Phases are not requests: a processor writes one record, which gives the same span."""
    bench, exported = phase_bench(npu_device_attributes=True)
    path = tmp_path / "by-hand.jsonl"
    by_hand = LifecycleSpanProcessor(PersistenceConfig(enabled=True, output_path=str(path)))
    bench.telemetry.tracer_provider.add_span_processor(by_hand)
    tracked = bench.tracker.track(start(route=disaggregated()))
    tracked.chunk()
    tracked.complete(output_tokens=128)
    by_hand.shutdown()

    (record,) = bench.records
    (request,) = bench.telemetry.spans
    assert ([record], 0) == (list(read_records(path)), by_hand.dropped)
    assert comparable(request) == comparable(span_from_record(record))
    assert len(exported()) == 3


class RefusesPhases(SpanProcessor):
    """Another processor that raises for phases."""

    def on_start(self, span: Span, parent_context: Any = None) -> None:
        if span.name == "prefill":
            raise ValueError("no phases")


def test_a_processor_that_raises(phase_bench: Callable[..., tuple[Bench, Exported]]) -> None:
    """A phase that cannot be created affects neither the request's span nor its record."""
    bench, exported = phase_bench()
    bench.telemetry.tracer_provider.add_span_processor(RefusesPhases())
    tracked = bench.tracker.track(start(route=disaggregated()))
    tracked.chunk()
    tracked.complete()

    assert (
        [span.name for span in exported() if span.name not in ("prefill", "decode")],
        len(bench.records),
    ) == (["route Qwen/Qwen3-8B"], 1)
