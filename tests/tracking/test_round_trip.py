"""A record gives back its span, and a span its record, to the last field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan

from otel_lifecycle import (
    Leg,
    LegOutcome,
    LegRole,
    LifecycleRecord,
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
)
from otel_lifecycle.model.record import ErrorInfo
from otel_lifecycle.model.schema import record_schema
from otel_lifecycle.telemetry.span_reader import record_from_span
from otel_lifecycle.telemetry.spans import span_from_record
from tests.conftest import Bench
from tests.routes import NOW_NS, endpoint, start
from tests.strategies import counts, endpoints, numbers, routes, starts

_validator = jsonschema.Draft202012Validator(record_schema())

legs = st.builds(
    Leg,
    st.sampled_from(LegRole),
    endpoints,
    st.integers(-(10**12), 10**12).map(NOW_NS.__add__),
    st.none() | st.integers(-(10**12), 10**12).map(NOW_NS.__add__),
    st.none() | st.sampled_from(LegOutcome),
)
completions = st.builds(
    RequestCompletion,
    outcome=st.sampled_from([Outcome.COMPLETED, Outcome.ERROR, Outcome.CLIENT_DISCONNECT]),
    output_tokens=counts,
    cached_tokens=counts,
    served_endpoint=st.none() | endpoints,
    error_type=st.none() | st.text(max_size=20),
    prefill_ms=numbers,
    finish_reason=st.none() | st.text(max_size=20),
    legs=st.lists(legs, max_size=3),
)


@pytest.fixture
def detailed_bench(make_bench: Callable[..., Bench]) -> Iterator[Bench]:
    """A bench whose spans have all optional attributes, which makes them complete."""
    return make_bench(npu_device_attributes=True, first_byte_attribute=True)  # type: ignore[return-value]


def comparable(span: ReadableSpan) -> dict[str, object]:
    """Return everything in a span that telemetry sets."""
    assert span.context is not None
    assert span.instrumentation_scope is not None
    return {
        "name": span.name,
        "kind": span.kind,
        "trace_id": span.context.trace_id,
        "span_id": span.context.span_id,
        "flags": span.context.trace_flags,
        "state": span.context.trace_state,
        "parent": span.parent.span_id if span.parent else None,
        "start": span.start_time,
        "end": span.end_time,
        "status": span.status.status_code,
        "attributes": json.loads(json.dumps(dict(span.attributes or {}))),
        "events": [
            (event.name, event.timestamp, dict(event.attributes or {})) for event in span.events
        ],
        "resource": dict(span.resource.attributes),
        "scope": (
            span.instrumentation_scope.name,
            span.instrumentation_scope.version,
            span.instrumentation_scope.schema_url,
        ),
    }


@given(
    request=starts,
    completion=completions,
    first_byte=st.booleans(),
    chunks=st.integers(0, 2),
    reroute=st.none() | routes,
    traced=st.booleans(),
)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_record_and_span_rebuild_each_other(
    detailed_bench: Bench,
    request: RequestStart,
    completion: RequestCompletion,
    first_byte: bool,
    chunks: int,
    reroute: Route | None,
    traced: bool,
) -> None:
    """Whatever the router reports, the record is valid, survives JSON, and equals its span."""
    bench = detailed_bench
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": parent, "tracestate": "vendor=value"} if traced else {}
    before = len(bench.telemetry.spans)

    tracked = bench.tracker.track(request, headers=headers)
    if first_byte:
        tracked.first_byte()
    for _ in range(chunks):
        tracked.chunk()
    if reroute is not None:
        tracked.reroute(reroute, reason="connect_error")
    tracked.end(completion)

    span = bench.telemetry.spans[before]
    record = record_from_span(span)
    line = msgspec.json.encode(record)
    assert msgspec.json.decode(line, type=LifecycleRecord) == record
    assert bench.tracker.flush()
    assert line == bench.path.read_bytes().splitlines()[-1]
    _validator.validate(json.loads(line))
    assert comparable(span_from_record(record)) == comparable(span)
    assert record_from_span(span_from_record(record)) == record
    assert bench.tracker.store.active_requests == 0


def test_rejected_request(bench: Bench) -> None:
    """A record without a route is converted too."""

    class Request:
        request_id = "request-1"
        target_model = "Qwen/Qwen3-8B"

    bench.tracker.reject(Request(), "no_candidates")

    (record,) = bench.records
    (span,) = bench.telemetry.spans
    assert (record.outcome, record.selected_route) == (Outcome.REJECTED, None)
    assert record.error == ErrorInfo("no_candidates")
    assert record_from_span(span) == record
    assert comparable(span_from_record(record)) == comparable(span)


def test_damaged_arrays(bench: Bench) -> None:
    """Arrays of which one was cut do not become a record of fewer calls."""
    leg = Leg(LegRole.PREFILL, endpoint("qwen-0"), NOW_NS, NOW_NS, LegOutcome.COMPLETED)
    bench.tracker.track(start()).end(RequestCompletion(legs=[leg, leg]))
    (span,) = bench.telemetry.spans

    def damaged(**attributes: Any) -> ReadableSpan:
        return ReadableSpan(
            span.name,
            span.context,
            attributes={**(span.attributes or {}), **attributes},
            instrumentation_scope=span.instrumentation_scope,
            start_time=span.start_time,
            end_time=span.end_time,
        )

    assert record_from_span(damaged()).legs == bench.records[0].legs
    with pytest.raises(ValueError):  # noqa: PT011 - the text is not ours
        record_from_span(damaged(**{"llm_router.legs.end": (0.0,)}))


def test_choice_without_a_route(bench: Bench) -> None:
    """What the router chose from is kept, even if the request reached no endpoint."""
    start = RequestStart("request-1", None, candidates=3, policy="least-loaded")
    bench.tracker.reject(start, "no_candidates")

    (record,) = bench.records
    (span,) = bench.telemetry.spans
    assert (record.candidates, record.policy) == (3, "least-loaded")
    assert record_from_span(span) == record
    assert comparable(span_from_record(record)) == comparable(span)


def test_untraced_record(bench: Bench) -> None:
    """A record of an untraced request cannot become a span, which is an error."""
    bench.tracker.track(RequestStart("request-1", None)).complete()
    record = msgspec.json.decode(
        b'{"requestId":"r","startedAt":"2026-11-24T23:42:56.564324304Z","prediction":{},'
        b'"selectedRoute":null,"actual":{},"predictionError":{}}',
        type=LifecycleRecord,
    )

    with pytest.raises(ValueError, match="no traceId or spanId"):
        span_from_record(record)


def test_foreign_span(bench: Bench) -> None:
    """A foreign span cannot become a record, which is an error."""
    tracer = bench.telemetry.tracer_provider.get_tracer("somebody")
    span = tracer.start_span("POST")
    span.end()

    with pytest.raises(ValueError, match="'POST' is not a lifecycle span"):
        record_from_span(span)  # type: ignore[arg-type]
