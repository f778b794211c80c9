"""A double of vLLM's toy proxy; run as a script, all of it is in `__main__`."""

from __future__ import annotations

import itertools
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

instances: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])


def make_client(host: str, port: int) -> dict[str, Any]:
    client = httpx.AsyncClient(timeout=None, base_url=f"http://{host}:{port}/v1", trust_env=False)
    return {"client": client, "host": host, "port": port}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.prefill_clients = [make_client(*instance) for instance in instances[0]]
    app.state.decode_clients = [make_client(*instance) for instance in instances[1]]
    app.state.prefill_iterator = itertools.cycle(range(len(app.state.prefill_clients)))
    app.state.decode_iterator = itertools.cycle(range(len(app.state.decode_clients)))
    yield
    for info in app.state.prefill_clients + app.state.decode_clients:
        await info["client"].aclose()


app = FastAPI(lifespan=lifespan)


def get_next_client(app: FastAPI, service_type: str) -> dict[str, Any]:
    if service_type == "prefill":
        return app.state.prefill_clients[next(app.state.prefill_iterator)]
    return app.state.decode_clients[next(app.state.decode_iterator)]


async def send_request_to_service(
    client_info: dict[str, Any], endpoint: str, req_data: dict[str, Any], request_id: str
) -> httpx.Response:
    transfer = {"do_remote_decode": True, "do_remote_prefill": False}
    body = {**req_data, "kv_transfer_params": transfer, "stream": False, "max_tokens": 1}
    headers = {"X-Request-Id": request_id}
    response = await client_info["client"].post(endpoint, json=body, headers=headers)
    response.raise_for_status()
    await response.aread()
    return response


async def stream_service_response(
    client_info: dict[str, Any], endpoint: str, req_data: dict[str, Any], request_id: str
) -> AsyncIterator[bytes]:
    async with client_info["client"].stream(
        "POST", endpoint, json=req_data, headers={"X-Request-Id": request_id}
    ) as response:
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            yield chunk


async def _handle_completions(api: str, request: Request) -> Response:
    req_data = await request.json()
    request_id = str(uuid.uuid4())
    prefill = get_next_client(request.app, "prefill")
    response = await send_request_to_service(prefill, api, req_data, request_id)
    req_data["kv_transfer_params"] = response.json()["kv_transfer_params"]
    decode = get_next_client(request.app, "decode")

    async def generate_stream() -> AsyncIterator[bytes]:
        async for chunk in stream_service_response(decode, api, req_data, request_id=request_id):
            yield chunk

    return StreamingResponse(generate_stream(), media_type="application/json")


@app.post("/v1/completions")
async def handle_completions(request: Request) -> Response:
    return await _handle_completions("/completions", request)


if __name__ == "__main__":
    port, prefill_port, decode_port = map(int, sys.argv[1:])
    instances = ([("127.0.0.1", prefill_port)], [("127.0.0.1", decode_port)])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="critical")
