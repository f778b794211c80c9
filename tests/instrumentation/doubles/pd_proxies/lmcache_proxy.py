"""A double of LMCache's proxy, which tokenizes prompts first, maybe on the decode engine."""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

instances: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
BOUND_CLIENT = False


@dataclass
class ClientInfo:
    client: httpx.AsyncClient
    host: str | None = None


def make_client(host: str, port: int) -> ClientInfo:
    url = f"http://{host}:{port}"
    return ClientInfo(httpx.AsyncClient(timeout=None, base_url=url, trust_env=False), host)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.prefill_clients = [make_client(*instance) for instance in instances[0]]
    app.state.decode_clients = [make_client(*instance) for instance in instances[1]]
    app.state.total_clients = app.state.decode_clients + app.state.prefill_clients
    yield
    for info in app.state.total_clients:
        await info.client.aclose()


app = FastAPI(lifespan=lifespan)
round_robin_counter = itertools.count()


async def send_request_to_service(
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


def round_robin_pick_clients() -> tuple[ClientInfo, ClientInfo, ClientInfo]:
    turn = next(round_robin_counter)
    pools = (app.state.total_clients, app.state.prefill_clients, app.state.decode_clients)
    tokenization, prefill, decode = (pool[turn % len(pool)] for pool in pools)
    return tokenization, prefill, decode


def pick_up_clients(request: Request) -> tuple[ClientInfo, ClientInfo, ClientInfo]:
    if BOUND_CLIENT:
        clients = app.state.decode_clients[0], app.state.prefill_clients[0]
        return clients[0], clients[1], clients[0]
    return round_robin_pick_clients()


@app.post("/v1/completions")
async def handle_completions(request: Request) -> Response:
    req_data = await request.json()
    tokenization, prefill, decode = pick_up_clients(request)
    prompt = {"prompt": req_data["prompt"]}
    await send_request_to_service(tokenization.client, "/tokenize", prompt)
    transfer = {"kv_transfer_params": {"ret_first_tok": True}, "max_tokens": 1, "stream": False}
    await send_request_to_service(prefill.client, "/v1/completions", {**req_data, **transfer})

    async def generate_stream() -> AsyncIterator[bytes]:
        head = {"choices": [{"index": 0, "text": "first", "finish_reason": None}], "usage": None}
        yield f"data: {json.dumps(head)}\n\n".encode()
        async for chunk in stream_service_response(decode.client, "/v1/completions", req_data):
            yield chunk

    return StreamingResponse(generate_stream(), media_type="application/json")
