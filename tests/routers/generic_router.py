"""A small router without any telemetry, as a program.

It sends a request to a random one of two engines, and to the other if that one is unreachable. Some
model names select another behaviour: `failover` and `refused` call unreachable engines, `pd`
prefills on the first engine and decodes on the second, `raise` is a bug.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from tests.instrumentation.generic_routers import AiohttpUpstream, HttpxUpstream, Upstream

UPSTREAMS: dict[str, type[Upstream]] = {"httpx": HttpxUpstream, "aiohttp": AiohttpUpstream}
PATHS = ("/v1/completions", "/v1/chat/completions")

# For an engine that never answers: the router is to give up on it within a test.
HANGING_SECONDS = 5.0


class Answer(NamedTuple):
    """An answer to a client."""

    status: int
    kind: str
    content: bytes | AsyncIterator[bytes]


class GenericRouter:
    """Calls the engines; the frameworks below serve the client."""

    def __init__(self, upstream: Upstream, nowhere: str, patience: float) -> None:
        self._upstream = upstream
        self._nowhere = nowhere
        self._patience = patience
        self._random = random.Random(7)

    async def answer(self, path: str, body: bytes) -> Answer:
        """Route one request."""
        try:
            request = json.loads(body)
        except ValueError:
            return _refusal(400, "invalid JSON")
        model = request.get("model")
        patience = HANGING_SECONDS if request.get("does") == "hang" else self._patience
        if model == "raise":
            raise RuntimeError("secret")
        if model == "pd":
            await self._prefill(path, request)
        try:
            for url in self._choices(model):
                found = await asyncio.wait_for(self._upstream.call(url + path, body), patience)
                if found is not None:
                    status, kind, chunks = found
                    if request.get("stream"):
                        return Answer(status, kind, chunks)
                    whole = b"".join([chunk async for chunk in chunks])
                    return Answer(status, kind, whole)
        except asyncio.TimeoutError:
            return _refusal(504, "no engine answered")
        return _refusal(503, "no engine could be reached")

    def _choices(self, model: str) -> list[str]:
        first, second = self._upstream.urls
        if model == "pd":
            return [second]
        if model == "failover":
            return [self._nowhere, second]
        if model == "refused":
            return [self._nowhere, self._nowhere]
        return self._random.sample([first, second], 2)

    async def _prefill(self, path: str, request: dict[str, Any]) -> None:
        transfer = {"do_remote_decode": True}
        body = {**request, "kv_transfer_params": transfer, "max_tokens": 1, "stream": False}
        found = await self._upstream.call(self._upstream.urls[0] + path, json.dumps(body).encode())
        assert found is not None
        async for _ in found[2]:
            pass

    @asynccontextmanager
    async def lifespan(self, _: Any) -> AsyncIterator[None]:
        """Open and close the client."""
        await self._upstream.start()
        yield
        await self._upstream.stop()


def _refusal(status: int, text: str) -> Answer:
    return Answer(status, "application/json", json.dumps({"error": text}).encode())


def make_fastapi(router: GenericRouter) -> Any:
    """Served by FastAPI."""
    app = FastAPI(lifespan=router.lifespan)

    async def route(request: Request) -> Any:
        return _response(await router.answer(request.url.path, await request.body()))

    for path in PATHS:
        app.post(path)(route)
    return app


def make_starlette(router: GenericRouter) -> Any:
    """Served by Starlette alone."""

    async def route(request: Request) -> Any:
        return _response(await router.answer(request.url.path, await request.body()))

    routes = [Route(path, route, methods=["POST"]) for path in PATHS]
    return Starlette(routes=routes, lifespan=router.lifespan)


def make_asgi(router: GenericRouter) -> Any:
    """Served by plain ASGI, without lifespan."""
    started = False

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal started
        assert scope["type"] == "http"
        if not started:
            started = True
            await router._upstream.start()
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, kind, content = await router.answer(scope["path"], body)
        headers = [(b"content-type", kind.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if isinstance(content, bytes):
            await send({"type": "http.response.body", "body": content})
            return
        gone = asyncio.ensure_future(receive())
        async for chunk in content:
            if gone.done():
                return
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        gone.cancel()
        await send({"type": "http.response.body", "body": b""})

    return application


def _response(answer: Answer) -> Any:
    kind = Response if isinstance(answer.content, bytes) else StreamingResponse
    return kind(answer.content, answer.status, media_type=answer.kind)  # type: ignore[arg-type]


FRAMEWORKS = {
    "fastapi": make_fastapi,
    "starlette": make_starlette,
    "asgi": make_asgi,
}


def serve_with_uvicorn(app: Any, port: int) -> None:
    """Serve as most routers do."""
    import uvicorn

    uvicorn.run(app, port=port, log_level="error", timeout_graceful_shutdown=2)


def serve_with_hypercorn(app: Any, port: int) -> None:
    """Serve as hypercorn's command does."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.graceful_timeout = 2
    asyncio.run(serve(app, config))


SERVERS = {"uvicorn": serve_with_uvicorn, "hypercorn": serve_with_hypercorn}


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("engines", nargs=2)
    parser.add_argument("--nowhere", default="http://127.0.0.1:9", help="where nobody listens")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for an engine")
    parser.add_argument("--framework", choices=FRAMEWORKS, default="fastapi")
    parser.add_argument("--upstream", choices=UPSTREAMS, default="httpx")
    parser.add_argument("--server", choices=SERVERS, default="uvicorn")
    parser.add_argument("--asgi-middleware", action="store_true", help="contrib's")
    parser.add_argument("--instrument-again", action="store_true", help="by hand as well")
    options = parser.parse_args()
    upstream = UPSTREAMS[options.upstream](options.engines)
    router = GenericRouter(upstream, options.nowhere, options.patience)
    app = FRAMEWORKS[options.framework](router)
    if options.asgi_middleware:
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

        app.add_middleware(OpenTelemetryMiddleware)  # FastAPI then makes no span of its own
    if options.instrument_again:
        from otel_lifecycle.instrumentation.generic import GenericRouterInstrumentor

        GenericRouterInstrumentor().instrument()
    SERVERS[options.server](app, options.port)


if __name__ == "__main__":
    main()
