"""Small routers without any telemetry, one for each client library."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

FORWARDED = {"content-type": "application/json"}


class Upstream:
    """Calls engines; the first one that can be reached answers."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    async def start(self) -> None:
        """Open the client."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Close the client."""
        raise NotImplementedError

    async def call(self, url: str, body: bytes) -> tuple[int, str, AsyncIterator[bytes]] | None:
        """Return status, content type and body of an engine's answer; None if it is unreachable."""
        raise NotImplementedError


class HttpxUpstream(Upstream):
    """Through httpx."""

    async def start(self) -> None:
        self.client = httpx.AsyncClient(timeout=30, trust_env=False)

    async def stop(self) -> None:
        await self.client.aclose()

    async def call(self, url: str, body: bytes) -> tuple[int, str, AsyncIterator[bytes]] | None:
        request = self.client.build_request("POST", url, content=body, headers=FORWARDED)
        try:
            response = await self.client.send(request, stream=True)
        except httpx.ConnectError:
            return None

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in response.aiter_raw():
                    yield chunk
            finally:
                await response.aclose()

        return response.status_code, response.headers["content-type"], chunks()


class AiohttpUpstream(Upstream):
    """Through aiohttp."""

    async def start(self) -> None:
        self.session = aiohttp.ClientSession()

    async def stop(self) -> None:
        await self.session.close()

    async def call(self, url: str, body: bytes) -> tuple[int, str, AsyncIterator[bytes]] | None:
        try:
            response = await self.session.post(url, data=body, headers=FORWARDED)
        except aiohttp.ClientConnectorError:
            return None

        async def chunks() -> AsyncIterator[bytes]:
            async with response:
                async for chunk in response.content.iter_any():
                    yield chunk

        return response.status, response.headers["content-type"], chunks()


def make_router(upstream: Upstream) -> FastAPI:
    """A router that passes on answers unchanged."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await upstream.start()
        yield
        await upstream.stop()

    app = FastAPI(lifespan=lifespan)

    async def route(request: Request) -> Response:
        body = await request.body()
        if b"refuse" in body:
            return JSONResponse({"error": "refused"}, 400)
        if b"explode" in body:
            raise RuntimeError("secret")
        for url in upstream.urls:
            answer = await upstream.call(url + request.url.path, body)
            if answer is not None:
                status, kind, chunks = answer
                if b'"stream":true' in body.replace(b" ", b""):
                    return StreamingResponse(chunks, status, media_type=kind)
                content = b"".join([chunk async for chunk in chunks])
                return Response(content, status, media_type=kind)
        return JSONResponse({"error": "unavailable"}, 503)

    async def count(request: Request) -> dict[str, Any]:
        return {"length": len(await request.body())}

    for path in ("completions", "chat/completions", "messages", "responses"):
        app.post(f"/v1/{path}")(route)
    app.post("/generate")(route)
    app.post("/tokenize")(count)
    return app


def make_pd_proxy(prefill: str, decode: str) -> FastAPI:
    """A proxy that prefills a prompt on one engine and decodes on another."""
    app = FastAPI()

    async def route(request: Request) -> Response:
        payload = await request.json()
        transfer = {"kv_transfer_params": {"do_remote_decode": True}}
        client = httpx.AsyncClient(timeout=30, trust_env=False)
        first = {**payload, **transfer, "max_tokens": 1, "stream": False}
        await client.post(f"{prefill}{request.url.path}", json=first)
        call = client.build_request("POST", f"{decode}{request.url.path}", json=payload)
        response = await client.send(call, stream=True)

        async def chunks() -> AsyncIterator[bytes]:
            try:
                async for chunk in response.aiter_raw():
                    yield chunk
            finally:
                await response.aclose()
                await client.aclose()

        return StreamingResponse(chunks(), media_type="text/event-stream")

    app.post("/v1/completions")(route)
    return app
