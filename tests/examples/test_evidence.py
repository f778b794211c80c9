"""When the counts at the end of a demo agree."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from demo.evidence import gather_evidence
from demo.otlp_receiver import METRICS_PATH, OTLPReceiver
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from otel_lifecycle.model import semconv


def export(*endpoints: str) -> bytes:
    """An export in which nothing is in flight on some endpoints."""
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    metric = scope.metrics.add(name=semconv.METRIC_INFLIGHT_REQUESTS)
    for endpoint in endpoints:
        point = metric.gauge.data_points.add(as_int=0)
        point.attributes.add(key=semconv.ENDPOINT_ID).value.string_value = endpoint
    return request.SerializeToString()


def test_an_export_older_than_the_last_endpoint(tmp_path: Path) -> None:
    """It is no evidence: the next one is waited for."""
    records = tmp_path / "records.jsonl"
    records.touch()

    async def gather(receiver: OTLPReceiver) -> dict[str, float] | None:
        receiver.accept(METRICS_PATH, export("a"))
        gathering = asyncio.ensure_future(gather_evidence(2, Counter(), records, receiver, print))
        await asyncio.sleep(0)
        assert not gathering.done()
        receiver.accept(METRICS_PATH, export("a", "b"))
        evidence = await gathering
        assert evidence.agrees
        return evidence.inflight

    with OTLPReceiver() as receiver:
        assert asyncio.run(gather(receiver)) == {"a": 0.0, "b": 0.0}


def test_an_endpoint_that_is_never_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while the counts disagree."""
    monkeypatch.setattr("demo.evidence.SETTLE_SECONDS", 0.0)
    records = tmp_path / "records.jsonl"
    records.touch()
    with OTLPReceiver() as receiver:
        receiver.accept(METRICS_PATH, export("a"))

        evidence = asyncio.run(gather_evidence(2, Counter(), records, receiver, print))

    assert not evidence.agrees


def test_a_long_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who waits for long is told once what for."""
    monkeypatch.setattr("demo.evidence.TELL_SECONDS", 0.0)
    records = tmp_path / "records.jsonl"
    records.touch()
    told: list[str] = []
    with OTLPReceiver() as receiver:

        def tell(text: str) -> None:
            told.append(text)
            complete = export("a", "b")
            asyncio.get_running_loop().call_later(0.6, receiver.accept, METRICS_PATH, complete)

        evidence = asyncio.run(gather_evidence(2, Counter(), records, receiver, tell))

    assert evidence.agrees
    assert told == [
        "waiting up to 60 s for a record and a span of each request, and gauges of every endpoint "
        "back at 0"
    ]
