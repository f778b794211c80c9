"""The parent of a request's span, and its children."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    TextMapPropagator,
    default_getter,
    default_setter,
)
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_lifecycle import RequestLifecycleTracker, TrackerConfig, read_records
from tests.conftest import Bench
from tests.matchers import SAMPLED, SAMPLED_OUT
from tests.records.helpers import run_script
from tests.routes import start

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_root(bench: Bench) -> None:
    """Without any context the span starts a trace, as a server span."""
    bench.tracker.track(start(), headers={}).complete()

    (span,) = bench.telemetry.spans
    assert (span.parent, span.kind) == (None, SpanKind.SERVER)


def test_inbound_headers(bench: Bench) -> None:
    """Without a current span the trace context of the inbound headers is the parent."""
    headers = {"traceparent": TRACEPARENT, "tracestate": "vendor=value"}
    bench.tracker.track(start(), headers=headers).complete()

    (span,) = bench.telemetry.spans
    assert span.context is not None
    assert span.parent is not None
    assert (span.kind, format(span.parent.span_id, "016x")) == (
        SpanKind.SERVER,
        "b7ad6b7169203331",
    )
    (record,) = bench.records
    assert (record.trace_id, record.parent_span_id, record.span_kind, record.trace_state) == (
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
        "server",
        "vendor=value",
    )


def test_rejected(bench: Bench) -> None:
    """A rejected request is a child of its client's span too."""
    bench.tracker.reject(start(), "no_candidates", {"traceparent": TRACEPARENT})

    assert [(record.trace_id, record.parent_span_id) for record in bench.records] == [
        ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    ]


def test_malformed_headers(bench: Bench) -> None:
    """With an invalid trace context the span is a root."""
    bench.tracker.track(start(), headers={"traceparent": "\ud800 nonsense"}).complete()

    assert bench.records[0].parent_span_id is None


def test_current_span(bench: Bench) -> None:
    """Under another server span ours is internal, whatever the headers contain."""
    tracer = bench.telemetry.tracer_provider.get_tracer("server")
    with tracer.start_as_current_span("POST /v1/chat/completions", kind=SpanKind.SERVER) as server:
        bench.tracker.track(start(), headers={"traceparent": TRACEPARENT}).complete()

    (span,) = bench.telemetry.spans
    assert span.parent is not None
    assert (span.kind, span.parent.span_id) == (
        SpanKind.INTERNAL,
        server.get_span_context().span_id,
    )


def test_inject(bench: Bench) -> None:
    """The engine's parent is our span."""
    with bench.tracker.track(start()) as tracked:
        headers: dict[str, str] = {}
        tracked.inject(headers)
        tracked.complete()

    (record,) = bench.records
    assert headers == {"traceparent": f"00-{record.trace_id}-{record.span_id}-{SAMPLED:02x}"}


def test_inject_unsampled(make_bench: Callable[..., Bench]) -> None:
    """The engine is told that the trace is not sampled."""
    bench = make_bench(ALWAYS_OFF)
    headers: dict[str, str] = {}
    tracked = bench.tracker.track(start())
    tracked.inject(headers)
    tracked.complete()

    (record,) = bench.records
    assert headers == {"traceparent": f"00-{record.trace_id}-{record.span_id}-{SAMPLED_OUT:02x}"}


def test_active(bench: Bench) -> None:
    """The span is current only within `active`; spans made there are its children."""
    tracer = bench.telemetry.tracer_provider.get_tracer("client")
    with bench.tracker.track(start()) as tracked:
        assert not trace.get_current_span().get_span_context().is_valid
        with tracked.active(), tracer.start_as_current_span("POST") as child:
            pass
        assert not trace.get_current_span().get_span_context().is_valid
        tracked.complete()

    assert format(child.parent.span_id, "016x") == bench.records[0].span_id  # type: ignore[attr-defined]


