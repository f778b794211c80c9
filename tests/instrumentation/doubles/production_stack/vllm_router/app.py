"""The application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import Response

from vllm_router.routers.routing_logic import RoutingInterface
from vllm_router.service_discovery import EndpointInfo, initialize_service_discovery
from vllm_router.services.request_service.request import route_general_request
from vllm_router.stats.engine_stats import EngineStats, initialize_engine_stats_scraper
from vllm_router.stats.request_stats import RequestStatsMonitor


def create_app(
    router: RoutingInterface,
    endpoints: list[EndpointInfo],
    engine_stats: dict[str, EngineStats],
    otel_tracer: Any = None,
) -> FastAPI:
    initialize_service_discovery(endpoints)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = app.state
        by_label = {info.model_label: info.url for info in endpoints}
        state.session = aiohttp.ClientSession()
        state.prefill_client = aiohttp.ClientSession(base_url=by_label.get("prefill"))
        state.decode_client = aiohttp.ClientSession(base_url=by_label.get("decode"))
        yield
        for session in (state.session, state.prefill_client, state.decode_client):
            await session.close()

    app = FastAPI(lifespan=lifespan)
    app.state.router = router
    app.state.engine_stats_scraper = initialize_engine_stats_scraper(engine_stats)
    app.state.request_stats_monitor = RequestStatsMonitor()
    app.state.otel_tracer = otel_tracer

    @app.post("/v1/completions")
    async def route_completion(request: Request, background_tasks: BackgroundTasks) -> Response:
        return await route_general_request(request, "/v1/completions", background_tasks)

    return app
