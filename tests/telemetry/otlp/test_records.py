"""A record is encoded as the span that it was."""

from __future__ import annotations

from copy import copy
from typing import Any, NoReturn, cast

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import Link, SpanContext, Status, StatusCode

from otel_lifecycle import LifecycleRecord, Load, RequestCompletion, RequestStart, Route
from otel_lifecycle.model.endpoint_state import EndpointState, EndpointView
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.encoders import RecordEncoder, SpanEncoder
from otel_lifecycle.telemetry.spans import ALL_DETAILS, Recorded, moments, span_from_record
from tests.conftest import Bench
from tests.routes import disaggregated, start
from tests.strategies import routes, starts
from tests.telemetry.otlp.messages import exact, parsed, sorted_attributes, stock
from tests.tracking.test_round_trip import completions

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
details = st.builds(Details, st.booleans(), st.booleans())


class RecordedSpan(ReadableSpan):
    """A finished span that would make its attributes and events if somebody read them."""

    recorded: Recorded

    @property
    def attributes(self) -> NoReturn:
        raise AssertionError("nobody has to read them")

    @property
    def events(self) -> NoReturn:
        raise AssertionError("nobody has to read them")


@given(
    request=starts,
    completion=completions,
    chunks=st.integers(0, 2),
    reroute=st.none() | routes,
    headers=st.sampled_from([{}, {"traceparent": PARENT, "tracestate": "vendor=value,a=b"}]),
    details=details,
)
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_records(
    bench: Bench,
    request: RequestStart,
    completion: RequestCompletion,
    chunks: int,
    reroute: Route | None,
    headers: dict[str, str],
    details: Details,
) -> None:
    """Whatever a router says, the message of its record is that of its span."""
    tracked = bench.tracker.track(request, headers=headers)
    for _ in range(chunks):
        tracked.chunk()
    if reroute is not None:
        tracked.reroute(reroute, reason="connect_error")
    tracked.end(completion)
    record = bench.records[-1]
    span = span_from_record(record, details, resource={"zone": "a"})
    expected = exact(sorted_attributes(stock([span])))
    recorded = cast("Any", copy(span))
    recorded.__class__ = RecordedSpan
    views = known_endpoints(request.route if reroute is None else reroute)
    recorded.recorded = Recorded(record, moments(record), details, views)

    encoded = [
        RecordEncoder(details, {"zone": "a"}).encode(record),
        # The second one has what the first has left with the endpoints.
        SpanEncoder().encode(recorded),
        SpanEncoder().encode(recorded),
    ]

    assert [exact(sorted_attributes(parsed([each]))) for each in encoded] == [expected] * 3


def known_endpoints(route: Route | None) -> dict[str, EndpointView]:
    """The endpoints of a route as the store keeps them."""
    return {
        role: EndpointState(each.endpoint).view(each)
        for role in ("leader", "prefill", "decode")
        if (each := getattr(route, role, None)) is not None
    }


def recorded(bench: Bench, **fields: Any) -> LifecycleRecord:
    """A record of a request to a pair, with these fields."""
    tracked = bench.tracker.track(start("request-1", disaggregated()))
    tracked.complete(8)
    return msgspec.structs.replace(bench.records[-1], **fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"dispatch_inflight": Load(2**70, 1)},
        {"trace_state": "not a state"},
        {"completed_at": None},
        {"span_kind": None, "parent_span_id": "00000000000000aa"},
        {"resource": {"service.name": "\ud800"}},
    ],
    ids=["too large", "trace state", "no end", "no kind", "half a character"],
)
def test_records_of_others(bench: Bench, fields: dict[str, Any]) -> None:
    """What our writer never writes is encoded as the SDK would, too."""
    record = recorded(bench, **fields)
    expected = stock([span_from_record(record)])

    encoded = parsed([RecordEncoder(ALL_DETAILS, None).encode(record)])

    assert exact(sorted_attributes(encoded)) == exact(sorted_attributes(expected))


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"trace_id": None}, ValueError),
        ({"trace_id": "0" * 32}, ValueError),
        ({"trace_id": "1" * 33}, OverflowError),
        ({"span_id": "x"}, ValueError),
        ({"parent_span_id": "f" * 17}, OverflowError),
    ],
)
def test_ids_that_are_none(bench: Bench, fields: dict[str, Any], error: type[Exception]) -> None:
    """A record without usable ids is no span."""
    record = recorded(bench, **fields)

    with pytest.raises(error):
        RecordEncoder(ALL_DETAILS, None).encode(record)


def test_short_ids(bench: Bench) -> None:
    """An id is a number, however many digits it is written with."""
    record = recorded(bench, trace_id="1", span_id="A", parent_span_id="0" * 20 + "ab")
    (resource,) = parsed([RecordEncoder(ALL_DETAILS, None).encode(record)]).resource_spans
    (span,) = resource.scope_spans[0].spans

    assert (span.trace_id.hex(), span.span_id.hex()) == ("0" * 31 + "1", "0" * 15 + "a")
    assert span.parent_span_id.hex() == "0" * 14 + "ab"


def test_what_is_kept_is_bounded(bench: Bench) -> None:
    """However many routers there are, a few of their resources are kept."""
    encoder = RecordEncoder(ALL_DETAILS, None)
    record = recorded(bench)
    resources = {
        encoder.encode(msgspec.structs.replace(record, resource={"service.name": name}))[0]
        for name in map(str, range(600))
    }

    assert len(resources) == 600
    assert len(encoder.resources) <= 256


def test_what_others_say_of_a_recorded_span(bench: Bench) -> None:
    """Name, links and status are the span's own, whatever the record says."""
    record = recorded(bench)
    span = cast("Any", copy(span_from_record(record)))
    span._name, span._status = "renamed", Status(StatusCode.ERROR, "by others")
    span._links = [Link(SpanContext(1, 2, True), {"a": 1})]
    expected = stock([span])
    span.__class__ = RecordedSpan
    span.recorded = Recorded(record, moments(record), ALL_DETAILS)

    encoded = parsed([SpanEncoder().encode(span)])

    assert exact(sorted_attributes(encoded)) == exact(sorted_attributes(expected))
