"""A double of vLLM's proxy demo, whose requests have no mark of a prefill."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response, StreamingResponse

instances: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])


class RoundRobinSchedulingPolicy:
    def schedule(self, cycler: itertools.cycle[str], request_len: int | None = None) -> str:
        return next(cycler)


class Proxy:
    def __init__(
        self,
        prefill_instances: list[str],
        decode_instances: list[str],
        scheduling_policy: RoundRobinSchedulingPolicy,
    ) -> None:
        self.prefill_instances = prefill_instances
        self.decode_instances = decode_instances
        self.prefill_cycler = itertools.cycle(prefill_instances)
        self.decode_cycler = itertools.cycle(decode_instances)
        self.scheduling_policy = scheduling_policy
        self.router = APIRouter()
        self.router.post("/v1/completions")(self.create_completion)

    async def forward_request(
        self, url: str, data: dict[str, Any], use_chunked: bool = True
    ) -> AsyncIterator[bytes]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(url=url, json=data) as response,
        ):
            async for chunk in response.content.iter_chunked(1024):
                yield chunk

    def schedule(self, cycler: itertools.cycle[str], request_len: int | None = None) -> str:
        return self.scheduling_policy.schedule(cycler, request_len)

    async def create_completion(self, raw_request: Request) -> Response:
        request = await raw_request.json()
        prefill = self.schedule(self.prefill_cycler, request_len=len(request["prompt"]))
        async for _ in self.forward_request(
            f"http://{prefill}/v1/completions", {**request, "max_tokens": 1}
        ):
            pass
        decode = self.schedule(self.decode_cycler)
        chunks = self.forward_request(f"http://{decode}/v1/completions", request)
        return StreamingResponse(chunks, media_type="application/json")


def create_app() -> FastAPI:
    urls = [[f"{host}:{port}" for host, port in pool] for pool in instances]
    app = FastAPI()
    app.include_router(Proxy(urls[0], urls[1], RoundRobinSchedulingPolicy()).router)
    return app
