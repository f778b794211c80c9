"""Any ASGI router, with generic instrumentation, in front of engines with faults."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from engine_sim.app import create_app as create_engine
from engine_sim.config import EngineConfig
from opentelemetry.trace import SpanContext, SpanKind
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_lifecycle import LifecycleRecord, Outcome
from otel_lifecycle.instrumentation.generic import GenericRouterInstrumentor
from otel_lifecycle.testing import InMemoryTelemetry
from otel_lifecycle.tracking.current_request import claim
from tests.examples.cluster import Cluster, Server
from tests.examples.programmed_engine import EVENT
from tests.examples.programmed_engine import Engine as ProgrammedEngine
from tests.instrumentation.generic_routers import (
    AiohttpUpstream,
    HttpxUpstream,
    Upstream,
    make_pd_proxy,
    make_router,
)
from tests.instrumentation.instrumented_process import closed_port
from tests.instrumentation.settling import settled_records
from tests.waiting import PATIENCE_SECONDS

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Observed:
    """A generic router with engines, its answers and its telemetry."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.cluster = Cluster()
        self.telemetry = InMemoryTelemetry()
        self.client = httpx.Client(timeout=PATIENCE_SECONDS, trust_env=False, verify=False)
        self.instrumentor = GenericRouterInstrumentor()
        self.instrumentor.instrument(
            tracer_provider=self.telemetry.tracer_provider,
            meter_provider=self.telemetry.meter_provider,
            store_name=str(path),
            persistence_output_path=str(path),
            **options,
        )

    def add_engine(self, name: str, **settings: Any) -> Server:
        """Start an engine; it shares our process, and is not followed as a router."""
        return self.cluster.add_app(name, unobserved(make_engine(name, **settings)))

    def serve(self, app: Any) -> str:
        """Start the router."""
        self.cluster.router = Server(app)
        return self.cluster.router.url

    def post(
        self, *, path: str = "/v1/completions", headers: dict[str, str] | None = None, **fields: Any
    ) -> httpx.Response:
        """Send one request through the router."""
        assert self.cluster.router is not None
        body = {"model": "m", "prompt": "hello " * 20, "max_tokens": 8, **fields}
        return self.client.post(self.cluster.router.url + path, json=body, headers=headers)

    def listen(self, heard: threading.Event, headers: dict[str, str] | None = None) -> bytes:
        """Return a stream; set an event when some of it has come."""
        assert self.cluster.router is not None
        body = {"model": "m", "prompt": "hello " * 20, "max_tokens": 8, "stream": True}
        url = f"{self.cluster.router.url}/v1/completions"
        with self.client.stream("POST", url, json=body, headers=headers) as response:
            content = b""
            for chunk in response.iter_raw():
                content += chunk
                heard.set()
            return content

    def records(self, count: int = 1) -> list[LifecycleRecord]:
        """Return the records, when they exist."""
        return settled_records(self.instrumentor.tracker, self.telemetry, self.path, count)

    def record(self) -> LifecycleRecord:
        """Return the only record."""
        return self.records()[0]

    def stop(self) -> None:
        """Stop everything."""
        self.client.close()
        self.cluster.stop()
        self.instrumentor.uninstrument()
        self.telemetry.shutdown()


def make_engine(name: str, **settings: Any) -> ASGIApp:
    """A simulated engine, fast by default."""
    return create_engine(EngineConfig(**{"name": name, "time_scale": 0.05, **settings}))


def unobserved(app: ASGIApp) -> ASGIApp:
    """The same application without instrumentation."""

    async def hidden(scope: Scope, receive: Receive, send: Send) -> None:
        claim()  # the server's
        await app(scope, receive, send)

    return hidden


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    """A generic instrumentation, with an empty cluster."""
    observed = Observed(tmp_path / "records.jsonl")
    yield observed
    observed.stop()


@pytest.fixture(params=[HttpxUpstream, AiohttpUpstream])
def upstream(request: pytest.FixtureRequest) -> type[Upstream]:
    """Each client library in turn."""
    return request.param


def endpoint_id(server: Server) -> str:
    """Return the id of an engine for a router that knows only addresses."""
    return f"addr://127.0.0.1:{server.port}"


