"""The client's answer and the engine's are both read: each can hide the other's facts."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from otel_lifecycle import Endpoint, Outcome, RequestStart, RouteEndpoint
from otel_lifecycle import Route as LifecycleRoute
from tests.examples.programmed_engine import DONE, EVENT, LAST, Engine
from tests.instrumentation.test_generic import Observed, unobserved
from tests.waiting import PATIENCE_SECONDS, eventually

WHOLE = b'{"choices":[{"index":0,"text":"word","finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}'  # noqa: E501


class Router:
    """A router with a given handler; `chunks` calls the engine through a library."""

    def __init__(self, observed: Observed, library: str) -> None:
        self.observed = observed
        self.engine = Engine()
        self.engine_url = observed.cluster.add_app("engine", unobserved(self.engine)).url
        self.library = library
        self.left = False

    def serve(self, handler: Any, *middleware: Any) -> str:
        """Start a router with the handler at its path."""
        app = Starlette(
            routes=[Route("/v1/completions", handler, methods=["POST"])], lifespan=self._lifespan
        )
        for each in middleware:
            app.add_middleware(each)
        return self.observed.serve(app)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        async with (
            httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as self.httpx_client,
            aiohttp.ClientSession() as self.session,
        ):
            yield

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the engine's answer; raise for an error status."""
        url = f"{self.engine_url}/v1/completions"
        if self.library == "httpx":
            async with self.httpx_client.stream("POST", url, json={}) as response:
                response.raise_for_status()
                async for chunk in response.aiter_raw():
                    yield chunk
        else:
            async with self.session.post(url, json={}, raise_for_status=True) as answer:
                async for chunk in answer.content.iter_any():
                    yield chunk


@pytest.fixture
def observed(tmp_path: Path) -> Iterator[Observed]:
    """A generic instrumentation."""
    observed = Observed(tmp_path / "records.jsonl")
    yield observed
    observed.stop()


@pytest.fixture(params=["httpx", "aiohttp"])
def router(observed: Observed, request: pytest.FixtureRequest) -> Router:
    """A router with one engine, through each client library."""
    return Router(observed, request.param)


def ending(observed: Observed) -> tuple[str, str | None]:
    """Outcome and error type of the only record."""
    record = observed.record()
    return record.outcome.value, record.error and record.error.type


