"""The HTTP API of the router, and the assembly of its parts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import anyio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from hermes_router.admin import Admin
from hermes_router.config import RouterConfig
from hermes_router.datastore import Datastore
from hermes_router.director import Director
from hermes_router.endpoint import EndpointEvent, EndpointEventType, EndpointMetadata
from hermes_router.errors import InvalidFieldError, invalid_request
from hermes_router.openai_request import parse_request
from hermes_router.predictor import LatencyPredictor
from hermes_router.proxy import Proxy
from hermes_router.scheduler import Scheduler
from hermes_router.scraper import Scraper


class Router:
    """One router process."""

    def __init__(self, config: RouterConfig, endpoints: Iterable[EndpointMetadata]) -> None:
        self._datastore = Datastore()
        records = config.training_records
        self._predictor = None if records is None else LatencyPredictor(records)
        scheduler = Scheduler(self._datastore, config.mode, self._predictor)
        self._proxy = Proxy(Director(self._datastore, scheduler), config.max_attempts)
        self._scraper = Scraper(self._datastore, config.scrape_interval)
        for metadata in endpoints:
            self._datastore.apply(EndpointEvent(EndpointEventType.ADD_OR_UPDATE, metadata))

    def build(self) -> Starlette:
        """Build the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/health", self._health),
                *Admin(self._datastore).routes(),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncGenerator[None, None]:
        async with self._proxy.client, anyio.create_task_group() as tasks:
            tasks.start_soon(self._scraper.run)
            if self._predictor is not None:
                tasks.start_soon(self._predictor.run)
            yield
            tasks.cancel_scope.cancel()

    async def _complete(self, request: Request) -> Response | ASGIApp:
        content = await request.body()
        try:
            routed = parse_request(request.url.path, dict(request.headers), content)
        except InvalidFieldError as error:
            return invalid_request(error)
        return self._proxy.response(routed)

    async def _models(self, _: Request) -> Response:
        names = sorted({model for endpoint in self._datastore for model in endpoint.models})
        models = [{"id": name, "object": "model", "owned_by": "hermes_router"} for name in names]
        return JSONResponse({"object": "list", "data": models})

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok")


def create_app(config: RouterConfig, endpoints: Iterable[EndpointMetadata] = ()) -> Starlette:
    """Build the application of one router."""
    return Router(config, endpoints).build()
