"""The HTTP API of an engine: OpenAI API, metrics, health and fault injection."""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from engine_sim.config import EngineConfig
from engine_sim.engine import Engine, Job, Load
from engine_sim.exposition import npu_metrics, vllm_metrics
from engine_sim.faults import SLOW_FACTOR, Fault
from engine_sim.openai_format import Renderer
from engine_sim.pd_proxy import CACHED_TOKENS_HEADER, KV_TRANSFERRED_HEADER, PDProxy
from engine_sim.prompt import (
    InvalidRequestError,
    parse_include_usage,
    parse_output_tokens,
    parse_prompt,
)
from engine_sim.responses import GeneratedResponse, HangingResponse, ProxiedResponse

REMEMBERED_TRACEPARENTS = 1000


class EngineApp:
    """The handlers of one engine process; a leader proxies instead of generating."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._engine = Engine(config)
        self._proxy = PDProxy() if config.role == "leader" else None
        self._fault = Fault.NONE
        self._jitter = random.Random(config.seed)
        self._traceparents: deque[dict[str, str | None]] = deque(maxlen=REMEMBERED_TRACEPARENTS)

    def build(self) -> Starlette:
        """Build the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/metrics", self._metrics),
                Route("/npu/metrics", self._npu_metrics),
                Route("/health", self._health),
                Route("/admin/fault", self._set_fault, methods=["POST"]),
                Route("/debug/traceparents", self._show_traceparents),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None, None]:
        yield
        if self._proxy is not None:
            await self._proxy.aclose()

    async def _complete(self, request: Request) -> Response | ASGIApp:
        self._remember_traceparent(request)
        body = await request.body()
        if self._fault is Fault.HTTP_500:
            return _error(500, "injected fault")
        if self._fault is Fault.HANG:
            return HangingResponse()
        try:
            payload = _parse_json(body)
            if self._proxy is not None:
                path = request.url.path
                return ProxiedResponse(self._proxy, path, request.headers, payload, body)
            return self._generate(request, payload)
        except InvalidRequestError as error:
            return _error(400, str(error))

    def _generate(self, request: Request, payload: dict[str, Any]) -> ASGIApp:
        job = Job(
            prompt=parse_prompt(payload, self._config.block_size),
            output_tokens=parse_output_tokens(payload),
            kv_transferred=request.headers.get(KV_TRANSFERRED_HEADER) == "1",
            cached_tokens=int(request.headers.get(CACHED_TOKENS_HEADER, "0")),
            slowdown=SLOW_FACTOR if self._fault is Fault.SLOW else 1.0,
        )
        self._engine.check(job)
        renderer = Renderer(
            chat=request.url.path.endswith("/chat/completions"),
            request_id=request.headers.get("x-request-id") or uuid4().hex,
            model=str(payload.get("model") or self._config.model),
        )
        return GeneratedResponse(
            self._engine,
            job,
            renderer,
            stream=bool(payload.get("stream")),
            include_usage=parse_include_usage(payload),
            fault=self._fault,
        )

    async def _models(self, _: Request) -> Response:
        model = {"id": self._config.model, "object": "model", "owned_by": "engine_sim"}
        return JSONResponse({"object": "list", "data": [model]})

    async def _metrics(self, _: Request) -> Response:
        return PlainTextResponse(vllm_metrics(self._config, self._load()))

    async def _npu_metrics(self, _: Request) -> Response:
        if self._fault is Fault.NPU_EXPORTER_DOWN:
            return PlainTextResponse("down", 503)
        return PlainTextResponse(npu_metrics(self._config, self._load(), self._jitter))

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok")

    async def _set_fault(self, request: Request) -> Response:
        try:
            self._fault = Fault(_parse_json(await request.body()).get("kind"))
        except ValueError as error:
            return _error(400, str(error))
        return JSONResponse({"kind": self._fault.value})

    async def _show_traceparents(self, _: Request) -> Response:
        return JSONResponse({"traceparents": list(self._traceparents)})

    def _remember_traceparent(self, request: Request) -> None:
        if "traceparent" in request.headers:
            names = ("traceparent", "tracestate", "x-request-id")
            self._traceparents.append({name: request.headers.get(name) for name in names})

    def _load(self) -> Load:
        load = self._engine.load
        return load if self._proxy is None else replace(load, running=self._proxy.in_flight)


def create_app(config: EngineConfig) -> Starlette:
    """Build the application of one engine."""
    return EngineApp(config).build()


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        payload: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError("the body is not valid JSON") from error
    if not isinstance(payload, dict):
        raise InvalidRequestError("the body must be a JSON object")
    return payload  # pyright: ignore[reportUnknownVariableType]


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "engine_error"}}, status)