def post_and_leave(url: str, *, after: bytes = b"") -> None:
    """Send a request, and leave when a text of the answer has arrived."""
    host, _, port = url.removeprefix("http://").partition(":")
    body = b'{"model":"m","stream":true}'
    with socket.create_connection((host, int(port))) as client:
        client.sendall(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        seen = b""
        while after not in seen:
            seen += client.recv(1 << 16)


def test_own_terminator(router: Router) -> None:
    """A router's own terminator does not hide that the engine's stream was truncated."""
    router.engine.pieces = [EVENT]

    async def handler(_: Request) -> Response:
        async def answer() -> AsyncIterator[bytes]:
            async for chunk in router.chunks():
                yield chunk
            yield LAST + DONE

        return StreamingResponse(answer())

    router.serve(handler)
    assert router.observed.post(stream=True).content.endswith(DONE)

    assert ending(router.observed) == ("error", "stream_truncated")


def test_broken_read_that_the_router_swallows(router: Router) -> None:
    """An engine whose connection breaks has failed, whatever the router answers."""
    heard = threading.Event()
    router.engine.pieces = [EVENT, heard, None]

    async def handler(_: Request) -> Response:
        async def answer() -> AsyncIterator[bytes]:
            try:
                async for chunk in router.chunks():
                    yield chunk
            except (httpx.HTTPError, aiohttp.ClientError):
                pass
            yield LAST + DONE

        return StreamingResponse(answer())

    router.serve(handler)
    assert router.observed.listen(heard).endswith(DONE)

    outcome, error = ending(router.observed)
    assert outcome == "error"
    assert error is not None
    assert error.endswith(("RemoteProtocolError", "ClientPayloadError"))


def test_broken_read_that_the_router_renames(router: Router) -> None:
    """An exception of the router or its framework does not hide why the engine's answer broke."""
    heard = threading.Event()
    router.engine.pieces = [EVENT, heard, None]

    async def handler(_: Request) -> Response:
        async def answer() -> AsyncIterator[bytes]:
            try:
                async for chunk in router.chunks():
                    yield chunk
            except (httpx.HTTPError, aiohttp.ClientError) as error:
                raise RuntimeError("no backend") from error

        return StreamingResponse(answer())

    router.serve(handler)
    with pytest.raises(httpx.RemoteProtocolError):
        router.observed.listen(heard)

    _, error = ending(router.observed)
    assert error is not None
    assert error.endswith(("RemoteProtocolError", "ClientPayloadError"))


def test_exception_after_the_engines_answer(router: Router) -> None:
    """If the engine had answered in full, the router's exception is the error."""

    async def handler(_: Request) -> Response:
        async def answer() -> AsyncIterator[bytes]:
            async for chunk in router.chunks():
                yield chunk
            raise LookupError

        return StreamingResponse(answer())

    router.serve(handler)
    with pytest.raises(httpx.RemoteProtocolError):
        router.observed.post(stream=True)

    assert ending(router.observed) == ("error", "LookupError")


def test_stopped_by_the_router(router: Router) -> None:
    """If the router breaks off the engine's answer, that is not an error."""
    router.engine.pieces = [EVENT, EVENT, threading.Event()]

    async def handler(_: Request) -> Response:
        async def answer() -> AsyncIterator[bytes]:
            chunks = router.chunks()
            yield await anext(chunks)
            await chunks.aclose()  # type: ignore[attr-defined]
            yield LAST + DONE

        return StreamingResponse(answer())

    router.serve(handler)
    router.observed.post(stream=True)

    assert ending(router.observed) == ("completed", None)


def test_usage_that_the_router_hides(router: Router) -> None:
    """Usage that the router omits from the engine's answer is known."""
    router.engine.pieces = [WHOLE]

    async def handler(_: Request) -> Response:
        answer = json.loads(b"".join([chunk async for chunk in router.chunks()]))
        return JSONResponse({"choices": answer["choices"]})

    router.serve(handler)
    router.observed.post()

    record = router.observed.record()
    assert (record.output_length, record.input_token_length) == (2, 3)


@pytest.mark.parametrize("prompt", ["raised", "wrapped"])
def test_status_behind_an_exception(router: Router, prompt: str) -> None:
    """An exception of the client library or the router does not hide the engine's status."""
    router.engine.status = 503

    async def handler(request: Request) -> Response:
        try:
            return Response(b"".join([chunk async for chunk in router.chunks()]))
        except Exception as error:
            if b"wrapped" in await request.body():
                raise RuntimeError("no backend") from error
            raise

    router.serve(handler)
    assert router.observed.post(prompt=prompt).status_code == 500

    assert ending(router.observed) == ("error", "http_503")


@pytest.mark.parametrize("usage", [False, True], ids=["no usage", "usage"])
def test_status_behind_a_stream(router: Router, usage: bool) -> None:
    """A stream of the router's own does not hide the engine's status, unless it has usage."""
    router.engine.status = 503
    router.engine.pieces = [b'{"error":"busy"}']
    # Of an engine that was called in a way that is not followed.
    counted = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'

    async def handler(_: Request) -> Response:
        async def answer() -> AsyncIterator[bytes]:
            yield EVENT
            try:
                async for _ in router.chunks():
                    pass
            except (httpx.HTTPError, aiohttp.ClientError):
                pass
            yield LAST + counted * usage + DONE

        return StreamingResponse(answer(), media_type="text/event-stream")

    router.serve(handler)
    router.observed.post(stream=True)

    assert ending(router.observed) == (("completed", None) if usage else ("error", "http_503"))


@pytest.mark.parametrize("whole", [False, True])
def test_disconnect_that_the_router_swallows(router: Router, whole: bool) -> None:
    """A disconnect is recorded even if the router continues, or ends normally."""
    left = threading.Event()
    router.engine.pieces = [EVENT, left, LAST, DONE]

    async def handler(_: Request) -> Response:
        if whole:
            return Response(b"".join([chunk async for chunk in router.chunks()]))

        async def answer() -> AsyncIterator[bytes]:
            try:
                async for chunk in router.chunks():
                    yield chunk
            except asyncio.CancelledError:
                pass

        return StreamingResponse(answer())

    post_and_leave(router.serve(handler), after=b"" if whole else b"word")
    left.set()

    assert ending(router.observed) == ("client_disconnect", None)
    assert (router.observed.record().first_chunk_at is None) is whole


def test_application_that_returns_when_its_client_has_left(observed: Observed) -> None:
    """An application without a framework notices the disconnect and returns."""
    router = Router(observed, "httpx")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await receive()
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client:
            await client.post(f"{router.engine_url}/v1/completions", json={})
        while (await receive())["type"] != "http.disconnect":
            pass

    post_and_leave(observed.serve(application))

    assert ending(observed) == ("client_disconnect", None)


def test_client_that_leaves_after_the_last_event(router: Router) -> None:
    """A client that has everything it asked for may close at once."""
    router.engine.pieces = [EVENT, LAST, DONE, threading.Event()]

    async def handler(_: Request) -> Response:
        return StreamingResponse(router.chunks())

    post_and_leave(router.serve(handler), after=DONE)

    assert ending(router.observed) == ("completed", None)


def test_first_output_that_nobody_got(router: Router) -> None:
    """A first output after the client has left does not count."""
    left = threading.Event()
    router.engine.pieces = [b": wait\n\n", left, EVENT, LAST, DONE]

    async def handler(_: Request) -> Response:
        chunks = [chunk async for chunk in router.chunks()]

        async def answer() -> AsyncIterator[bytes]:
            for chunk in chunks:
                yield chunk

        return StreamingResponse(answer())

    post_and_leave(router.serve(handler))
    left.set()

    record = router.observed.record()
    assert (record.outcome.value, record.first_chunk_at) == ("client_disconnect", None)


class AskingAgain:
    """Middleware that routes a request again if its first answer is an error."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = await receive()
        messages: list[Any] = []
        for _ in range(2):
            messages = []
            unread = [body]

            async def again(unread: list[Any] = unread) -> Any:
                return unread.pop() if unread else await receive()

            async def keep(message: Any, kept: list[Any] = messages) -> None:
                kept.append(message)

            await self.app(scope, again, keep)
            if messages[0]["status"] < 500:
                break
        for message in messages:
            await send(message)


class PassingOn(BaseHTTPMiddleware):
    """Middleware that passes on each answer through its own stream."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """Serves."""
        answer: Response = await call_next(request)
        return answer


@pytest.mark.parametrize("middleware", [(AskingAgain,), (AskingAgain, PassingOn)])
def test_middleware_that_routes_again(router: Router, middleware: tuple[Any, ...]) -> None:
    """The record has the client's answer, and each call to an engine."""

    async def handler(_: Request) -> Response:
        router.engine.status = 503 if router.engine.called == 0 else 200
        try:
            chunks = [chunk async for chunk in router.chunks()]
        except (httpx.HTTPError, aiohttp.ClientError):
            return JSONResponse({"error": "engine"}, 503)
        return StreamingResponse(_each(chunks))

    router.serve(handler, *middleware)
    assert router.observed.post(stream=True).status_code == 200

    record = router.observed.record()
    assert (record.outcome.value, record.attempt) == ("completed", 2)
    assert record.first_chunk_at is not None


async def _each(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def test_handle(router: Router) -> None:
    """A request that a handle tracks has only the handle's record."""
    tracker = router.observed.instrumentor.tracker
    assert tracker is not None

    async def handler(request: Request) -> Response:
        endpoint = RouteEndpoint(Endpoint(pod_name="chosen"))
        start = RequestStart(request.headers["x-request-id"], LifecycleRoute(endpoint), "handled")
        async with tracker.track(start) as tracked:
            chunks = [chunk async for chunk in router.chunks()]
            tracked.complete(output_tokens=5)
        return Response(b"".join(chunks))

    router.serve(handler)
    for number in range(20):
        router.observed.post(headers={"x-request-id": f"request-{number}"})

    records = router.observed.records(20)
    assert {(record.model, record.output_length) for record in records} == {("handled", 5)}


def test_router_within_a_router(router: Router) -> None:
    """A router called in the same process has its own record, below the other's."""

    async def inner(_: Request) -> Response:
        return StreamingResponse(router.chunks())

    nested = Starlette(routes=[Route("/v1/completions", inner, methods=["POST"])])

    async def outer(request: Request) -> Response:
        transport = httpx.ASGITransport(nested)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://nested:80", timeout=PATIENCE_SECONDS
        ) as client:
            answer = await client.post("/v1/completions", content=await request.body())
        return Response(answer.content)

    router.serve(outer)
    router.observed.post(stream=True)

    below, above = router.observed.records(2)
    assert [record.outcome.value for record in (below, above)] == ["completed"] * 2
    assert below.parent_span_id == above.span_id
    assert above.selected_endpoint == "addr://nested:80"


def test_task_that_outlives_its_request(router: Router) -> None:
    """A call by a task after the end of its request does not belong to the request."""
    tasks: list[asyncio.Task[Any]] = []
    ended = asyncio.Event()

    async def later() -> list[bytes]:
        await ended.wait()
        return [chunk async for chunk in router.chunks()]

    async def handler(_: Request) -> Response:
        if tasks:
            ended.set()
            return Response(b"".join(await tasks[0]))
        tasks.append(asyncio.create_task(later()))
        return Response(b"".join([chunk async for chunk in router.chunks()]))

    router.serve(handler)
    first = router.observed.post(stream=True)
    eventually(lambda: len(router.observed.telemetry.spans) == 1)
    second = router.observed.post(stream=True)

    assert first.content == second.content
    own, others = router.observed.records(2)
    assert (own.attempt, len(own.tracked_endpoints)) == (1, 1)
    assert (others.outcome, others.tracked_endpoints) == (Outcome.COMPLETED, [])


def test_first_byte_before_the_first_output(router: Router) -> None:
    """A comment is a first byte but not output; the finish reason is the engine's."""
    heard = threading.Event()
    router.engine.pieces = [b": wait\n\n", heard, EVENT, LAST, DONE]

    async def handler(_: Request) -> Response:
        return StreamingResponse(router.chunks())

    router.serve(handler)
    router.observed.listen(heard)

    record = router.observed.record()
    assert record.first_byte_at is not None
    assert record.first_chunk_at is not None
    assert record.first_byte_at < record.first_chunk_at
    assert record.finish_reason == "stop"


def test_compressed_answer(router: Router) -> None:
    """An answer that aiohttp decompresses is read; a compressed one through httpx is unknown."""
    router.engine.headers += [(b"content-encoding", b"gzip")]
    router.engine.pieces = [gzip.compress(WHOLE)]

    async def handler(_: Request) -> Response:
        answer = b"".join([chunk async for chunk in router.chunks()])
        text = gzip.decompress(answer) if router.library == "httpx" else answer
        return JSONResponse({"choices": json.loads(text)["choices"]})

    router.serve(handler)
    assert router.observed.post().json() == {"choices": json.loads(WHOLE)["choices"]}

    record = router.observed.record()
    assert record.outcome.value == "completed"
    assert record.output_length == (None if router.library == "httpx" else 2)
