"""Zero code knows when a request arrived: exact times, by the tracker's own clock."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from otel_lifecycle import RequestStart, Route, RouteEndpoint
from otel_lifecycle.instrumentation.http.asgi import follow
from otel_lifecycle.instrumentation.http.clients import observe_httpx
from otel_lifecycle.instrumentation.http.exchange import Exchange
from otel_lifecycle.model.latency import ActualLatency
from otel_lifecycle.telemetry.span_reader import record_from_span
from otel_lifecycle.testing import ManualClock
from tests.conftest import Bench
from tests.hooks.shapes import predicted, result
from tests.routes import NOW, NOW_NS, endpoint
from tests.tracking.expected import timestamp

PATH = "/v1/chat/completions"
SCOPE: dict[str, Any] = {"type": "http", "method": "POST", "path": PATH, "headers": []}
ASKED = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
PREFILL = {**ASKED, "max_tokens": 1, "stream": False}
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Any, Any, Send], Awaitable[None]]


def event(content: str, **more: Any) -> bytes:
    """One event of a stream."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None, **more}
    return b"data: " + json.dumps({"id": "chat-1", "choices": [choice]}).encode() + b"\n\n"


STREAM = (event("hello"), event("", finish_reason="stop") + b"data: [DONE]\n\n")
WHOLE = {"choices": [{"index": 0, "message": {"content": "a guard"}, "finish_reason": "stop"}]}


def serve(bench: Bench, application: Application) -> None:
    """Serve one request with an application on an instrumented server."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(ASKED).encode()}

    async def send(_: dict[str, Any]) -> None:
        pass

    async def served() -> None:
        await follow(bench.tracker, application, dict(SCOPE), receive, send)

    asyncio.run(served())


async def call(
    bench: Bench, body: dict[str, Any], host: str = "engine", *, takes_ms: float = 0.0
) -> None:
    """Ask an engine, or another model, for a complete answer."""

    async def answer(_: httpx.Request) -> httpx.Response:
        bench.clock.advance(takes_ms)
        return httpx.Response(200, json={"model": body["model"], **WHOLE})

    request = httpx.Request("POST", f"http://{host}:8000{PATH}", json=body)
    await observe_httpx(answer, None, (request,), {})


async def stream(bench: Bench, send: Send, host: str = "engine") -> None:
    """Pass on an engine's stream: 250 ms to the first event, 500 more to the last."""

    async def pieces() -> AsyncIterator[bytes]:
        for wait_ms, piece in zip((250.0, 500.0), STREAM, strict=True):
            bench.clock.advance(wait_ms)
            yield piece

    async def answer(_: httpx.Request) -> httpx.Response:
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, content=pieces())

    request = httpx.Request("POST", f"http://{host}:8000{PATH}", json=ASKED)
    response = await observe_httpx(answer, None, (request,), {})
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for piece in response.aiter_raw():
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_queue(bench: Bench) -> None:
    """The queue is the time between the arrival and the call to the engine."""

    async def application(_: Any, receive: Any, send: Send) -> None:
        bench.clock.advance(100)
        await receive()
        bench.clock.advance(900)
        await stream(bench, send)

    serve(bench, application)

    (record,) = bench.records
    assert record.actual == ActualLatency(ttft_ms=250.0, e2e_ms=750.0, queue_ms=1_000.0)
    assert [
        record.received_at,
        record.started_at,
        record.first_byte_at,
        record.first_chunk_at,
        record.completed_at,
    ] == list(map(timestamp, (0, 1_000, 1_250, 1_250, 1_750)))
    (span,), (live,) = bench.spans, bench.telemetry.spans
    assert span["at"] == [0, 1_000, 1_250, 1_750, 1_750]
    assert span["attributes"]["gen_ai.response.time_to_first_chunk"] == 1.25
    assert record_from_span(live).actual == record.actual


def test_corrected_clock(bench: Bench) -> None:
    """Correcting the wall clock changes no duration, and shifts all times of a request."""

    async def application(_: Any, receive: Any, send: Send) -> None:
        await receive()
        bench.clock.advance(1_000)
        bench.clock.set_wall_ns(NOW_NS + 3_600_000_000_000)
        await call(bench, PREFILL, "prefill", takes_ms=40)
        bench.clock.set_wall_ns(NOW_NS)
        await stream(bench, send)

    serve(bench, application)

    (record,) = bench.records
    assert record.actual == ActualLatency(
        ttft_ms=290.0, e2e_ms=790.0, prefill_ms=40.0, queue_ms=1_000.0
    )
    hour = 3_600_000
    assert [record.received_at, record.started_at, record.completed_at] == list(
        map(timestamp, (hour - 1_000, hour, hour + 790))
    )
    assert [(leg.role.value, leg.started_at, leg.ended_at) for leg in record.legs or ()] == [
        ("prefill", timestamp(hour), timestamp(hour + 40)),
        ("decode", timestamp(hour + 40), timestamp(hour + 790)),
    ]


