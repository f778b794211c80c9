"""Unusual ways in and out: other servers, paths, client libraries, threads and tasks."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3
from aiohttp import web
from requests.adapters import HTTPAdapter
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from otel_lifecycle import Outcome
from tests.examples.cluster import Server
from tests.instrumentation.http.test_operations import BUILT_IN
from tests.instrumentation.instrumented_process import closed_port
from tests.instrumentation.test_generic import TRACEPARENT, Observed, endpoint_id, unobserved
from tests.waiting import PATIENCE_SECONDS

WHOLE = (
    b'{"choices":[{"index":0,"text":"a","finish_reason":"stop"}],"usage":{"completion_tokens":2}}'
)
UNSERVED = "no call to an engine was seen"


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    """A generic instrumentation with one more path."""
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
    """Start a router with one handler for all paths."""
    observed.serve(Starlette(routes=[Route("/{path:path}", handler, methods=["POST"])]))


async def call(library: str, url: str, body: dict[str, Any]) -> bytes:
    """Call a URL through a library."""
    if library == "httpx":
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            return (await client.post(url, json=body)).content
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
        return await response.read()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings about requests that reached no engine."""
    return [text for text in caplog.messages if UNSERVED in text]


@pytest.mark.parametrize(
    ("path", "operation"), [*BUILT_IN.items(), ("/v1/embeddings/", "embeddings"), ("/ask", "chat")]
)
def test_operations(observed: Observed, engine: Server, path: str, operation: str) -> None:
    """Each path has an operation, for requests and for calls."""

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
    """A call that asks for output is a call to an engine, whatever its path; others are not."""

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
    """Good answers without a known engine are recorded too, and logged once a minute."""

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
    """Without a known engine the answer itself decides the outcome."""

    async def handler(_: Request) -> Response:
        return Response(content, media_type=kind)

    serve(observed, handler)
    observed.post()

    record = observed.record()
    assert (record.outcome, record.error and record.error.type) == (outcome, error)


class AiohttpServer:
    """A router on aiohttp's own server, in a separate thread."""

    def __init__(self, handler: Any) -> None:
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(handler, started), daemon=True)
        self._thread.start()
        assert started.wait(PATIENCE_SECONDS)

    def _run(self, handler: Any, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/{path:.*}", handler)
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port: int = runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def stop(self) -> None:
        """Stops the loop and what it serves."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_SECONDS)


@pytest.fixture
def serve_aiohttp(observed: Observed) -> Iterator[Callable[[Any], AiohttpServer]]:
    """Start routers on aiohttp's own server."""
    servers: list[AiohttpServer] = []

    def start(handler: Any) -> AiohttpServer:
        servers.append(AiohttpServer(handler))
        observed.cluster.router = servers[-1]  # type: ignore[assignment]
        return servers[-1]

    yield start
    observed.cluster.router = None
    for server in servers:
        server.stop()


async def passed_on(request: web.Request, url: str) -> web.StreamResponse:
    """Call an engine, and pass on its answer as it arrives."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + request.path, data=await request.read()) as answer,
    ):
        response = web.StreamResponse(
            status=answer.status, headers={"content-type": answer.content_type}
        )
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


def test_aiohttp_stream(observed: Observed, serve_aiohttp: Callable[[Any], AiohttpServer]) -> None:
    """A stream through aiohttp's own server is followed like any other."""
    engine = observed.add_engine("engine")

    async def handler(request: web.Request) -> web.StreamResponse:
        return await passed_on(request, engine.url)

    serve_aiohttp(handler)
    headers = {"traceparent": TRACEPARENT, "x-request-id": "request-1"}
    options = {"stream": True, "stream_options": {"include_usage": True}}
    assert observed.post(headers=headers, **options).text.endswith("data: [DONE]\n\n")
    assert observed.post(headers=headers, **options).status_code == 200

    for record in observed.records(2):
        assert (record.request_id, record.model, record.operation, record.streaming) == (
            "request-1",
            "m",
            "text_completion",
            True,
        )
        assert (record.outcome, record.selected_endpoint, record.output_length) == (
            Outcome.COMPLETED,
            endpoint_id(engine),
            8,
        )
        assert (record.trace_id, record.parent_span_id) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
        assert record.actual.ttft_ms is not None


@pytest.mark.parametrize(
    ("prompt", "outcome", "error", "status"),
    [
        ("whole", Outcome.COMPLETED, None, 200),
        ("packed", Outcome.COMPLETED, None, 200),
        ("refuse", Outcome.REJECTED, "http_503", 503),
        ("explode", Outcome.REJECTED, "RuntimeError", 500),
        ("nobody", Outcome.ERROR, "aiohttp.client_exceptions.ClientConnectorError", 500),
    ],
)
def test_aiohttp_endings(
    observed: Observed,
    serve_aiohttp: Callable[[Any], AiohttpServer],
    prompt: str,
    outcome: Outcome,
    error: str | None,
    status: int,
) -> None:
    """Complete answers, also compressed, refusals and exceptions are recorded."""
    engine = observed.add_engine("engine")

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if body["prompt"] == "refuse":
            raise web.HTTPServiceUnavailable
        if body["prompt"] == "explode":
            raise RuntimeError("secret")
        url = closed_port() if body["prompt"] == "nobody" else engine.url
        response = web.Response(
            body=await call("aiohttp", url + request.path, body), content_type="application/json"
        )
        if body["prompt"] == "packed":
            response.enable_compression()
        return response

    serve_aiohttp(handler)
    assert observed.post(prompt=prompt).status_code == status

    record = observed.record()
    assert (record.outcome, record.error and record.error.type) == (outcome, error)
    assert (record.model, record.streaming) == ("m", False)
    assert record.output_length == (8 if outcome is Outcome.COMPLETED else None)


def test_aiohttp_second_response(
    observed: Observed, serve_aiohttp: Callable[[Any], AiohttpServer]
) -> None:
    """A response that a handler returns after it has begun another is not what the client got."""

    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"data: {", "more_body": True})
            await asyncio.sleep(0.2)

    engine = observed.cluster.add_app("engine", unobserved(breaks))

    async def handler(request: web.Request) -> web.StreamResponse:
        try:
            return await passed_on(request, engine.url)
        except aiohttp.ClientError as error:
            return web.Response(text=str(error), status=500)

    serve_aiohttp(handler)
    with pytest.raises(httpx.RemoteProtocolError):
        observed.post(stream=True)

    error = observed.record().error
    assert error is not None
    assert error.type == "aiohttp.client_exceptions.ClientPayloadError"


