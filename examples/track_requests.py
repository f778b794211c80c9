"""Tracks requests of your own router with the handle; prints spans and records.

Run it with `python examples/track_requests.py`. A real router uses the global providers,
set up by `opentelemetry-instrument` or by its own code.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from otel_lifecycle import (
    Endpoint,
    EndpointMetrics,
    LatencyPrediction,
    PersistenceConfig,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.testing import InMemoryTelemetry

ENGINE = Endpoint(namespace="llm", pod_name="qwen-0", address="10.0.0.7", port="8000")


async def engine(headers: dict[str, str]) -> AsyncIterator[str]:
    """Stands in for the engine; it would continue the trace in `headers`."""
    assert "traceparent" in headers
    for token in ("Hello", " world"):
        await asyncio.sleep(0.01)
        yield token


async def route(tracker: RequestLifecycleTracker, request_id: str) -> AsyncGenerator[str, None]:
    """Stream one response, as a router's handler does."""
    start = RequestStart(
        request_id=request_id,
        route=Route(RouteEndpoint(ENGINE, EndpointMetrics(running_requests=3, waiting_requests=0))),
        model="Qwen/Qwen3-8B",
        input_tokens=512,
        input_token_source="tokenized",
        prefix_cache_score=0.42,
        prediction=LatencyPrediction(ttft_ms=12.0, tpot_ms=9.0),
        operation="chat",
    )
    async with tracker.track(start) as tracked:
        headers: dict[str, str] = {}
        tracked.inject(headers)
        async for token in engine(headers):
            tracked.chunk()
            yield token
        tracked.complete(output_tokens=2)


async def main() -> None:
    """Serve one complete request and one whose client leaves."""
    telemetry = InMemoryTelemetry()
    path = Path(tempfile.mkdtemp()) / "records.jsonl"
    tracker = RequestLifecycleTracker(
        TrackerConfig(persistence=PersistenceConfig(enabled=True, output_path=str(path))),
        telemetry.tracer_provider,
        telemetry.meter_provider,
    )

    print("".join([token async for token in route(tracker, "request-1")]))
    stream = route(tracker, "request-2")
    await anext(stream)
    await stream.aclose()

    tracker.close()
    for span in telemetry.spans:
        events = [event.name for event in span.events]
        print("span", span.name, span.attributes and span.attributes["llm_router.outcome"], events)
    for record in read_records(path):
        print("record", record.request_id, record.outcome.value, record.actual)


if __name__ == "__main__":
    asyncio.run(main())
