"""A signal handler raises, as Control-C does, at any moment of the tracker's work."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import pytest
from opentelemetry.sdk.trace import ReadableSpan

from otel_lifecycle import LifecycleRecord, Load, Outcome
from tests.conftest import Bench
from tests.hooks.shapes import Request, endpoint, last, result
from tests.routes import disaggregated, start
from tests.tracking.interruption import interrupt

# Serves a request with that id, and calls back for each record that it must have from now on.
Serve: TypeAlias = "Callable[[Bench, str, Callable[[], None]], None]"

ROUTE = disaggregated()  # one for all requests, whose records are compared
SCHEDULED = result(endpoint("qwen-0"))


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A bench for which the route, made at import, does not become stale."""
    return make_bench(stale_after="24h")


def with_a_handle(bench: Bench, request_id: str, dispatched: Callable[[], None]) -> None:
    """A stream in a block."""
    with bench.tracker.track(start(request_id, ROUTE)) as tracked:
        dispatched()
        tracked.chunk()
        tracked.complete(output_tokens=3)


def with_an_id_that_comes_again(
    bench: Bench, request_id: str, dispatched: Callable[[], None]
) -> None:
    """The second request supersedes the first."""
    with bench.tracker.track(start(request_id, ROUTE)):
        dispatched()
        with_a_handle(bench, request_id, dispatched)


def with_hooks(bench: Bench, request_id: str, dispatched: Callable[[], None]) -> None:
    """A router that calls the hooks of the seed."""
    request = Request(request_id)
    bench.tracker.pre_request(request, SCHEDULED)
    dispatched()
    bench.tracker.response_body(request, last())


def rejected(bench: Bench, request_id: str, dispatched: Callable[[], None]) -> None:
    """A router without an endpoint for it."""
    bench.tracker.reject(start(request_id, ROUTE), "no_candidates")
    dispatched()


def interrupt_everywhere(
    bench: Bench, serve: Serve, where: str, error: type[BaseException]
) -> list[str]:
    """Interrupt one request at each moment; return the expected ids of records."""
    must: list[str] = []
    moment = 0

    def handler() -> None:
        raise error

    serve(bench, "the first, after which all take the same steps", lambda: None)
    interrupted = True
    while interrupted:
        moment += 1
        request_id = f"request-{moment}"
        try:
            interrupted = interrupt(
                lambda: serve(bench, request_id, lambda: must.append(request_id)),  # noqa: B023
                moment,
                handler,
                where,
            )
        except error:
            pass
        else:
            assert not interrupted or issubclass(error, Exception), f"swallowed at {moment}"
        if serve is with_hooks:  # which alone can end the request again
            bench.tracker.response_body(Request(request_id), last())
        bench.tracker.flush()
        assert bench.tracker.store.active_requests == 0, moment
        assert set(bench.tracker.store.loads().values()) <= {Load()}, moment
    assert moment > 60
    return must


def facts(record: LifecycleRecord) -> LifecycleRecord:
    """Return what requests of a kind have in common, wherever they were interrupted."""
    return msgspec.structs.replace(
        record,
        request_id="",
        started_at="",
        first_chunk_at="",
        completed_at="",
        trace_id="",
        span_id="",
        actual=None,
        prediction_error=None,
    )


def summary(span: ReadableSpan) -> tuple[Any, ...]:
    """Return id, outcome, number of attributes and events of a span."""
    attributes = span.attributes or {}
    return (
        attributes["llm_router.request.id"],
        attributes.get("llm_router.outcome"),
        len(attributes),
        [event.name for event in span.events],
    )


@pytest.mark.parametrize(
    "serve", [with_a_handle, with_an_id_that_comes_again, with_hooks, rejected]
)
def test_interrupted(bench: Bench, serve: Serve) -> None:
    """The exception propagates; span, record and load of the request are complete, once."""
    must = interrupt_everywhere(bench, serve, "/otel_lifecycle/", KeyboardInterrupt)

    records = bench.records
    ids = [record.request_id for record in records]
    twice = serve is with_an_id_that_comes_again
    assert all(must.count(each) <= ids.count(each) <= (2 if twice else 1) for each in ids)
    assert set(must) <= set(ids)
    for outcome in (Outcome.COMPLETED, Outcome.REJECTED):
        kinds = [facts(record) for record in records if record.outcome is outcome]
        assert kinds[1:] == kinds[:-1]
    spans = [summary(span) for span in bench.telemetry.spans]
    named = {record.span_id: record for record in records}
    for span, (request_id, outcome, attributes, events) in zip(
        bench.telemetry.spans, spans, strict=True
    ):
        assert span.context is not None
        record = named.pop(format(span.context.span_id, "016x"))
        assert (request_id, outcome) == (record.request_id, record.outcome.value)
        if record.outcome is Outcome.COMPLETED:
            last_of_kind = next(s for s in reversed(spans) if s[1] == outcome)
            assert (attributes, events) == last_of_kind[2:]
    assert not named.keys() & {record.span_id for record in records if record.request_id in must}


def test_interrupted_in_the_sdk(bench: Bench) -> None:
    """In the middle of the SDK's `Span.end` the span is lost: it cannot be ended again."""
    must = interrupt_everywhere(bench, with_a_handle, "/", KeyboardInterrupt)

    ids = [record.request_id for record in bench.records]
    spans = [summary(span)[0] for span in bench.telemetry.spans]
    assert len(set(ids)) == len(ids)
    assert len(set(spans)) == len(spans)
    assert set(must) <= set(ids)
    assert len(set(must) - set(spans)) < 30
    counted = sum(bench.telemetry.metrics()["llm_router.requests"].values())
    assert len(ids) - 10 < counted <= len(ids)


def test_interrupted_by_an_ordinary_exception(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception that may be a bug of ours does not reach the router; no load remains."""
    monkeypatch.setattr("otel_lifecycle.tracking.breaker.PAUSE_NS", 0)
    interrupt_everywhere(bench, with_a_handle, "/otel_lifecycle/", TimeoutError)

    ids = [record.request_id for record in bench.records]
    assert len(set(ids)) == len(ids)
    assert bench.tracker.store.ignored["hook_error"] > 0


def test_finalizers_of_others_are_not_interrupted() -> None:
    """Only the call is interrupted, not the collection of other garbage within it."""

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

    interrupted: list[bool] = []

    def call() -> None:
        weakref.finalize(Garbage(), lambda: interrupted.append(sys.getprofile() is not None))
        _ = [[] for _ in range(100_000)]

    gc.collect()
    interrupt(call, 1, lambda: None, "no such file")
    gc.collect()

    assert interrupted == [False]