def test_stream(observed: Observed, upstream: type[Upstream]) -> None:
    """A stream's endpoint, model, first chunk and usage are known, and the trace continues."""
    engine = observed.add_engine("engine")
    observed.serve(make_router(upstream([engine.url])))
    response = observed.post(
        headers={"traceparent": TRACEPARENT, "x-request-id": "request-1"},
        stream=True,
        stream_options={"include_usage": True},
    )

    record = observed.record()
    (span,) = observed.telemetry.spans
    assert response.text.endswith("data: [DONE]\n\n")
    assert (record.request_id, record.model, record.operation) == (
        "request-1",
        "m",
        "text_completion",
    )
    assert (record.outcome, record.streaming) == (Outcome.COMPLETED, True)
    assert (record.selected_endpoint, record.served_endpoint) == (endpoint_id(engine),) * 2
    assert (record.output_length, record.cached_tokens) == (8, 0)
    assert (record.input_token_length, record.input_token_source.value) == (30, "reported")
    assert record.actual.ttft_ms is not None
    assert record.actual.tpot_ms is not None
    assert (record.trace_id, record.parent_span_id) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert span.kind is SpanKind.SERVER
    seen = observed.client.get(f"{engine.url}/debug/traceparents").json()["traceparents"]
    assert [found["traceparent"] for found in seen] == [f"00-{record.trace_id}-{record.span_id}-01"]


def test_not_streaming(observed: Observed, upstream: type[Upstream]) -> None:
    """A response that is not a stream has usage and no TTFT."""
    engine = observed.add_engine("engine")
    observed.serve(make_router(upstream([engine.url])))
    observed.post(path="/v1/chat/completions", messages=[{"role": "user", "content": "x" * 40}])

    record = observed.record()
    assert (record.operation, record.outcome, record.streaming, record.output_length) == (
        "chat",
        Outcome.COMPLETED,
        False,
        8,
    )
    assert record.actual.ttft_ms is None


def test_token_ids(observed: Observed) -> None:
    """The length of a prompt of token ids is exact."""
    engine = observed.add_engine("engine")
    observed.serve(make_router(HttpxUpstream([engine.url])))
    observed.post(prompt=list(range(100)))

    record = observed.record()
    assert (record.input_token_length, record.input_token_source.value) == (100, "tokenized")


def test_plain_asgi(observed: Observed) -> None:
    """An application without framework and lifespan is followed by its server."""
    engine = observed.add_engine("engine")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        body = (await receive())["body"]
        if b"explode" in body:
            raise RuntimeError("secret")
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            answer = await client.post(engine.url + scope["path"], content=body)
        headers = [(b"content-type", answer.headers["content-type"].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer.content})

    observed.serve(application)
    observed.post(stream=True, stream_options={"include_usage": True})
    assert observed.post(prompt="explode").status_code == 500

    streamed, rejected = observed.records(2)
    assert (streamed.outcome, streamed.output_length, streamed.served_endpoint) == (
        Outcome.COMPLETED,
        8,
        endpoint_id(engine),
    )
    assert streamed.actual.ttft_ms is not None
    assert rejected.error is not None
    assert (rejected.outcome, rejected.error.type) == (Outcome.REJECTED, "RuntimeError")


def test_answered_by_middleware(observed: Observed) -> None:
    """A request refused by middleware never reaches the routing, and is rejected."""

    class Refusing:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            answer = JSONResponse({"error": "no key"}, 401) if scope["type"] == "http" else self.app
            await answer(scope, receive, send)

    app = make_router(HttpxUpstream([]))
    app.add_middleware(Refusing)
    observed.serve(app)
    assert observed.post().status_code == 401

    record = observed.record()
    assert record.error is not None
    assert (record.outcome, record.error.type) == (Outcome.REJECTED, "http_401")


@pytest.mark.parametrize("prompt", ["refuse", "explode"])
def test_rejected_below_a_span_of_middleware(observed: Observed, prompt: str) -> None:
    """A rejected request is below the span in which the routing ran."""
    spans: list[SpanContext] = []

    class Tracing:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            tracer = observed.telemetry.tracer_provider.get_tracer("middleware")
            with tracer.start_as_current_span("middleware") as span:
                spans.append(span.get_span_context())
                await self.app(scope, receive, send)

    app = make_router(HttpxUpstream([]))
    app.add_middleware(Tracing)
    observed.serve(app)
    assert observed.post(prompt=prompt).status_code >= 400

    record = observed.record()
    assert record.outcome is Outcome.REJECTED
    assert record.span_kind == "internal"
    assert record.parent_span_id in [format(span.span_id, "016x") for span in spans]


def test_next_request_of_a_connection(observed: Observed) -> None:
    """After a body that uvicorn had to pause, the next request runs in its context."""
    engine = observed.add_engine("engine")
    observed.serve(make_router(HttpxUpstream([engine.url])))
    for model in ("x" * (3 << 20), "m"):
        observed.post(model=model)

    assert [record.outcome for record in observed.records(2)] == [Outcome.COMPLETED] * 2


