"""Applications on Ray Serve without any telemetry; `python -m ... address port`."""

# No postponed annotations: in the applications' processes FastAPI could not resolve them.

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import ray
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from opentelemetry import trace
from ray import serve
from ray.serve.config import RequestRouterConfig

PREFIX_AWARE = (
    "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router"
    ":PrefixCacheAffinityRouter"
)
USAGE = {"prompt_tokens": 30, "completion_tokens": 8, "prompt_tokens_details": {"cached_tokens": 0}}
FREE = {"num_cpus": 0}
# Nothing is written before Ray ends the process.
LATE = {"env_vars": {"OTEL_LIFECYCLE_PERSISTENCE_FLUSH_THRESHOLD": "1000"}}
ENVIRONMENT = ("PYTHONPATH", "OTEL_")


def whole(body: dict[str, Any]) -> dict[str, Any]:
    """An answer that is not a stream."""
    if body.get("fail") == "before":
        raise RuntimeError("on purpose")
    return {"choices": [{"text": "a", "finish_reason": "stop"}], "usage": USAGE}


async def chunks(body: dict[str, Any]) -> AsyncIterator[bytes]:
    """A stream of eight tokens, or a fault."""
    with trace.get_tracer("engine").start_as_current_span("generate"):
        pass
    for _ in range(body.get("chunks", 8)):
        yield b'data: {"choices": [{"text": "a"}]}\n\n'
        await asyncio.sleep(body.get("pause", 0))
        if body.get("fail") == "between":
            raise RuntimeError("on purpose")
        if body.get("fail") == "kill":
            os._exit(1)
    yield b'data: {"choices": [], "usage": %b}\n\n' % json.dumps(USAGE).encode()
    yield b"data: [DONE]\n\n"


alone_api, ingress_api = FastAPI(), FastAPI()


@serve.deployment(num_replicas=2, ray_actor_options=FREE)
@serve.ingress(alone_api)
class Alone:
    """The ingress is the engine."""

    def record_routing_stats(self) -> dict[str, Any]:
        return {"kv_cache_usage": 0.25, "waiting_requests": 1}

    @alone_api.post("/v1/completions")
    async def complete(self, request: Request) -> Response:
        body = await request.json()
        if body.get("stream"):
            return StreamingResponse(chunks(body), media_type="text/event-stream")
        return Response(json.dumps(whole(body)), media_type="application/json")


@serve.deployment(ray_actor_options=FREE)
class Plain:
    """Without FastAPI."""

    async def __call__(self, request: Request) -> dict[str, Any]:
        return whole(await request.json())


class _Engine:
    async def generate(self, body: Any) -> dict[str, Any]:
        return whole(vars(body))

    async def stream(self, body: Any) -> AsyncIterator[bytes]:
        async for chunk in chunks(vars(body)):
            yield chunk


@serve.deployment(num_replicas=2, ray_actor_options=FREE)
class Engine(_Engine):
    """Called by an ingress."""


@serve.deployment(
    num_replicas=2,
    ray_actor_options=FREE,
    request_router_config=RequestRouterConfig(request_router_class=PREFIX_AWARE),
)
class Affine(_Engine):
    """Called by an ingress, chosen by prefix."""


@serve.deployment(num_replicas=2, ray_actor_options={**FREE, "runtime_env": LATE})
@serve.ingress(ingress_api)
class Ingress:
    """Calls the engines."""

    def __init__(self, engine: Any, affine: Any) -> None:
        self._engine = engine
        self._affine = affine

    @ingress_api.post("/v1/completions")
    async def complete(self, request: Request) -> Response:
        return await self._answer(self._engine, await request.json())

    @ingress_api.post("/affine/v1/completions")
    async def complete_affine(self, request: Request) -> Response:
        return await self._answer(self._affine, await request.json())

    async def _answer(self, handle: Any, fields: dict[str, Any]) -> Response:
        body = SimpleNamespace(**fields)
        if not fields.get("stream"):
            answer = await handle.generate.remote(body)
            return Response(json.dumps(answer), media_type="application/json")
        stream = handle.options(stream=True).stream.remote(body)
        return StreamingResponse(stream, media_type="text/event-stream")


def main(address: str, port: str) -> None:
    """Serve until the end of the input."""
    # The cluster was started without us: its workers get the environment of this process.
    variables = {name: text for name, text in os.environ.items() if name.startswith(ENVIRONMENT)}
    ray.init(address, runtime_env={"env_vars": variables}, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    serve.run(Alone.bind(), name="alone", route_prefix="/alone")
    serve.run(Plain.bind(), name="plain", route_prefix="/plain")
    serve.run(Ingress.bind(Engine.bind(), Affine.bind()), name="fleet", route_prefix="/fleet")
    print("ready", flush=True)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
