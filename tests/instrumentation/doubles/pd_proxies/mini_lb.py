"""A double of the mini load balancer of SGLang and vLLM, which calls both engines at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response, StreamingResponse

instances: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])


class MiniLoadBalancer:
    def __init__(self, prefill_urls: list[str], decode_urls: list[str]) -> None:
        self.prefill_urls = prefill_urls
        self.prefill_bootstrap_ports = [8998] * len(prefill_urls)
        self.decode_urls = decode_urls

    def select_pair(self) -> tuple[str, int, str]:
        return self.prefill_urls[0], self.prefill_bootstrap_ports[0], self.decode_urls[0]

    async def generate(
        self,
        modified_request: dict[str, Any],
        prefill_server: str,
        decode_server: str,
        endpoint: str,
    ) -> Response:
        async with aiohttp.ClientSession() as session:
            _, decoded = await asyncio.gather(
                session.post(f"{prefill_server}/{endpoint}", json=modified_request),
                session.post(f"{decode_server}/{endpoint}", json=modified_request),
            )
            return JSONResponse(await decoded.json(), decoded.status)

    async def generate_stream(
        self,
        modified_request: dict[str, Any],
        prefill_server: str,
        decode_server: str,
        endpoint: str = "generate",
    ) -> StreamingResponse:
        async def stream_results() -> AsyncIterator[bytes]:
            async with aiohttp.ClientSession() as session:
                _, decoded = await asyncio.gather(
                    session.post(f"{prefill_server}/{endpoint}", json=modified_request),
                    session.post(f"{decode_server}/{endpoint}", json=modified_request),
                )
                async for chunk in decoded.content.iter_chunked(65536):
                    yield chunk

        return StreamingResponse(stream_results(), media_type="text/event-stream")


app = FastAPI()


@app.post("/v1/completions")
async def handle_completion_request(request_data: dict[str, Any]) -> Response:
    urls = [[f"http://{host}:{port}" for host, port in pool] for pool in instances]
    balancer = MiniLoadBalancer(urls[0], urls[1])
    prefill, bootstrap_port, decode = balancer.select_pair()
    request = {**request_data, "bootstrap_port": bootstrap_port, "bootstrap_room": 1}
    if request_data.get("stream"):
        return await balancer.generate_stream(request, prefill, decode, "v1/completions")
    return await balancer.generate(request, prefill, decode, "v1/completions")