def test_prefill_decode(observed: Observed) -> None:
    """Both legs of a PD proxy form one route."""
    prefill = observed.add_engine("prefill")
    decode = observed.add_engine("decode")
    observed.serve(make_pd_proxy(prefill.url, decode.url))
    observed.post(stream=True)

    record = observed.record()
    assert record.outcome is Outcome.COMPLETED
    assert record.selected_route is not None
    assert record.selected_route.prefill is not None
    assert record.selected_route.decode is not None
    assert record.tracked_endpoints == [endpoint_id(prefill), endpoint_id(decode)]
    assert (record.attempt, record.rerouted) == (1, [])


def test_failover(observed: Observed, upstream: type[Upstream]) -> None:
    """A retry on another engine is an event of the only span."""
    dead = closed_port()
    engine = observed.add_engine("engine")
    observed.serve(make_router(upstream([dead, engine.url])))
    observed.post(stream=True)

    record = observed.record()
    (change,) = record.rerouted
    assert (record.outcome, record.attempt) == (Outcome.COMPLETED, 2)
    assert (change.from_endpoint, change.to_endpoint) == (
        dead.replace("http", "addr"),
        endpoint_id(engine),
    )
    assert change.reason.endswith(("ConnectError", "ClientConnectorError"))


def test_nobody_can_be_reached(observed: Observed, upstream: type[Upstream]) -> None:
    """A router that gives up after a failed call made an error."""
    observed.serve(make_router(upstream([closed_port()])))
    observed.post()

    record = observed.record()
    assert record.error is not None
    assert (record.outcome, record.error.type) == (Outcome.ERROR, "http_503")


@pytest.mark.parametrize(
    ("fault", "stream", "outcome", "error"),
    [
        ("http_500", False, Outcome.ERROR, "http_500"),
        ("http_500", True, Outcome.ERROR, "http_500"),
        ("truncate", True, Outcome.ERROR, "stream_truncated"),
        ("slow", True, Outcome.COMPLETED, None),
    ],
)
def test_engine_faults(
    observed: Observed,
    upstream: type[Upstream],
    fault: str,
    stream: bool,
    outcome: Outcome,
    error: str | None,
) -> None:
    """An engine's fault is the outcome of the request."""
    engine = observed.add_engine("engine")
    observed.serve(make_router(upstream([engine.url])))
    observed.cluster.break_engine("engine", fault)
    observed.post(stream=stream)

    record = observed.record()
    assert (record.outcome, record.error and record.error.type) == (outcome, error)


def test_connection_cut_in_mid_stream(observed: Observed, upstream: type[Upstream]) -> None:
    """An engine that dies during a stream is an error after the first chunk."""
    engine, heard = ProgrammedEngine(), threading.Event()
    engine.pieces = [EVENT, heard, None]  # aiohttp drops what it has when a connection breaks
    url = observed.cluster.add_app("engine", unobserved(engine)).url
    observed.serve(make_router(upstream([url])))
    with pytest.raises(httpx.RemoteProtocolError):
        observed.listen(heard)

    record = observed.record()
    assert record.outcome is Outcome.ERROR
    assert record.actual.ttft_ms is not None


def test_client_disconnect(observed: Observed, upstream: type[Upstream]) -> None:
    """A client that leaves during a stream is a disconnect, not an error."""
    engine = observed.add_engine("engine", time_scale=1.0)
    url = observed.serve(make_router(upstream([engine.url])))
    body = {"model": "m", "prompt": "hello", "max_tokens": 4000, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=30) as response:
        next(response.iter_raw())

    record = observed.record()
    assert (record.outcome, record.error) == (Outcome.CLIENT_DISCONNECT, None)
    assert record.actual.ttft_ms is not None


def test_refused_by_the_router(observed: Observed) -> None:
    """A router that answers without an engine has rejected the request."""
    observed.serve(make_router(HttpxUpstream([])))
    observed.post(prompt="refuse")

    record = observed.record()
    assert record.error is not None
    assert (record.outcome, record.error.type) == (Outcome.REJECTED, "http_400")


def test_router_raises(observed: Observed) -> None:
    """A handler that raises is an error of that type."""
    observed.serve(make_router(HttpxUpstream([])))
    assert observed.post(prompt="explode").status_code == 500

    record = observed.record()
    assert record.error is not None
    assert (record.outcome, record.error.type) == (Outcome.REJECTED, "RuntimeError")


def test_other_paths(observed: Observed) -> None:
    """Only inference is tracked."""
    observed.serve(make_router(HttpxUpstream([])))
    assert observed.post(path="/tokenize").status_code == 200
    observed.post(prompt="refuse")

    assert observed.record().outcome is Outcome.REJECTED


