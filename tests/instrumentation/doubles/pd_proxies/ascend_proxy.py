"""A double of vllm-ascend's load-balance proxy, as it is since June 2026."""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

logger = logging.getLogger(__name__)


class ServerRole(str, Enum):
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass
class InstanceInfo:
    request_id: str
    prefiller_key: str
    prefiller_score: float
    decoder_key: str
    decoder_score: float
    decoder_host: str
    decoder_port: int
    prefiller_cached_tokens: int | None = None


@dataclass
class BackendServer:
    host: str
    port: int
    ordinal: int
    active_tokens: float = 0.0
    active_kv_cache: float = 0.0


@dataclass
class RolePools:
    servers: dict[str, BackendServer] = field(default_factory=dict)
    tainted: set[str] = field(default_factory=set)


def server_key(host: str, port: int) -> str:
    return f"{host.replace('127.0.0.1', '0.0.0.0')}:{port}"


class SharedProxyScheduler:
    def __init__(self, prefillers: list[tuple[str, int]], decoders: list[tuple[str, int]]) -> None:
        self._pools = {ServerRole.PREFILL: RolePools(), ServerRole.DECODE: RolePools()}
        for role, instances in ((ServerRole.PREFILL, prefillers), (ServerRole.DECODE, decoders)):
            for ordinal, (host, port) in enumerate(instances):
                server = BackendServer(host, port, ordinal)
                self._pools[role].servers[server_key(host, port)] = server

    def _pool(self, role: ServerRole) -> RolePools:
        return self._pools[role]

    def _pick_server(
        self,
        role: ServerRole,
        load: float,
        *,
        active_tokens: bool = False,
        kv_cache: bool = False,
    ) -> dict[str, Any]:
        pool = self._pool(role)
        usable = [key for key in pool.servers if key not in pool.tainted]
        key = min(usable, key=lambda key: pool.servers[key].active_tokens)
        server = pool.servers[key]
        server.active_tokens += load
        return {"key": key, "host": server.host, "port": server.port}

    def begin_request(self, load: float) -> dict[str, Any]:
        return self._pick_server(ServerRole.PREFILL, load, kv_cache=True)

    def pick_decoder(self, load: float) -> dict[str, Any]:
        return self._pick_server(ServerRole.DECODE, load, active_tokens=True)


class WorkerRuntime:
    def __init__(self, scheduler: SharedProxyScheduler) -> None:
        self.scheduler = scheduler
        self._clients: dict[str, httpx.AsyncClient] = {}
        self._lock = asyncio.Lock()

    async def schedule(self, method: str, /, *args: Any, **kwargs: Any) -> Any:
        async with self._lock:
            return getattr(self.scheduler, method)(*args, **kwargs)

    async def get_client(self, role: ServerRole, key: str) -> httpx.AsyncClient:
        if key not in self._clients:
            server = self.scheduler._pool(role).servers[key]
            url = f"http://{server.host}:{server.port}/v1"
            self._clients[key] = httpx.AsyncClient(timeout=None, base_url=url, trust_env=False)
        return self._clients[key]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()


instances: tuple[list[tuple[str, int]], list[tuple[str, int]]] = ([], [])
runtime: WorkerRuntime | None = None


def get_runtime() -> WorkerRuntime:
    assert runtime is not None
    return runtime


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    global runtime
    runtime = WorkerRuntime(SharedProxyScheduler(*instances))
    yield
    await runtime.close()


app = FastAPI(lifespan=lifespan)


def create_app() -> FastAPI:
    return app


async def listen_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def with_cancellation(handler_func: Any) -> Any:
    @functools.wraps(handler_func)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        handler = asyncio.create_task(handler_func(*args, **kwargs))
        cancellation = asyncio.create_task(listen_for_disconnect(kwargs["request"]))
        done, pending = await asyncio.wait(
            [handler, cancellation], return_when=asyncio.FIRST_COMPLETED
        )
        for task in pending:
            task.cancel()
        return handler.result() if handler in done else None

    return wrapper


async def send_request_to_service(
    client: httpx.AsyncClient,
    endpoint: str,
    req_data: dict[str, Any],
    request_id: str,
    max_retries: int = 3,
    base_delay: float = 0.2,
) -> httpx.Response:
    transfer = {"do_remote_decode": True, "do_remote_prefill": False}
    body = {**req_data, "kv_transfer_params": transfer, "stream": False, "max_tokens": 1}
    for attempt in range(1, max_retries + 1):
        try:
            response = await client.post(endpoint, json=body, headers={"X-Request-Id": request_id})
            response.raise_for_status()
            return response
        except httpx.HTTPError:
            if attempt == max_retries:
                raise
    raise AssertionError


async def stream_service_response(
    client: httpx.AsyncClient,
    endpoint: str,
    req_data: dict[str, Any],
    request_id: str,
    max_retries: int = 3,
    base_delay: float = 0.2,
) -> AsyncIterator[bytes]:
    for attempt in range(1, max_retries + 1):
        began = False
        try:
            async with client.stream(
                "POST", endpoint, json=req_data, headers={"X-Request-Id": request_id}
            ) as response:
                response.raise_for_status()
                async for chunk in response.aiter_bytes():
                    began = True
                    yield chunk
                return
        except httpx.HTTPError:
            if began:
                return
            if attempt == max_retries:
                raise


async def assign_instances(
    api: str, req_data: dict[str, Any], request_length: int, *, is_initial_request: bool
) -> InstanceInfo:
    request_id = str(uuid.uuid4())
    prefiller = await get_runtime().schedule("begin_request", request_length / 4)
    client = await get_runtime().get_client(ServerRole.PREFILL, prefiller["key"])
    response = await send_request_to_service(
        client, api, req_data, request_id, max_retries=2, base_delay=0.0
    )
    req_data["kv_transfer_params"] = response.json()["kv_transfer_params"]
    decoder = await get_runtime().schedule("pick_decoder", float(request_length))
    return InstanceInfo(
        request_id,
        prefiller["key"],
        request_length / 4,
        decoder["key"],
        float(request_length),
        decoder["host"],
        decoder["port"],
    )


async def reassign_instances(
    api: str, req_data: dict[str, Any], request_length: int, previous_instance: InstanceInfo
) -> InstanceInfo:
    return await assign_instances(api, req_data, request_length, is_initial_request=False)


async def handle_completions_impl(api: str, request: Request) -> Response:
    req_data = await request.json()
    length = len(await request.body())
    try:
        info = await assign_instances(api, req_data, length, is_initial_request=True)
    except httpx.HTTPStatusError as error:
        return JSONResponse(error.response.json(), status_code=error.response.status_code)

    async def generate_stream() -> AsyncIterator[bytes]:
        nonlocal info
        retry = True
        try:
            while retry:
                retry = False
                client = await get_runtime().get_client(ServerRole.DECODE, info.decoder_key)
                async for chunk in stream_service_response(
                    client, api, req_data, request_id=info.request_id, max_retries=2
                ):
                    if b'"recomputed"' in chunk:
                        retry = True
                        req_data["recompute"] = False
                        info = await reassign_instances(api, req_data, length, info)
                        break
                    yield chunk
        except Exception:
            logger.debug("the decoder failed", exc_info=True)

    kind = "text/event-stream" if json.loads(await request.body()).get("stream") else None
    return StreamingResponse(generate_stream(), media_type=kind or "application/json")


@app.post("/v1/completions")
@with_cancellation
async def handle_completions(request: Request) -> Response:
    return await handle_completions_impl("/completions", request)
