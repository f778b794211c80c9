"""Serves a request with the engine that the policy chose."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from fastapi import BackgroundTasks, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from vllm_router.routers.routing_logic import (
    DisaggregatedPrefillOrchestratedRouter,
    DisaggregatedPrefillRouter,
    KvawareRouter,
    PrefixAwareRouter,
    SessionRouter,
)
from vllm_router.service_discovery import get_service_discovery


async def process_request(
    request: Request,
    body: bytes,
    backend_url: str,
    request_id: str,
    endpoint: str,
    background_tasks: BackgroundTasks,
    debug_request: Any = None,
    parent_span_context: Any = None,
) -> AsyncIterator[Any]:
    state = request.app.state
    state.request_stats_monitor.on_new_request(backend_url, request_id, time.time())
    headers = {
        key: value
        for key, value in request.headers.items()
        if key not in ("host", "content-length", "x-request-id")
    }
    headers["X-Request-Id"] = request_id
    if state.otel_tracer is not None:
        state.otel_tracer.inject(headers)
    async with state.session.request(
        method=request.method, url=backend_url + endpoint, headers=headers, data=body
    ) as response:
        yield response.headers, response.status
        async for chunk in response.content.iter_any():
            yield chunk
    state.request_stats_monitor.on_request_complete(backend_url, request_id, time.time())


async def route_general_request(
    request: Request, endpoint: str, background_tasks: BackgroundTasks
) -> Response:
    state = request.app.state
    router = state.router
    if isinstance(router, DisaggregatedPrefillRouter):
        return await route_disaggregated_prefill_request(request, endpoint, background_tasks)
    if isinstance(router, DisaggregatedPrefillOrchestratedRouter):
        return await route_orchestrated_disaggregated_request(request, endpoint, background_tasks)
    request_id = request.headers.get("X-Request-Id") or str(uuid.uuid4())
    body = await request.body()
    request_json = json.loads(body)
    pinned = request.query_params.get("id")
    endpoints = [
        info
        for info in get_service_discovery().get_endpoint_info()
        if request_json["model"] in info.model_names and (pinned is None or info.Id == pinned)
    ]
    if not endpoints:
        return JSONResponse({"error": "no such model"}, 404, {"X-Request-Id": request_id})
    engine_stats = state.engine_stats_scraper.get_engine_stats()
    request_stats = state.request_stats_monitor.get_request_stats(time.time())
    failed: set[str] = set()
    for attempt in range(router.max_instance_failover_reroute_attempts + 1):
        remaining = [info for info in endpoints if info.url not in failed]
        if pinned is not None:
            url = remaining[0].url
        elif isinstance(router, (KvawareRouter, PrefixAwareRouter, SessionRouter)):
            url = await router.route_request(
                remaining, engine_stats, request_stats, request, request_json
            )
        else:
            url = router.route_request(remaining, engine_stats, request_stats, request)
        chunks = process_request(request, body, url, request_id, endpoint, background_tasks)
        try:
            headers, status = await anext(chunks)
        except aiohttp.ClientError:
            failed.add(url)
            if attempt == router.max_instance_failover_reroute_attempts:
                raise
            continue
        break
    return StreamingResponse(
        chunks, status, {"X-Request-Id": request_id}, media_type=headers["content-type"]
    )


async def send_request_to_prefiller(
    client: aiohttp.ClientSession, endpoint: str, req_data: dict[str, Any], request_id: str
) -> Any:
    req_data = {**req_data, "max_tokens": 1, "stream": False}
    headers = {"X-Request-Id": request_id}
    async with client.post(endpoint, json=req_data, headers=headers) as response:
        response.raise_for_status()
        return await response.json()


async def send_request_to_decode(
    client: aiohttp.ClientSession, endpoint: str, req_data: dict[str, Any], request_id: str
) -> AsyncIterator[bytes]:
    headers = {"X-Request-Id": request_id}
    async with client.post(endpoint, json=req_data, headers=headers) as response:
        response.raise_for_status()
        async for chunk in response.content.iter_any():
            yield chunk


async def route_disaggregated_prefill_request(
    request: Request, endpoint: str, background_tasks: BackgroundTasks
) -> Response:
    request_id = request.headers.get("X-Request-Id") or str(uuid.uuid4())
    request_json = await request.json()
    state = request.app.state
    try:
        await send_request_to_prefiller(state.prefill_client, endpoint, request_json, request_id)
    except aiohttp.ClientResponseError as error:
        return JSONResponse({"error": error.message}, error.status, {"X-Request-Id": request_id})

    async def generate_stream() -> AsyncIterator[bytes]:
        try:
            async for chunk in send_request_to_decode(
                state.decode_client, endpoint, request_json, request_id
            ):
                yield chunk
        except Exception as error:
            yield json.dumps({"error": {"message": str(error)}}).encode()

    return StreamingResponse(
        generate_stream(), headers={"X-Request-Id": request_id}, media_type="application/json"
    )


async def route_orchestrated_disaggregated_request(
    request: Request, endpoint: str, background_tasks: BackgroundTasks
) -> Response:
    request_id = request.headers.get("X-Request-Id") or str(uuid.uuid4())
    request_json = await request.json()
    router = request.app.state.router
    prefillers, decoders = router._find_endpoints(get_service_discovery().get_endpoint_info())
    prefill = router.select_prefill_endpoint(prefillers)
    decode = router.select_decode_endpoint(decoders)
    session: aiohttp.ClientSession = request.app.state.session
    headers = {"X-Request-Id": request_id}
    prefill_json = {
        **request_json,
        "max_tokens": 1,
        "stream": False,
        "kv_transfer_params": {"do_remote_decode": True, "do_remote_prefill": False},
    }
    async with session.post(
        prefill.url + endpoint, json=prefill_json, headers=headers
    ) as prefilled:
        if prefilled.status != 200:
            return JSONResponse({"error": await prefilled.text()}, prefilled.status, headers)
        await prefilled.json()
    response = await session.post(decode.url + endpoint, json=request_json, headers=headers)
    if not request_json.get("stream"):
        return JSONResponse(json.loads(await response.read()), headers=headers)

    async def generate_stream() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        finally:
            response.release()

    return StreamingResponse(generate_stream(), headers=headers, media_type="text/event-stream")
