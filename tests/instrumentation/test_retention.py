"""Nothing is kept of a finished request, although contexts of connections and tasks live on."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import Context, copy_context
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from otel_lifecycle.instrumentation.http.answers.json_body import JsonBody
from otel_lifecycle.tracking.current_request import CurrentRequest
from tests.instrumentation.generic_routers import AiohttpUpstream, HttpxUpstream, Upstream
from tests.instrumentation.test_generic import Observed, unobserved
from tests.waiting import eventually

ANSWER_BYTES = 900_000
REQUESTS = 60
# Our reference, and a span's ids in OpenTelemetry's context.
BYTES_A_REQUEST = 2_000
KEPT_NOTHING_MIB = 16.0


async def big_engine(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a JSON object of 0.9 MB, in one piece or as a stream with one long event."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = (
        b'{"choices":[{"index":0,"text":"' + b"x" * ANSWER_BYTES + b'","finish_reason":"stop"}]}'
    )
    if b'"stream":true' in body:
        answer = b"data: " + answer + b"\n\ndata: [DONE]\n\n"
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


class KeepingRouter:
    """A router that starts a task, a timer and more that outlive each request.

    Attributes:
        contexts: The contexts that they have copied.
        kept: Other objects that a careless router keeps of each request.
    """

    def __init__(self, upstream: Upstream, url: str) -> None:
        self.upstream = upstream
        self.url = url
        self.contexts: list[Context] = []
        self.kept: list[Any] = []
        self._forever: list[Any] = []

    async def route(self, request: Request) -> Response:
        """Forward one request."""
        body = await request.body()
        self._live_on()
        answer = await self.upstream.call(self.url + request.url.path, body)
        assert answer is not None
        _, _, chunks = answer
        if b'"stream":true' in body:
            return StreamingResponse(self._counted(chunks))
        return Response(b"".join([chunk async for chunk in chunks]))

    async def _counted(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield chunk
        self._live_on()

    def _live_on(self) -> None:
        self.contexts.append(copy_context())
        self._forever.append(asyncio.create_task(asyncio.Event().wait()))
        self._forever.append(asyncio.get_running_loop().call_later(3600, bool))

    def app(self) -> Starlette:
        """The application."""
        routes = [Route("/v1/completions", self.route, methods=["POST"])]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        await self.upstream.start()
        yield
        for living in self._forever:
            living.cancel()
        await self.upstream.stop()


def reachable_bytes(roots: Iterable[Any]) -> int:
    """Return the memory that the roots keep alive, without code and modules."""
    seen: dict[int, Any] = {}
    waiting = list(roots)
    while waiting:
        found = waiting.pop()
        is_code = isinstance(found, (type, ModuleType, FunctionType, BuiltinFunctionType))
        if is_code or id(found) in seen:
            continue
        seen[id(found)] = found
        waiting.extend(gc.get_referents(found))
    return sum(sys.getsizeof(found) for found in seen.values())


def ours() -> dict[str, int]:
    """Return the living objects of requests: ours, and the SDK's spans."""
    gc.collect()
    counts: dict[str, int] = {}
    for found in gc.get_objects():
        kind = type(found)
        name = f"{kind.__module__}.{kind.__qualname__}"
        is_ours = name.startswith(
            ("otel_lifecycle.instrumentation.", "otel_lifecycle.tracking.")
        ) and not isinstance(found, CurrentRequest)
        if is_ours or name == "opentelemetry.sdk.trace._Span":
            counts[name] = counts.get(name, 0) + 1
    return counts


def more_than(before: dict[str, int]) -> dict[str, int]:
    """Return the additional objects after the last request has gone."""
    left: dict[str, int] = {}

    def is_gone() -> bool:
        left.clear()
        left.update({name: n for name, n in ours().items() if n > before.get(name, 0)})
        return not left

    with suppress(AssertionError):
        eventually(is_gone)
    return left


