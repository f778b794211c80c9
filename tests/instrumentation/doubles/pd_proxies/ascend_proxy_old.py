"""A double of vllm-ascend's load-balance proxy, as it was before June 2026."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse


class ServerState:
    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.url = f"http://{host}:{port}/v1"
        self.client = httpx.AsyncClient(timeout=None, base_url=self.url, trust_env=False)
        self.active_tokens = 0.0
        self.active_kv_cache = 0.0


class ProxyState:
    def __init__(self, prefillers: list[tuple[str, int]], decoders: list[tuple[str, int]]) -> None:
        self.tainted_prefillers: list[ServerState] = []
        self.tainted_decoders: list[ServerState] = []
        self.prefillers = [ServerState(*instance) for instance in prefillers]
        self.decoders = [ServerState(*instance) for instance in decoders]
        self.req_id_lock = asyncio.Lock()

    async def next_req_id(self) -> str:
        async with self.req_id_lock:
            return str(uuid.uuid4())

    def select_prefiller(self, token_count: float) -> int:
        return min(range(len(self.prefillers)), key=lambda n: self.prefillers[n].active_tokens)

    def select_decoder(self, token_count: float) -> int:
        return min(range(len(self.decoders)), key=lambda n: self.decoders[n].active_tokens)


instances: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
proxy_state: ProxyState | None = None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    global proxy_state
    proxy_state = ProxyState(*instances)
    yield
    for server in proxy_state.prefillers + proxy_state.decoders:
        await server.client.aclose()


app = FastAPI(lifespan=lifespan)


async def send_request_to_service(
    client: httpx.AsyncClient,
    prefiller_id: int,
    endpoint: str,
    req_data: dict[str, Any],
    request_id: str,
    max_retries: int = 3,
    base_delay: float = 0.2,
) -> httpx.Response:
    transfer = {"do_remote_decode": True, "do_remote_prefill": False, "aborted_request": []}
    body = {**req_data, "kv_transfer_params": transfer, "stream": False, "max_tokens": 1}
    response = await client.post(endpoint, json=body, headers={"X-Request-Id": request_id})
    response.raise_for_status()
    return response


async def stream_service_response_with_retry(
    client: httpx.AsyncClient,
    endpoint: str,
    req_data: dict[str, Any],
    request_id: str,
    max_retries: int = 3,
    base_delay: float = 0.2,
) -> AsyncIterator[bytes]:
    for attempt in range(1, max_retries + 1):
        try:
            async with client.stream(
                "POST", endpoint, json=req_data, headers={"X-Request-Id": request_id}
            ) as response:
                response.raise_for_status()
                async for chunk in response.aiter_bytes():
                    yield chunk
                return
        except httpx.HTTPError:  # also in mid-stream: what was sent is sent again
            if attempt == max_retries:
                raise


async def _handle_completions(api: str, request: Request) -> Response:
    assert proxy_state is not None
    req_data = await request.json()
    request_id = await proxy_state.next_req_id()
    chosen = proxy_state.select_prefiller(len(await request.body()) / 4)
    prefiller = proxy_state.prefillers[chosen]
    response = await send_request_to_service(prefiller.client, chosen, api, req_data, request_id)
    req_data["kv_transfer_params"] = response.json()["kv_transfer_params"]
    decoder = proxy_state.decoders[proxy_state.select_decoder(1.0)]

    async def generate_stream() -> AsyncIterator[bytes]:
        try:
            async for chunk in stream_service_response_with_retry(
                decoder.client, api, req_data, request_id=request_id
            ):
                yield chunk
        except httpx.HTTPError:
            pass

    return StreamingResponse(generate_stream(), media_type="application/json")


@app.post("/v1/completions")
async def handle_completions(request: Request) -> Response:
    return await _handle_completions("/completions", request)
