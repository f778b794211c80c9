"""Programs of the soak test: an engine with a collector, and a router that reports its size."""

from __future__ import annotations

import argparse
import gc
import os
import threading
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import Receive, Scope, Send

from tests.instrumentation.generic_routers import AiohttpUpstream, HttpxUpstream, make_router
from tests.routers.scripted_engine import ScriptedEngine

UPSTREAMS = {"aiohttp": AiohttpUpstream, "httpx": HttpxUpstream}


class Engine:
    """A scripted engine that is also the OTLP collector, and keeps nothing."""

    def __init__(self) -> None:
        self._engine = ScriptedEngine()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        self._engine.called_by.clear()
        if scope.get("path") not in ("/v1/traces", "/v1/metrics"):
            await self._engine(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


def make_measured_router(engine: str, upstream: str) -> Any:
    """The generic router with `/size`: what the process holds after a garbage collection."""
    app = make_router(UPSTREAMS[upstream]([engine]))

    async def size() -> dict[str, int]:
        gc.collect()
        status = Path("/proc/self/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return {
            "kilobytes": int(resident.split()[1]),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "objects": len(gc.get_objects()),
        }

    app.get("/size")(size)
    return app


def main() -> None:
    """Serve one of the two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--engine", help="the engine's URL; without one this is the engine")
    parser.add_argument("--upstream", choices=UPSTREAMS, default="aiohttp")
    options = parser.parse_args()
    app = (
        Engine()
        if options.engine is None
        else make_measured_router(options.engine, options.upstream)
    )
    uvicorn.run(app, port=options.port, log_level="error", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
