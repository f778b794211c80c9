"""ASGI responses: the engine's own output, or the relayed output of a decode engine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import anyio
import httpx
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from engine_sim.disconnect import run_until_disconnect
from engine_sim.engine import Engine, Job
from engine_sim.faults import CHUNKS_BEFORE_CUT, Fault
from engine_sim.openai_format import DONE_EVENT, Renderer
from engine_sim.pd_proxy import PDProxy, ProxyError

SSE_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


class HangingResponse:
    """Never answers; ends when the client leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Wait for the client to disconnect."""
        await run_until_disconnect(receive, anyio.sleep_forever)


class GeneratedResponse:
    """Runs a job on the engine and sends its output, complete or token by token."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        renderer: Renderer,
        *,
        stream: bool,
        include_usage: bool,
        fault: Fault,
    ) -> None:
        self._engine = engine
        self._job = job
        self._renderer = renderer
        self._stream = stream
        self._include_usage = include_usage
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Generate and send until done, or until the client disconnects."""

        async def work() -> None:
            if self._stream:
                await self._send_stream(send)
            else:
                await self._send_whole(scope, receive, send)

        await run_until_disconnect(receive, work)

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._engine.generate(self._job)) as chunks:
            async for _ in chunks:
                pass
        await JSONResponse(self._renderer.body(self._job))(scope, receive, send)

    async def _send_stream(self, send: Send) -> None:
        produced = sent_chunks = 0
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        async with aclosing(self._engine.generate(self._job)) as chunks:
            async for tokens in chunks:
                if sent_chunks == CHUNKS_BEFORE_CUT and self._fault is Fault.DROP_MID_STREAM:
                    return  # the server closes the connection of a response left incomplete
                if sent_chunks == CHUNKS_BEFORE_CUT and self._fault is Fault.TRUNCATE:
                    await _send_body(send, b"", more=False)
                    return
                produced += tokens
                sent_chunks += 1
                last = produced == self._job.output_tokens
                await _send_body(send, self._renderer.event(tokens, last=last))
        if self._include_usage:
            await _send_body(send, self._renderer.usage_event(self._job))
        await _send_body(send, DONE_EVENT, more=False)


class ProxiedResponse:
    """The leader's answer: prefill on one engine, then the output of another."""

    def __init__(
        self,
        proxy: PDProxy,
        path: str,
        headers: Mapping[str, str],
        payload: dict[str, Any],
        body: bytes,
    ) -> None:
        self._proxy = proxy
        self._path = path
        self._headers = headers
        self._payload = payload
        self._body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Prefill, then relay the decode until done, or until the client disconnects."""

        async def work() -> None:
            self._proxy.in_flight += 1
            try:
                upstream = await self._prefill_and_decode()
            except ProxyError as failure:
                error = {"error": {"message": str(failure), "type": "upstream_error"}}
                await JSONResponse(error, failure.status, failure.headers)(scope, receive, send)
            else:
                async with aclosing(upstream):
                    await self._relay(upstream, send)
            finally:
                self._proxy.in_flight -= 1

        await run_until_disconnect(receive, work)

    async def _prefill_and_decode(self) -> httpx.Response:
        cached_tokens = await self._proxy.prefill(self._path, self._headers, self._payload)
        return await self._proxy.decode(self._path, self._headers, self._body, cached_tokens)

    async def _relay(self, upstream: httpx.Response, send: Send) -> None:
        content_type = upstream.headers["content-type"].encode()
        headers = [(b"content-type", content_type)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for chunk in upstream.aiter_raw():
                await _send_body(send, chunk)
        except httpx.TransportError:
            return  # cut towards the router as well: leave the response incomplete
        await _send_body(send, b"", more=False)


async def _send_body(send: Send, body: bytes, *, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
