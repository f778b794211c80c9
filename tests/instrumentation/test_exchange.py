"""Edge cases of the generic layer that well-behaved routers never cause."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Generator
from contextvars import copy_context
from typing import Any

import aiohttp
import httpx
import pytest
from opentelemetry.sdk.trace import SpanProcessor

from otel_lifecycle.instrumentation.http.asgi import follow
from otel_lifecycle.instrumentation.http.clients import (
    observe_aiohttp,
    observe_httpx,
    observe_httpx_blocking,
)
from otel_lifecycle.instrumentation.http.exchange import Exchange
from otel_lifecycle.tracking.current_request import current_request
from tests.conftest import Bench
from tests.waiting import PATIENCE_SECONDS

SCOPE = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
ENGINE = "http://engine:8000/v1/completions"


class Never:
    """An awaitable that never completes."""

    def __await__(self) -> Generator[Never]:
        yield self


async def never(*_: Any, **__: Any) -> None:
    await Never()


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b'{"model":"m"}'}


async def send(_: dict[str, Any]) -> None:
    pass


async def call_engine() -> None:
    """Make one call that an engine answers at once."""

    async def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={})

    await observe_httpx(answer, None, (httpx.Request("POST", ENGINE, content=b"{}"),), {})


def serve(
    bench: Bench, application: Callable[..., Awaitable[None]], scope: dict[str, Any] = SCOPE
) -> None:
    """Serve one request with the application."""

    async def served() -> None:
        await follow(bench.tracker, application, scope, receive, send)  # type: ignore[arg-type]

    asyncio.run(served())


def endings(bench: Bench) -> list[tuple[str, str | None]]:
    """Outcome and error type of each record."""
    return [
        (record.outcome.value, record.error.type if record.error else None)
        for record in bench.records
    ]


def test_coroutine_closed_elsewhere(bench: Bench) -> None:
    """An unfinished request or call can be closed in any context."""
    serving: Any = follow(bench.tracker, never, dict(SCOPE), receive, send)  # type: ignore[arg-type]
    copy_context().run(serving.send, None)
    serving.close()

    exchange = Exchange(bench.tracker, "chat", {})
    calling = observe_httpx(never, None, (httpx.Request("POST", ENGINE),), {})

    def begin() -> None:
        current_request.set(exchange.current)
        calling.send(None)

    copy_context().run(begin)
    calling.close()
    exchange.left(None)

    assert endings(bench) == [("client_disconnect", None), ("error", "response_incomplete")]


def test_answered_by_somebody_unseen(bench: Bench) -> None:
    """A good answer without a known call has a record without a serving endpoint."""

    async def application(_: Any, __: Any, answer: Any) -> None:
        await answer({"type": "http.response.start", "status": 200, "headers": []})
        await answer({"type": "http.response.body", "body": b"{}"})

    serve(bench, application)

    assert endings(bench) == [("completed", None)]
    (record,) = bench.records
    assert (record.tracked_endpoints, record.served_endpoint, record.selected_route) == (
        [],
        None,
        None,
    )
    assert bench.tracker.store.ignored == {}


@pytest.mark.parametrize(
    ("body", "ending"),
    [
        (b'{"choices":[{"text":"hel', ("error", "response_truncated")),
        (b"", ("error", "response_truncated")),
        (b'{"choices":[{"text":"hello"}]}', ("completed", None)),
        (
            b'data: {"error":{"code":500}}\n\ndata: [DONE]\n\n',
            ("error", "stream_error"),
        ),
    ],
)
def test_cut_short(bench: Bench, body: bytes, ending: tuple[str, str | None]) -> None:
    """A router may answer 200 with a truncated answer of its engine."""

    async def application(_: Any, __: Any, answer: Any) -> None:
        await call_engine()
        await answer({"type": "http.response.start", "status": 200, "headers": []})
        await answer({"type": "http.response.body", "body": body})

    serve(bench, application)

    assert endings(bench) == [ending]


def test_body_after_the_call(bench: Bench) -> None:
    """If a router calls before it reads the body, the body is still read."""

    async def application(_: Any, read: Any, answer: Any) -> None:
        await call_engine()
        await read()
        await answer({"type": "http.response.start", "status": 200, "headers": []})
        await answer({"type": "http.response.body", "body": b"{}"})

    serve(bench, application)

    (record,) = bench.records
    (span,) = bench.telemetry.spans
    assert (record.model, record.streaming, record.rerouted) == ("m", False, [])
    assert (span.name, (span.attributes or {})["gen_ai.request.model"]) == ("route m", "m")


@pytest.mark.parametrize("called", [False, True])
def test_cancelled(bench: Bench, called: bool) -> None:
    """A cancelled request is a disconnect, with or without an endpoint."""

    async def application(*_: Any) -> None:
        if called:
            await call_engine()
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        serve(bench, application)

    assert endings(bench) == [("client_disconnect", None)]


@pytest.mark.parametrize(
    ("called", "error", "ending"),
    [
        (True, SystemExit(1), ("shutdown", None)),
        (True, httpx.ReadError("text"), ("error", "httpx.ReadError")),
        (False, httpx.ReadError("text"), ("rejected", "httpx.ReadError")),
    ],
)
def test_raised(
    bench: Bench, called: bool, error: BaseException, ending: tuple[str, str | None]
) -> None:
    """The application's exception is the outcome, and is raised unchanged."""

    async def application(*_: Any) -> None:
        if called:
            await call_engine()
        raise error

    with pytest.raises(type(error)) as raised:
        serve(bench, application)

    assert raised.value is error
    assert endings(bench) == [ending]


