"""Zero-code instrumentation that always fails leaves the router alone, and comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from otel_lifecycle import read_records
from otel_lifecycle.instrumentation.generic import GenericRouterInstrumentor
from otel_lifecycle.instrumentation.http.exchange import Exchange
from otel_lifecycle.testing import InMemoryTelemetry
from otel_lifecycle.tracking.breaker import PAUSE_NS, Breaker

PATH = "/v1/chat/completions"


async def refuse(request: Request) -> JSONResponse:
    return JSONResponse({"asked": await request.json()}, 404)


def post(count: int) -> Counter[tuple[int, str]]:
    """Send requests to a router that refuses them; return its answers."""
    application = Starlette(routes=[Route(PATH, refuse, methods=["POST"])])

    async def send() -> Counter[tuple[int, str]]:
        transport = httpx.ASGITransport(app=application)
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
            answers = [await client.post(PATH, json={"model": "m"}) for _ in range(count)]
        return Counter((answer.status_code, answer.text) for answer in answers)

    return asyncio.run(send())


def test_zero_code_steps_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router's answers are unchanged, skipped requests are counted, later ones recorded."""
    expected = (404, '{"asked":{"model":"m"}}')
    telemetry = InMemoryTelemetry()
    instrumentor = GenericRouterInstrumentor()
    instrumentor.instrument(
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
        store_name=str(tmp_path),
        persistence_output_path=str(tmp_path / "records.jsonl"),
    )
    try:
        tracker = instrumentor.tracker
        assert tracker is not None
        now = [0]
        recorder: Any = tracker._recorder
        recorder.breaker = Breaker(tracker.store.ignore, lambda: now[0])
        with monkeypatch.context() as broken:
            broken.setattr(Exchange, "_start", None)
            assert post(150) == {expected: 150}
        assert tracker.store.ignored == {"hook_error": 100, "stepped_aside": 50}
        now[0] += PAUSE_NS
        assert post(2) == {expected: 2}
        assert tracker.flush(timeout=30)
    finally:
        instrumentor.uninstrument()
        telemetry.shutdown()

    assert [record.outcome.value for record in read_records(tmp_path / "records.jsonl")] == [
        "rejected",
        "rejected",
    ]