def test_aiohttp_disconnect(
    observed: Observed, serve_aiohttp: Callable[[Any], AiohttpServer]
) -> None:
    """A client that leaves during a stream is a disconnect, not an error."""
    engine = observed.add_engine("engine", time_scale=1.0)

    async def handler(request: web.Request) -> web.StreamResponse:
        return await passed_on(request, engine.url)

    url = serve_aiohttp(handler).url
    body = {"model": "m", "prompt": "hello", "max_tokens": 4000, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as response:
        next(response.iter_raw())

    record = observed.record()
    assert (record.outcome, record.error) == (Outcome.CLIENT_DISCONNECT, None)


def test_aiohttp_other_paths(
    observed: Observed, serve_aiohttp: Callable[[Any], AiohttpServer]
) -> None:
    """Only inference is followed."""

    async def handler(request: web.Request) -> web.StreamResponse:
        return web.json_response({"length": len(await request.read())}, status=400)

    serve_aiohttp(handler)
    assert observed.post(path="/tokenize").status_code == 400
    assert observed.post().status_code == 400

    assert observed.record().outcome is Outcome.REJECTED


# A router's answer, without the usage.
ANSWERED = b'data: {"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def blocking_call(url: str, body: bytes) -> requests.Response:
    """Call an engine as routers do that use requests."""
    return requests.post(
        url, data=body, headers={"content-type": "application/json"}, stream=True, timeout=30
    )


def iterated(url: str, body: bytes) -> bytes:
    """Yield the answer as it arrives."""
    return b"".join(blocking_call(url, body).iter_content(None))


def fetched(url: str, body: bytes) -> bytes:
    """Return the answer through urllib3, which reads it at once."""
    return urllib3.PoolManager().request("POST", url, body=body).data


def lines(url: str, body: bytes) -> bytes:
    """Return the answer by lines, in small pieces."""
    return b"\n".join(blocking_call(url, body).iter_lines(16)) + b"\n"


def raw(url: str, body: bytes) -> bytes:
    """Return the answer, read completely from the layer below requests."""
    return blocking_call(url, body).raw.read(decode_content=True)


async def in_executor(function: Any, *args: Any) -> Any:
    """Run a function in a thread without the caller's context."""
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


@pytest.mark.parametrize("run", [in_executor, asyncio.to_thread, run_in_threadpool])
@pytest.mark.parametrize("read", [iterated, fetched, lines, raw])
def test_threads(observed: Observed, run: Any, read: Any) -> None:
    """Calls of requests and urllib3 from threads belong to the request, and are read."""
    engine = observed.add_engine("engine")

    async def handler(request: Request) -> Response:
        content = await run(read, engine.url + request.url.path, await request.body())
        assert b"[DONE]" in content
        return Response(ANSWERED, media_type="text/event-stream")

    serve(observed, handler)
    observed.post(
        stream=True, stream_options={"include_usage": True}, headers={"traceparent": TRACEPARENT}
    )

    record = observed.record()
    assert (record.selected_endpoint, record.attempt) == (endpoint_id(engine), 1)
    assert (record.outcome, record.output_length) == (Outcome.COMPLETED, 8)
    seen = observed.client.get(f"{engine.url}/debug/traceparents").json()["traceparents"]
    assert [found["traceparent"] for found in seen] == [f"00-{record.trace_id}-{record.span_id}-01"]


@pytest.mark.parametrize(
    ("fault", "outcome", "error"),
    [
        ("http_500", Outcome.ERROR, "http_500"),
        ("truncate", Outcome.ERROR, "stream_truncated"),
        ("drop_mid_stream", Outcome.ERROR, "urllib3.exceptions.ProtocolError"),
    ],
)
def test_engine_faults_in_threads(
    observed: Observed, fault: str, outcome: Outcome, error: str
) -> None:
    """An engine's faults are seen through requests as through any client."""
    engine = observed.add_engine("engine")

    def answer(url: str, body: bytes) -> Response:
        response = blocking_call(url, body)
        if response.status_code >= 400:
            return Response(response.content, response.status_code)
        b"".join(response.iter_content(None))
        return Response(ANSWERED, media_type="text/event-stream")

    async def handler(request: Request) -> Response:
        return await in_executor(answer, engine.url + request.url.path, await request.body())

    serve(observed, handler)
    observed.cluster.break_engine("engine", fault)
    observed.post(stream=True)

    record = observed.record()
    assert (record.outcome, record.error and record.error.type) == (outcome, error)


def test_nobody_in_threads(observed: Observed) -> None:
    """An unreachable engine in a thread is one attempt, however often it is retried."""
    dead = closed_port()

    def answer(body: bytes) -> Response:
        session = requests.Session()
        session.mount("http://", HTTPAdapter(max_retries=2))
        with suppress(requests.ConnectionError):
            session.post(f"{dead}/v1/completions", data=body)
        return JSONResponse({"error": "unavailable"}, 503)

    async def handler(request: Request) -> Response:
        return await in_executor(answer, await request.body())

    serve(observed, handler)
    observed.post()

    record = observed.record()
    assert (record.outcome, record.attempt) == (Outcome.ERROR, 1)
    assert record.error is not None
    assert record.error.type == "http_503"
    assert record.selected_endpoint == dead.replace("http", "addr")


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
def test_background_task(observed: Observed, engine: Server, library: str) -> None:
    """An engine called by a background task after the answer belongs to the request."""

    async def later(url: str, body: dict[str, Any]) -> None:
        await asyncio.sleep(0.05)
        await call(library, url, body)

    async def handler(request: Request) -> Response:
        task = BackgroundTask(later, engine.url + request.url.path, await request.json())
        return JSONResponse({"task": 1}, background=task)

    serve(observed, handler)
    assert observed.post().json() == {"task": 1}

    record = observed.record()
    assert (record.outcome, record.selected_endpoint, record.output_length) == (
        Outcome.COMPLETED,
        endpoint_id(engine),
        2,
    )
    assert record.actual.ttft_ms is None


def test_next_request_of_a_connection(observed: Observed, engine: Server) -> None:
    """A request during a background task of the previous one is separate, in any context."""
    second = asyncio.Event()

    async def handler(request: Request) -> Response:
        body = await request.json()
        if body["model"] != "m":
            return JSONResponse({"task": 1}, background=BackgroundTask(second.wait))
        second.set()
        return Response(await call("httpx", engine.url + request.url.path, body))

    serve(observed, handler)
    for model in ("x" * (3 << 20), "m"):
        observed.post(model=model)

    records = sorted(observed.records(2), key=lambda record: record.started_at)
    assert [record.tracked_endpoints for record in records] == [[], [endpoint_id(engine)]]
