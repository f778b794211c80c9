"""Where requests come in and calls go out, beside the paths and libraries that most use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from otel_lifecycle import Outcome
from tests.examples.cluster import Server
from tests.instrumentation.http.test_operations import BUILT_IN
from tests.instrumentation.test_generic import Observed, endpoint_id, unobserved

WHOLE = (
    b'{"choices":[{"index":0,"text":"a","finish_reason":"stop"}],"usage":{"completion_tokens":2}}'
)
UNSERVED = "no call to an engine was seen"


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    """A generic instrumentation that knows one more path."""
    observed = Observed(tmp_path / "records.jsonl", paths="/ask=chat")
    yield observed
    observed.stop()


@pytest.fixture
def engine(observed: Observed) -> Server:
    """An engine that answers on any path."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await Response(WHOLE, media_type="application/json")(scope, receive, send)

    return observed.cluster.add_app("engine", unobserved(answer))


def serve(observed: Observed, handler: Any) -> None:
    """Starts a router with one handler for all paths."""
    observed.serve(Starlette(routes=[Route("/{path:path}", handler, methods=["POST"])]))


async def call(library: str, url: str, body: dict[str, Any]) -> bytes:
    """Calls a URL through a library."""
    if library == "httpx":
        async with httpx.AsyncClient(trust_env=False) as client:
            return (await client.post(url, json=body)).content
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return await response.read()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of requests that reached no engine."""
    return [text for text in caplog.messages if UNSERVED in text]


@pytest.mark.parametrize(
    ("path", "operation"), [*BUILT_IN.items(), ("/v1/embeddings/", "embeddings"), ("/ask", "chat")]
)
def test_operations(observed: Observed, engine: Server, path: str, operation: str) -> None:
    """Each path is an operation, on the way in and on the way out."""

    async def handler(request: Request) -> Response:
        content = await call("httpx", engine.url + request.url.path, await request.json())
        return Response(content, media_type="application/json")

    serve(observed, handler)
    assert observed.post(path=path).content == WHOLE

    record = observed.record()
    assert (record.operation, record.outcome, record.selected_endpoint, record.output_length) == (
        operation,
        Outcome.COMPLETED,
        endpoint_id(engine),
        2,
    )


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_call_of_another_path(observed: Observed, engine: Server, library: str) -> None:
    """A call that asks for output is one to an engine, wherever it goes; others are not."""

    async def handler(request: Request) -> Response:
        body = await request.json()
        prompt = {"model": "m", "input": body["prompt"]}
        await call(library, f"{engine.url}/v1/moderations", prompt)
        await call(library, f"{engine.url}/v1/embeddings", {**prompt, "stream": False})
        await call(library, f"{engine.url}/log", {"level": "info"})
        return Response(await call(library, f"{engine.url}/run", body))

    serve(observed, handler)
    observed.post()

    record = observed.record()
    assert (record.attempt, record.rerouted, record.outcome) == (1, [], Outcome.COMPLETED)
    assert record.selected_endpoint == endpoint_id(engine)


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_unserved(
    observed: Observed, engine: Server, caplog: pytest.LogCaptureFixture, library: str
) -> None:
    """Good answers without a known engine are recorded as failures are, and said once a minute."""

    async def handler(request: Request) -> Response:
        body = await request.json()
        await asyncio.sleep(0.05)
        if body["prompt"] == "refuse":
            return JSONResponse({"error": "refused"}, 429)
        await call(library, f"{engine.url}/secret-door?key=secret", {"q": 1})
        return Response(WHOLE, media_type="application/json")

    serve(observed, handler)
    with caplog.at_level(logging.WARNING, "otel_lifecycle"):
        observed.post(prompt="refuse")
        assert warnings(caplog) == []
        observed.post()
        observed.post(path="/v1/chat/completions")

    refused, first, second = observed.records(3)
    assert refused.error is not None
    assert (refused.outcome, refused.error.type) == (Outcome.REJECTED, "http_429")
    for record in (first, second):
        assert (record.outcome, record.error, record.output_length) == (Outcome.COMPLETED, None, 2)
    for record in (refused, first, second):
        assert (record.selected_route, record.tracked_endpoints) == (None, [])
        assert record.actual.e2e_ms is not None
        assert record.actual.e2e_ms >= 50
        assert record.actual.ttft_ms is None
    (warning,) = warnings(caplog)
    assert "/v1/completions: 1" in warning
    assert f"POST 127.0.0.1:{engine.port}/secret-door ({library})" in warning
    assert "secret" not in warning.replace("secret-door", "")


@pytest.mark.parametrize(
    ("content", "kind", "outcome", "error"),
    [
        (b'data: {"error":{"code":500}}\n\n', "text/event-stream", Outcome.ERROR, "stream_error"),
        (
            b'data: {"choices":[{"index":0,"text":"a"}]}\n\n',
            "text/event-stream",
            Outcome.ERROR,
            "stream_truncated",
        ),
        (b'{"error":{"code":500}}', "application/json", Outcome.ERROR, "response_error"),
        (b'{"id": 7}', "application/json", Outcome.COMPLETED, None),
        (b"", "application/json", Outcome.COMPLETED, None),
    ],
)
def test_unserved_answers(
    observed: Observed, content: bytes, kind: str, outcome: Outcome, error: str | None
) -> None:
    """What such an answer says of itself is what the request ended with."""

    async def handler(_: Request) -> Response:
        return Response(content, media_type=kind)

    serve(observed, handler)
    observed.post()

    record = observed.record()
    assert (record.outcome, record.error and record.error.type) == (outcome, error)