def test_exception_within_active(bench: Bench) -> None:
    """An exception that leaves `active` neither ends the span nor puts its text on it."""
    with bench.tracker.track(start()) as tracked:
        try:
            with tracked.active():
                raise ValueError("secret")
        except ValueError:
            pass
        assert tracked.is_tracked
        tracked.complete()

    (span,) = bench.spans
    assert (span["status"], [name for name, _ in span["events"]]) == (
        "UNSET",
        ["llm_router.completion"],
    )


def test_no_sdk() -> None:
    """Without an SDK nothing is exported, and nothing changes for the router."""
    tracker = RequestLifecycleTracker(
        TrackerConfig(store_name="no-sdk"), trace.NoOpTracerProvider()
    )
    parent = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(parent)), tracker.track(start()) as tracked:
        headers: dict[str, str] = {}
        tracked.inject(headers)
        tracked.chunk()
        tracked.complete()

    assert headers == {"traceparent": f"00-{1:032x}-{2:016x}-01"}
    assert tracker.store.active_requests == 0
    tracker.close()


class Unstartable(SpanProcessor):
    """Another processor that is broken."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        raise RuntimeError("broken")


def test_active_without_a_span(bench: Bench) -> None:
    """A span that could not start does not hide the current span."""
    router = TracerProvider(shutdown_on_exit=False).get_tracer("router")
    bench.telemetry.tracer_provider.add_span_processor(Unstartable())
    with router.start_as_current_span("server") as server:
        tracked = bench.tracker.track(start())
        with tracked.active():
            assert trace.get_current_span() is server
        tracked.complete()

    assert len(bench.records) == 1


def test_fork_with_telemetry_in_memory(tmp_path: Path) -> None:
    """A child forked after the providers were made works; it never waits in the SDK."""
    script = """
import os
import signal
from otel_lifecycle.testing import InMemoryTelemetry

telemetry = InMemoryTelemetry()
import concurrent.futures.thread

pid = os.fork()
if pid == 0:
    os._exit(0)
signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
signal.alarm(60)
assert os.waitpid(pid, 0)[1] == 0
"""
    process = run_script(script, tmp_path)

    assert process.returncode == 0, process.stderr


def test_providers_set_later(tmp_path: Path) -> None:
    """A tracker made before the global providers uses them, as does one made afterwards."""
    script = """
import sys
from opentelemetry import metrics, trace
from otel_lifecycle import PersistenceConfig, RequestLifecycleTracker, Route, TrackerConfig
from otel_lifecycle.testing import InMemoryTelemetry
from tests.routes import bare, start

persistence = PersistenceConfig(enabled=True, output_path=sys.argv[1])
early = RequestLifecycleTracker(TrackerConfig(store_name="early", persistence=persistence))
telemetry = InMemoryTelemetry(resource={"service.name": "router"})
trace.set_tracer_provider(telemetry.tracer_provider)
metrics.set_meter_provider(telemetry.meter_provider)
late = RequestLifecycleTracker(TrackerConfig(store_name="late"))
handles = [early.track(start("1", Route(bare("a")))), late.track(start("2", Route(bare("b"))))]
inflight = telemetry.metrics()["llm_router.inflight.requests"]
assert {value for key in inflight for _, value in key} == {"pod://llm/a", "pod://llm/b"}, inflight
for tracked in handles:
    tracked.complete()