def test_id_that_comes_again(observed: Observed) -> None:
    """Two requests in flight with one id from the client are two requests."""
    engine, arrived = make_engine("engine"), 0

    async def engine_of_both(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal arrived
        arrived += scope["type"] == "http"
        while scope["type"] == "http" and arrived < 2:
            await asyncio.sleep(0.005)
        await engine(scope, receive, send)

    url = observed.cluster.add_app("engine", unobserved(engine_of_both)).url
    observed.serve(make_router(HttpxUpstream([url])))
    with ThreadPoolExecutor(2) as clients:
        done = [
            clients.submit(observed.post, headers={"x-request-id": "same"}, stream=True)
            for _ in range(2)
        ]
        assert [future.result().status_code for future in done] == [200, 200]

    records = observed.records(2)
    assert [record.outcome for record in records] == [Outcome.COMPLETED] * 2
    assert len({record.request_id for record in records}) == 2


def test_no_content_leaves_the_router(observed: Observed, upstream: type[Upstream]) -> None:
    """Neither span nor record has a prompt, a completion, a header or a key."""
    engine = observed.add_engine("engine")
    observed.serve(make_router(upstream([engine.url])))
    secrets = {"authorization": "Bearer s3cret-key", "cookie": "s3cret-cookie"}
    answer = observed.post(headers=secrets, prompt="s3cret-prompt " * 20, user="s3cret-user")
    completion = answer.json()["choices"][0]["text"].strip()

    observed.record()
    emitted = repr(observed.telemetry.spans_as_dicts()) + observed.path.read_text("utf-8")
    assert len(completion) > 8
    assert [text for text in ("s3cret", completion) if text in emitted] == []


def test_many_streams_at_once(observed: Observed, upstream: type[Upstream]) -> None:
    """Two hundred concurrent streams have two hundred spans and records of their own."""
    engine = observed.add_engine("engine", max_running=200)
    observed.serve(make_router(upstream([engine.url])))
    with ThreadPoolExecutor(40) as clients:
        done = [
            clients.submit(
                observed.post, headers={"x-request-id": f"request-{number}"}, stream=True
            )
            for number in range(200)
        ]
        assert {future.result().status_code for future in done} == {200}

    records = observed.records(200)
    assert {record.outcome for record in records} == {Outcome.COMPLETED}
    assert len({record.request_id for record in records}) == 200


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe not json",
        b"[1, 2]",
        b'{"model": 5, "stream": "yes", "prompt": {"a": 1}}',
        b'{"model": "\\ud800", "prompt": [1, "2"]}',
        b"[" * 100_000,
        b'{"model": "m", "stream": true, "prompt": "' + b"x" * (3 << 20) + b'"}',
    ],
    ids=["empty", "cut", "binary", "list", "types", "surrogate", "deep", "gigantic"],
)
def test_bodies(observed: Observed, content: bytes) -> None:
    """Whatever the body, the router gets it complete, and the request is tracked."""
    engine = observed.add_engine("engine")
    url = observed.serve(make_router(HttpxUpstream([engine.url])))
    response = httpx.post(f"{url}/v1/completions", content=content, timeout=30)

    assert response.status_code in (200, 400)
    assert observed.record().outcome in (Outcome.COMPLETED, Outcome.ERROR)


def test_same_answers(tmp_path: Path, upstream: type[Upstream]) -> None:
    """The router answers the same bytes with and without instrumentation."""

    def answers(
        serve: Callable[[Any], str], cluster: Cluster
    ) -> list[tuple[int, dict[str, str], bytes]]:
        engine = cluster.add_engine("engine", seed=7)
        url = serve(make_router(upstream([engine.url])))
        found: list[tuple[int, dict[str, str], bytes]] = []
        for fields in ({}, {"stream": True}, {"max_tokens": -1}, {"prompt": "refuse"}):
            body = {"model": "m", "prompt": "hello", "max_tokens": 8, **fields}
            response = httpx.post(f"{url}/v1/completions", json=body, timeout=30)
            content = httpx.Response(200, content=response.content).text
            for changing in ("id", "created"):
                content = _without(content, changing)
            headers = {name: value for name, value in response.headers.items() if name != "date"}
            headers.pop("content-length", None)
            found.append((response.status_code, headers, content.encode()))
        return found

    plain_cluster = Cluster()

    def serve_plain(app: Any) -> str:
        plain_cluster.router = Server(app)
        return plain_cluster.router.url

    plain = answers(serve_plain, plain_cluster)
    plain_cluster.stop()
    observed = Observed(tmp_path / "records.jsonl")
    instrumented = answers(observed.serve, observed.cluster)
    observed.stop()

    assert instrumented == plain


def _without(text: str, field: str) -> str:
    """Return the text without the values of one field, which differ between runs."""
    parts = text.replace('": ', '":').split(f'"{field}":')
    return parts[0] + "".join(part.partition(",")[2] for part in parts[1:])