def resident_mib() -> float:
    """Return the process's resident memory, less what glibc keeps of what was freed."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * 4096 / (1 << 20)


@pytest.mark.parametrize("kind", [HttpxUpstream, AiohttpUpstream])
@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_kept(
    tmp_path: Path, kind: Callable[[list[str]], Upstream], stream: bool
) -> None:
    """Only a few hundred bytes of a finished request stay in contexts, and no object of ours."""
    observed = Observed(tmp_path / "records.jsonl")
    try:
        engine = observed.cluster.add_app("engine", unobserved(big_engine))
        router = KeepingRouter(kind([]), engine.url)
        observed.serve(router.app())
        for _ in range(3):  # objects that the first requests make once
            assert len(observed.post(stream=stream).content) > ANSWER_BYTES
        observed.records(3)
        before, resident = ours(), resident_mib()
        router.contexts.clear()
        for _ in range(REQUESTS):
            observed.post(stream=stream)
        observed.records(3 + REQUESTS)
        left = more_than(before)
        grown = resident_mib() - resident

        assert left == {}
        values = [
            value
            for context in router.contexts
            for variable, value in context.items()
            if variable.name == "otel_lifecycle_request" or "opentelemetry" in variable.name
        ]
        assert values
        assert reachable_bytes(values) < BYTES_A_REQUEST * len(router.contexts)
        assert grown < KEPT_NOTHING_MIB
    finally:
        observed.stop()


@pytest.mark.parametrize("kind", [HttpxUpstream, AiohttpUpstream])
def test_many_calls_of_one_request(tmp_path: Path, kind: Callable[[list[str]], Upstream]) -> None:
    """A request with any number of calls keeps only the body of the last answer."""
    observed = Observed(tmp_path / "records.jsonl")
    try:
        engine = observed.cluster.add_app("engine", unobserved(big_engine))
        upstream, counts = kind([]), []

        async def route(request: Request) -> Response:
            body = await request.body()
            for _ in range(10):
                answer = await upstream.call(engine.url + request.url.path, body)
                assert answer is not None
                async for _ in answer[2]:
                    pass
                counts.append(ours().get(f"{JsonBody.__module__}.JsonBody", 0))
            return Response(b"{}")

        observed.serve(serving(route, upstream))
        observed.post(stream=False)

        assert counts[0] > 0
        assert max(counts) <= counts[0] + 1
    finally:
        observed.stop()


@pytest.mark.parametrize("kind", [HttpxUpstream, AiohttpUpstream])
def test_calls_that_outlive_their_request(
    tmp_path: Path, kind: Callable[[list[str]], Upstream]
) -> None:
    """An engine that answers after the end of the request leaves nothing behind."""
    observed = Observed(tmp_path / "records.jsonl")
    try:
        engine = observed.cluster.add_app("engine", unobserved(big_engine))
        upstream, calls = kind([]), []

        async def route(request: Request) -> Response:
            body = await request.body()
            called = asyncio.Event()

            async def call() -> None:
                called.set()
                answer = await upstream.call(engine.url + request.url.path, body)
                assert answer is not None
                async for _ in answer[2]:
                    pass

            calls.append(asyncio.create_task(call()))
            await called.wait()
            return Response(b"{}")

        observed.serve(serving(route, upstream))
        observed.post(stream=False)
        eventually(lambda: all(call.done() for call in calls))
        before = ours()
        for _ in range(10):
            observed.post(stream=False)
        eventually(lambda: all(call.done() for call in calls))

        assert [call.exception() for call in calls] == [None] * 11
        assert more_than(before) == {}
    finally:
        observed.stop()


def serving(route: Callable[..., Any], upstream: Upstream) -> Starlette:
    """An application with one route, which may use the client."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await upstream.start()
        yield
        await upstream.stop()

    return Starlette(routes=[Route("/v1/completions", route, methods=["POST"])], lifespan=lifespan)