assert len(telemetry.spans) == 2
assert sum(telemetry.metrics()["llm_router.requests"].values()) == 2
"""
    process = run_script(script, tmp_path / "records.jsonl")

    assert process.returncode == 0, process.stderr
    (record,) = read_records(tmp_path / "records.jsonl")
    assert record.resource == {"service.name": "router"}


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a=1,b=2", "a=1,b=2"),
        # Members of more than 128 characters go first, then the last ones.
        (f"a=1,b={'x' * 250},c={'x' * 240},d={'x' * 120}", f"a=1,d={'x' * 120}"),
        (
            ",".join(f"m{n}={'x' * 60}" for n in range(20)),
            ",".join(f"m{n}={'x' * 60}" for n in range(8)),
        ),
        (",".join(f"m{n}=x" for n in range(32)), ",".join(f"m{n}=x" for n in range(32))),
    ],
    ids=["short", "long members", "many", "most"],
)
def test_trace_state_is_bounded(bench: Bench, given: str, kept: str) -> None:
    """A client's `tracestate` is kept and passed on within W3C's limits."""
    sent: dict[str, str] = {}
    with bench.tracker.track(
        start(), headers={"traceparent": TRACEPARENT, "tracestate": given}
    ) as tracked:
        tracked.inject(sent)
        tracked.complete()

    assert bench.records[0].trace_state == kept
    assert sent["tracestate"] == kept


@pytest.mark.parametrize(
    "hostile",
    [
        {"baggage": "key=" + "x" * 10_000},
        {"baggage": "\x9b31m"},
        {"baggage": ",".join(["="] * 200)},
        {"tracestate": "vendor=\x9b31m"},
        {"tracestate": "a=1,A=2"},
        {"tracestate": ",".join(f"m{n}=x" for n in range(40))},
    ],
    ids=["long", "control", "many", "control in state", "invalid member", "too many members"],
)
def test_headers_that_the_sdk_would_log(
    bench: Bench, caplog: pytest.LogCaptureFixture, hostile: dict[str, str]
) -> None:
    """A client's headers never cause a log line; its span is still the parent."""
    headers = {"traceparent": TRACEPARENT, **hostile}
    with bench.tracker.track(start(), headers=headers) as tracked:
        tracked.complete()

    assert caplog.records == []
    assert bench.records[0].parent_span_id == TRACEPARENT.split("-")[2]


class Marking(TextMapPropagator):
    """A propagator of somebody else, with a header of its own."""

    def extract(
        self, carrier: Any, context: Context | None = None, getter: Any = default_getter
    ) -> Context:
        return context or Context()

    def inject(
        self, carrier: Any, context: Context | None = None, setter: Any = default_setter
    ) -> None:
        span = trace.get_current_span(context)
        setter.set(carrier, "x-mark", format(span.get_span_context().span_id, "016x"))

    @property
    def fields(self) -> set[str]:
        return {"x-mark"}


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF], ids=["sampled", "unsampled"])
@pytest.mark.parametrize(
    "propagator",
    [
        Marking(),
        CompositePropagator([TraceContextTextMapPropagator(), Marking()]),
        CompositePropagator([]),
    ],
    ids=["other", "both", "none"],
)
def test_other_propagators(
    make_bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    propagator: TextMapPropagator,
    sampler: Sampler,
) -> None:
    """Whatever the process propagates by, the engine gets our span as its parent."""
    bench = make_bench(sampler)
    monkeypatch.setattr(propagate, "_HTTP_TEXT_FORMAT", propagator)
    sent: dict[str, str] = {}
    tracked = bench.tracker.track(start())
    tracked.inject(sent)
    tracked.complete()

    (record,) = bench.records
    parent = f"00-{record.trace_id}-{record.span_id}-{record.trace_flags:02x}"
    known = {"x-mark": record.span_id, "traceparent": parent}
    assert sent == {name: known[name] for name in propagator.fields if name in known}


def test_baggage_goes_on(bench: Bench) -> None:
    """Baggage of the current context is sent to the engine, beside the parent."""
    sent: dict[str, str] = {}
    token = attach(baggage.set_baggage("tenant", "a b"))
    try:
        tracked = bench.tracker.track(start())
        tracked.inject(sent)
    finally:
        detach(token)
    tracked.complete()

    (record,) = bench.records
    assert sent == {
        "traceparent": f"00-{record.trace_id}-{record.span_id}-{SAMPLED:02x}",
        "baggage": "tenant=a+b",
    }


def test_after_the_end(bench: Bench) -> None:
    """Ids, headers and the current span of a request stay the same after its end."""
    tracked = bench.tracker.track(start())
    before: dict[str, str] = {}
    tracked.inject(before)
    tracked.complete()
    after: dict[str, str] = {}
    tracked.inject(after)
    with tracked.active():
        context = trace.get_current_span().get_span_context()

    assert before == after
    assert tracked.span_context == context
    assert format(context.span_id, "016x") == bench.records[0].span_id
