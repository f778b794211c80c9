"""The lean router with `/size`: what the process holds after a garbage collection, and its lag."""

from __future__ import annotations

import asyncio
import gc
import statistics
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.routers import generic_router

PROBE_SECONDS = 0.001


class Lag:
    """Measures how late a timer of the event loop is."""

    def __init__(self) -> None:
        self._late_ms: list[float] = []

    async def probe(self) -> None:
        """Measure until cancelled."""
        while True:
            due = time.perf_counter() + PROBE_SECONDS
            await asyncio.sleep(PROBE_SECONDS)
            self._late_ms.append((time.perf_counter() - due) * 1e3)

    def take(self) -> tuple[float, float]:
        """Return the median and the 99th percentile since the last call, and forget."""
        percentiles = statistics.quantiles(self._late_ms, n=100)
        self._late_ms.clear()
        return percentiles[49], percentiles[98]


def make(router: generic_router.GenericRouter) -> Any:
    """Served by Starlette."""
    lag = Lag()

    async def size(_: Request) -> JSONResponse:
        p50, p99 = lag.take()
        gc.collect()
        status = Path("/proc/self/status").read_text()
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return JSONResponse(
            {
                "kilobytes": int(resident.split()[1]),
                "objects": len(gc.get_objects()),
                "threads": threading.active_count(),
                "lag_p50_ms": p50,
                "lag_p99_ms": p99,
            }
        )

    clients = router.lifespan

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with clients(_):
            probe = asyncio.create_task(lag.probe())
            yield
            probe.cancel()

    router.lifespan = lifespan
    app = generic_router.make_starlette(router)
    app.routes.append(Route("/size", size))
    return app


if __name__ == "__main__":
    generic_router.FRAMEWORKS["starlette"] = make
    generic_router.main()