@pytest.mark.parametrize("headers", [None, 5, [b"x-request-id"], [(b"x-request-id", "text")]])
def test_headers_of_another_shape(bench: Bench, headers: Any) -> None:
    """Headers that are not as ASGI specifies are left to the application."""
    served: list[Any] = []

    async def application(scope: dict[str, Any], *_: Any) -> None:
        served.append(scope["headers"])

    serve(bench, application, {**SCOPE, "headers": headers})

    assert served == [headers]


def test_url_that_is_none(bench: Bench) -> None:
    """A URL that aiohttp refuses is refused as without instrumentation."""

    async def application(*_: Any) -> None:
        async with aiohttp.ClientSession() as session:
            await observe_aiohttp(session._request, session, ("POST", "http://[bad"), {})

    with pytest.raises(aiohttp.InvalidURL):
        serve(bench, application)


def test_client_that_is_not_as_expected(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that cannot be read, for instance with an older yarl, is still made."""

    def unreadable(*_: object) -> None:
        raise AttributeError("'URL' object has no attribute 'absolute'")

    monkeypatch.setattr("otel_lifecycle.instrumentation.http.clients._aiohttp_url", unreadable)

    async def post(*_: object, **__: object) -> str:
        return "answer"

    async def call() -> Any:
        current_request.set(Exchange(bench.tracker, "chat", {}).current)
        return await observe_aiohttp(post, None, ("POST", ENGINE), {})

    assert asyncio.run(call()) == "answer"


PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("headers", "is_child", "state"),
    [
        (
            [(b"traceparent", PARENT), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")],
            True,
            "a=1,b=2",
        ),
        ([(b"traceparent", PARENT), (b"traceparent", PARENT), (b"tracestate", b"a=1")], False, ""),
    ],
    ids=["tracestate", "traceparent"],
)
def test_trace_headers_that_come_twice(
    bench: Bench, headers: list[tuple[bytes, bytes]], is_child: bool, state: str
) -> None:
    """A trace state in parts is joined; of two parents neither is used."""

    async def application(*_: Any) -> None:
        await call_engine()

    serve(bench, application, {**SCOPE, "headers": headers})

    (record,) = bench.records
    assert (record.trace_id == PARENT[3:35].decode()) is is_child
    assert record.trace_state == state


@pytest.mark.parametrize(
    ("status", "headers", "ending"),
    [
        (200, [(b"content-length", b"9" * 5000)], ("completed", None)),
        (200, [(b"content-length", b"-1")], ("completed", None)),
        (204, [], ("completed", None)),
    ],
    ids=["5,000 digits", "negative", "no content"],
)
def test_headers_that_tell_nothing(
    bench: Bench, status: int, headers: list[Any], ending: tuple[str, str | None]
) -> None:
    """An invalid length is unknown, and an answer without a body is complete."""

    async def application(_: Any, __: Any, answer: Any) -> None:
        await call_engine()
        await answer({"type": "http.response.start", "status": status, "headers": headers})
        await answer({"type": "http.response.body", "body": b"" if status == 204 else b"{}"})

    serve(bench, application)

    assert endings(bench) == [ending]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"type": "http.response.start", "status": None},
        {"type": "http.response.body", "body": None, "more_body": None},
        {"type": "http.request", "body": None},
        "text",
    ],
    ids=["nothing", "no status", "no body", "no request body", "no message"],
)
def test_messages_that_asgi_does_not_know(bench: Bench, odd: Any) -> None:
    """Unknown ASGI messages pass in both directions unchanged."""
    sent: list[Any] = []

    async def receive_odd() -> Any:
        return odd

    async def send_odd(message: Any) -> None:
        sent.append(message)

    async def application(_: Any, read: Any, answer: Any) -> None:
        await call_engine()
        assert await read() is odd
        await answer(odd)

    async def served() -> None:
        await follow(bench.tracker, application, dict(SCOPE), receive_odd, send_odd)  # type: ignore[arg-type]

    asyncio.run(served())

    assert sent == [odd]


class OddError(Exception):
    """A client library's error with an unreadable status."""

    @property
    def status(self) -> int:
        raise ValueError("no status yet")


def test_error_whose_status_cannot_be_read(bench: Bench) -> None:
    """The router gets the client's own exception, whatever it is like."""
    raised = OddError()

    async def fail(_: httpx.Request) -> httpx.Response:
        raise raised

    async def application(*_: Any) -> None:
        await observe_httpx(fail, None, (httpx.Request("POST", ENGINE, content=b"{}"),), {})

    with pytest.raises(OddError) as caught:
        serve(bench, application)

    assert caught.value is raised
    assert endings(bench) == [("error", f"{__name__}.OddError")]


class CallingProcessor(SpanProcessor):
    """Calls an engine when a span starts."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(200, json={})

        request = httpx.Request("POST", ENGINE, content=b"{}")
        observe_httpx_blocking(answer, None, (request,), {})


def test_span_processor_that_calls_an_engine(bench: Bench) -> None:
    """A call made within our own work for a request does not wait for that work."""
    bench.telemetry.tracer_provider.add_span_processor(CallingProcessor())
    done = threading.Event()

    async def application(*_: Any) -> None:
        await call_engine()

    def served() -> None:
        serve(bench, application)
        done.set()

    threading.Thread(target=served, daemon=True).start()

    assert done.wait(PATIENCE_SECONDS)


@pytest.mark.parametrize("error", [ValueError, RuntimeError])
def test_server_that_cannot_be_asked(bench: Bench, error: type[Exception]) -> None:
    """If the server raises, it is unknown whether the client is still there."""

    class Server:
        @property
        def disconnected(self) -> bool:
            raise error

        async def receive(self) -> dict[str, Any]:
            return await receive()

    sent: list[Any] = []

    async def collect(message: Any) -> None:
        sent.append(message)

    async def application(_: Any, __: Any, answer: Any) -> None:
        await call_engine()
        await answer({"type": "http.response.start", "status": 200, "headers": []})
        await answer({"type": "http.response.body", "body": b"{}"})

    async def served() -> None:
        await follow(bench.tracker, application, dict(SCOPE), Server().receive, collect)  # type: ignore[arg-type]

    asyncio.run(served())

    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