@pytest.mark.parametrize("host", ["guard", "engine"])
def test_guard_first(bench: Bench, host: str) -> None:
    """A call to a guard is not the dispatch, which is the first call to the serving engine."""

    async def application(_: Any, receive: Any, send: Send) -> None:
        await receive()
        bench.clock.advance(10)
        await call(bench, {**ASKED, "model": "guard", "stream": False}, host, takes_ms=200)
        bench.clock.advance(5)
        await stream(bench, send)

    serve(bench, application)

    (record,) = bench.records
    assert record.actual == ActualLatency(ttft_ms=250.0, e2e_ms=750.0, queue_ms=215.0)
    assert (record.received_at, record.started_at) == (timestamp(0), timestamp(215))
    assert [(leg.role.value, leg.started_at, leg.ended_at) for leg in record.legs or ()] == [
        ("side", timestamp(10), timestamp(210)),
        ("leader", timestamp(215), timestamp(965)),
    ]
    (span,) = bench.spans
    assert span["at"] == [0, 215, 465, 965, 965]
    assert span["attributes"]["llm_router.legs.start"] == [0.01, 0.215]


def test_sent_again(bench: Bench) -> None:
    """A failed call is the dispatch too: its time is not part of the queue."""

    async def refuse(_: httpx.Request) -> httpx.Response:
        bench.clock.advance(30)
        raise httpx.ConnectError("refused")

    async def application(_: Any, receive: Any, send: Send) -> None:
        await receive()
        bench.clock.advance(10)
        request = httpx.Request("POST", f"http://dead:8000{PATH}", json=ASKED)
        with pytest.raises(httpx.ConnectError):
            await observe_httpx(refuse, None, (request,), {})
        await stream(bench, send)

    serve(bench, application)

    (record,) = bench.records
    assert record.actual == ActualLatency(ttft_ms=280.0, e2e_ms=780.0, queue_ms=10.0)
    assert [reroute.at for reroute in record.rerouted] == [timestamp(40)]


@pytest.mark.parametrize("status", [429, 503])
def test_refused_in_the_queue(bench: Bench, status: int) -> None:
    """A request that reached no engine has its real duration, and no dispatch."""

    async def application(_: Any, receive: Any, send: Send) -> None:
        await receive()
        bench.clock.advance(30_000)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    serve(bench, application)

    (record,) = bench.records
    assert record.actual == ActualLatency(e2e_ms=30_000.0)
    assert [record.received_at, record.started_at, record.completed_at] == list(
        map(timestamp, (0, 0, 30_000))
    )


def test_abandoned_in_the_queue(bench: Bench) -> None:
    """A request whose client left in the queue has its real duration and no dispatch too."""

    async def application(_: Any, receive: Any, send: Send) -> None:
        await receive()
        bench.clock.advance(30_000)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        serve(bench, application)

    (record,) = bench.records
    assert (record.outcome.value, record.actual) == (
        "client_disconnect",
        ActualLatency(e2e_ms=30_000.0),
    )


@pytest.mark.parametrize("received_at", [None, NOW + timedelta(milliseconds=5)])
def test_handle_and_hooks(bench: Bench, received_at: datetime | None) -> None:
    """They also know the arrival that our server saw; the router's own takes precedence."""
    request: Any = SimpleNamespace(
        request_id="hooks", target_model="m", received_at=received_at, body=None
    )
    handled = RequestStart("handle", Route(RouteEndpoint(endpoint("qwen-0"))))

    async def application(_: Any, receive: Any, send: Send) -> None:
        await receive()
        bench.clock.advance(100)
        tracked = msgspec.structs.replace(handled, received_at=received_at)
        bench.tracker.track(tracked).complete()
        bench.tracker.pre_request(request, result(predicted("qwen-0")))
        last: Any = SimpleNamespace(end_of_stream=True)
        bench.tracker.response_body(request, last)
        bench.tracker.reject(request, "no_candidates")

    serve(bench, application)

    received_ms = 0 if received_at is None else 5
    assert [record.received_at for record in bench.records] == [timestamp(received_ms)] * 3
    assert [record.actual.queue_ms for record in bench.records] == [100.0 - received_ms] * 2 + [
        None
    ]


def test_handle_by_another_clock(bench: Bench, make_bench: Callable[..., Bench]) -> None:
    """An arrival by another clock is not used by a handle."""
    other = make_bench()

    async def application(*_: Any) -> None:
        other.tracker.track(RequestStart("handle", Route(RouteEndpoint(endpoint("qwen-0"))))).fail(
            "x"
        )

    serve(bench, application)

    assert [record.received_at for record in (*bench.records, *other.records)] == [None]


class StoppedClock(ManualClock):
    """A custom clock that stops working."""

    readings_left = 0

    def monotonic_ns(self) -> int:
        self.readings_left -= 1
        if self.readings_left < 0:
            raise OSError("no time")
        return super().monotonic_ns()


@pytest.mark.parametrize("readings", range(12))
def test_clock_that_raises(
    make_bench: Callable[..., Bench], readings: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whenever the clock stops, the router serves the request, and no load remains."""
    caplog.set_level(logging.CRITICAL, "otel_lifecycle")  # tracebacks would keep the request
    clock = StoppedClock(NOW_NS)
    bench = make_bench(clock=clock)
    clock.readings_left = readings
    served: list[str] = []

    async def application(_: Any, receive: Any, send: Send) -> None:
        await receive()
        await call(bench, PREFILL, "prefill")
        await stream(bench, send)
        served.append("whole")

    serve(bench, application)
    clock.readings_left = 1_000_000
    gc.collect()

    assert served == ["whole"]
    assert bench.tracker.flush(timeout=30)
    assert bench.tracker.store.active_requests == 0


def test_clock_that_never_worked(make_bench: Callable[..., Bench]) -> None:
    """Without a time of arrival the request is only counted."""
    bench = make_bench(clock=StoppedClock(NOW_NS))

    assert Exchange(bench.tracker, "chat", {}).claimed
    assert bench.tracker.store.ignored == {"hook_error": 1}
