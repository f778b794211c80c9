"""A router in one file, without any telemetry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass
class Engine:
    """An engine, and how many requests wait there."""

    url: str
    waiting: int = 0


class ShortestQueue:
    """Chooses the engine with the fewest waiting requests."""

    def pick(self, engines: Sequence[Engine]) -> Engine:
        """Return the engine for the next request.

        Raises:
            ValueError: There is no engine.
        """
        return min(engines, key=lambda engine: engine.waiting)


def create_app(engines: Sequence[Engine], scheduler: ShortestQueue) -> Starlette:
    """Build the router in front of these engines."""

    async def complete(request: Request) -> Response:
        try:
            engine = scheduler.pick(engines)
        except ValueError:
            return JSONResponse({"error": "no engine"}, 503)
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            answer = await client.post(engine.url + request.url.path, content=await request.body())
        return Response(answer.content, answer.status_code, media_type="application/json")

    return Starlette(routes=[Route("/v1/completions", complete, methods=["POST"])])
