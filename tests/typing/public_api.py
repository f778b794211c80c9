# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
"""The types that the package's names accept and return, for pyright and mypy.

`type: ignore` marks a line that must be refused; both report unneeded marks.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from typing_extensions import assert_type

from otel_lifecycle import (
    SLO,
    Clock,
    Endpoint,
    EndpointMetrics,
    LatencyPrediction,
    LifecycleRecord,
    Load,
    Outcome,
    PersistenceConfig,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackedRequest,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.config import CollectionConfig, PredictionConfig, PromptConfig, TargetConfig
from otel_lifecycle.records import Batch, Follower, Position
from otel_lifecycle.testing import InMemoryTelemetry, ManualClock


def settings() -> TrackerConfig:
    """A duration is set as text or as a timedelta, and read as a timedelta."""
    persistence = PersistenceConfig(
        enabled=True,
        output_path="records.jsonl",
        flush_interval="5s",
        rotate_interval=timedelta(hours=1),
        compression="gzip",
    )
    assert_type(persistence.flush_interval, timedelta)
    assert_type(persistence.output_path, str)
    PersistenceConfig(flush_interval=5)  # type: ignore[arg-type]
    PersistenceConfig(compression="zip")  # type: ignore[arg-type]
    PersistenceConfig(path="x")  # type: ignore[call-arg]

    target = TargetConfig(url="http://10.0.1.3:8082/metrics", source="dcgm")
    collection = CollectionConfig(targets=(target,), interval="500ms")
    assert_type(collection.interval, timedelta)
    return TrackerConfig(
        store_name="router",
        labels="tenant=x-tenant-id",
        labels_key="0123456789abcdef",
        slo=["ttft=500ms"],
        persistence=persistence,
        collection=collection,
        prediction=PredictionConfig(timeout="20ms"),
        prompt=PromptConfig(blocks=512, key="a secret of this program"),
        stale_after=timedelta(seconds=2),
        close_timeout="1s",
        max_inflight=None,
    )


def requests(start: RequestStart, route: Route) -> None:
    """The handle, with and without a block."""
    telemetry, clock = InMemoryTelemetry(), ManualClock()
    timed: Clock = clock
    tracker = RequestLifecycleTracker(
        settings(), telemetry.tracer_provider, telemetry.meter_provider, timed
    )
    tracked = tracker.track(start, {"traceparent": ""})
    assert_type(tracked, TrackedRequest)
    with tracker.track(start) as entered:
        assert_type(entered, TrackedRequest)
        entered.chunk()
        entered.reroute(route, reason="connect_error")
        entered.complete(output_tokens=8, finish_reason="stop")
        entered.complete(output_tokens="8")  # type: ignore[arg-type]
    assert_type(tracker.load(route.leader.endpoint), Load)
    assert_type(tracker.flush(timeout=1), bool)
    tracker.close()


async def concurrent_requests(tracker: RequestLifecycleTracker, start: RequestStart) -> None:
    """The same handle in a coroutine."""
    async with tracker.track(start) as tracked:
        assert_type(tracked, TrackedRequest)
        tracked.fail(TimeoutError())


def routes() -> RequestStart:
    """Unknown values are omitted."""
    endpoint = Endpoint(address="10.0.0.7", port="8000")
    leader = RouteEndpoint(endpoint, EndpointMetrics(running_requests=3))
    Endpoint(address="10.0.0.7", port=8000)  # type: ignore[arg-type]
    return RequestStart(
        "request-1",
        Route(leader),
        "Qwen/Qwen3-8B",
        prediction=LatencyPrediction(ttft_ms=12.0),
        labels={"tenant": "acme", "tier": 1},
        slo=SLO(ttft_ms=500.0),
    )


def records() -> None:
    """Values that are read have their types, and may be None if unknown."""
    found = read_records("records.jsonl")
    assert_type(found, Iterator[LifecycleRecord])
    for record in found:
        assert_type(record.outcome, Outcome)
        assert_type(record.started_at, str)
        assert_type(record.output_length, "int | None")
        assert_type(record.actual.ttft_ms, "float | None")
    with Follower("records", position=Position.from_json("{}")) as follower:
        assert_type(follower.poll(), Batch)
