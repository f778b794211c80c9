"""A double of LMCache's proxy for its multiprocess mode, whose calls have no mark of the pair."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

instances: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])


@dataclass
class ClientInfo:
    client: httpx.AsyncClient


def make_clients(pool: list[tuple[str, int]]) -> list[ClientInfo]:
    urls = [f"http://{host}:{port}" for host, port in pool]
    return [
        ClientInfo(httpx.AsyncClient(timeout=None, base_url=url, trust_env=False)) for url in urls
    ]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.prefill_clients, app.state.decode_clients = map(make_clients, instances)
    yield
    for info in (*app.state.prefill_clients, *app.state.decode_clients):
        await info.client.aclose()


app = FastAPI(lifespan=lifespan)
round_robin_counter = itertools.count()


def round_robin_pick_clients() -> tuple[ClientInfo, ClientInfo]:
    turn = next(round_robin_counter)
    prefills, decodes = app.state.prefill_clients, app.state.decode_clients
    return prefills[turn % len(prefills)], decodes[turn % len(decodes)]


async def send_request_to_prefiller(
    client: httpx.AsyncClient, endpoint: str, req_data: dict[str, Any], request_id: str
) -> httpx.Response:
    headers = {"X-Request-Id": request_id}
    response = await client.post(endpoint, json=req_data, headers=headers)
    response.raise_for_status()
    return response


async def send_request_to_decoder(
    client: httpx.AsyncClient, endpoint: str, req_data: dict[str, Any]
) -> httpx.Response:
    response = await client.post(endpoint, json=req_data)
    response.raise_for_status()
    return response


async def stream_service_response(
    client: httpx.AsyncClient, endpoint: str, req_data: dict[str, Any]
) -> AsyncIterator[bytes]:
    async with client.stream("POST", endpoint, json=req_data) as response:
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            yield chunk


@app.post("/v1/completions")
async def handle_completions(request: Request) -> Response:
    asked = await request.json()
    prefill, decode = round_robin_pick_clients()
    one = {key: value for key, value in asked.items() if key != "stream_options"}
    one |= {"max_tokens": 1, "stream": False}
    await send_request_to_prefiller(prefill.client, "/v1/completions", one, "id-of-the-proxy")
    await asyncio.sleep(0)  # until the cache is stored
    if asked.get("stream"):
        chunks = stream_service_response(decode.client, "/v1/completions", asked)
        return StreamingResponse(chunks, media_type="application/json")
    answer = await send_request_to_decoder(decode.client, "/v1/completions", asked)
    return JSONResponse(answer.json())
