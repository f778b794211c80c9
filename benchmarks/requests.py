"""The measured requests: a route to one endpoint or a pair, as a router knows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_lifecycle import (
    Endpoint,
    EndpointMetrics,
    LatencyPrediction,
    LifecycleRecord,
    NPUDevice,
    NPUState,
    PersistenceConfig,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackerConfig,
    read_records,
)
from otel_lifecycle.telemetry.otlp.exporter import adopt
from otel_lifecycle.telemetry.spans import end_attributes, moments, span_events, start_attributes

MODEL = "Qwen/Qwen3-8B"
OUTPUT_TOKENS = 128
CACHED_TOKENS = 200


def endpoint(name: str) -> RouteEndpoint:
    """An engine with its last scrape and the state of its two NPUs."""
    now = datetime.now(timezone.utc)
    return RouteEndpoint(
        Endpoint("llm", name, "10.0.0.7", "8000"),
        EndpointMetrics(
            running_requests=3,
            waiting_requests=1,
            kv_cache_usage=0.31,
            cache_block_size=128,
            cache_num_blocks=4096,
            update_time=now,
        ),
        NPUState(
            observation_time=now,
            data_status="fresh",
            device_count=2,
            ai_core_utilization_avg=63,
            ai_core_utilization_max=66,
            hbm_utilization_avg=71,
            hbm_utilization_max=71,
            hbm_bandwidth_utilization_avg=40,
            hbm_bandwidth_utilization_max=44,
            devices=tuple(NPUDevice("10.0.1.3:8082", chip, 63, 71, 42) for chip in "01"),
        ),
    )


def _known_by_load(name: str) -> RouteEndpoint:
    """An engine of which only the load is known: 40 attributes, as in the budget."""
    now = datetime.now(timezone.utc)
    return RouteEndpoint(
        Endpoint("llm", name, "10.0.0.7", "8000"),
        EndpointMetrics(
            running_requests=3, waiting_requests=1, kv_cache_usage=0.31, update_time=now
        ),
    )


AGGREGATED = Route(endpoint("qwen-0"))
DISAGGREGATED = Route(endpoint("leader-0"), endpoint("prefill-0"), endpoint("decode-0"))
FORTY_ATTRIBUTES = Route(_known_by_load("qwen-1"))


def start(request_id: str, route: Route) -> RequestStart:
    """The request as the router reports it."""
    return RequestStart(
        request_id,
        route,
        MODEL,
        512,
        "tokenized",
        prefix_cache_score=0.42,
        prediction=LatencyPrediction(210.0, 18.5),
        candidates=8,
        policy="prefix+load+prediction",
        operation="chat",
    )


def tracker(
    folder: Path,
    name: str,
    provider: TracerProvider,
    meter_provider: MeterProvider | None = None,
) -> RequestLifecycleTracker:
    """A tracker that writes when told to: writing is measured too, but separately."""
    return RequestLifecycleTracker(
        TrackerConfig(
            store_name=name,
            # The endpoints are scraped once, and must stay fresh for all rounds.
            stale_after="0s",  # pyright: ignore[reportArgumentType]
            persistence=PersistenceConfig(
                enabled=True,
                output_path=str(folder / f"{name}.jsonl"),
                flush_threshold=1_000_000,
                flush_interval="1h",  # pyright: ignore[reportArgumentType]
            ),
        ),
        tracer_provider=provider,
        meter_provider=meter_provider or NoOpMeterProvider(),
    )


def exporting(provider: TracerProvider, url: str, *, adopted: bool = False) -> TracerProvider:
    """Export the spans of a provider, when it is flushed.

    Args:
        provider: The provider, which is returned.
        url: Of the collector.
        adopted: Whether our encoder is used, as under zero code.
    """
    exporter = OTLPSpanExporter(f"{url}/v1/traces")
    if adopted:
        assert adopt(exporter)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    return provider


def serve(lifecycles: RequestLifecycleTracker, number: int, route: Route) -> None:
    """Serve one request of one chunk, from its dispatch to its end."""
    tracked = lifecycles.track(start(f"request-{number}", route))
    tracked.chunk()
    tracked.complete(OUTPUT_TOKENS, CACHED_TOKENS)


@dataclass(frozen=True)
class Told:
    """The content of the span of one request.

    Attributes:
        first: Attributes at its start.
        rest: Attributes at its end.
        events: Name, Unix nanoseconds and attributes.
    """

    first: dict[str, Any]
    rest: dict[str, Any]
    events: list[tuple[str, int, dict[str, Any]]]


def told(folder: Path, route: Route) -> tuple[LifecycleRecord, Told]:
    """Return the record of one request to `route`, and the content of its span."""
    path = folder / "told.jsonl"
    path.unlink(missing_ok=True)
    lifecycles = tracker(folder, "told", TracerProvider())
    serve(lifecycles, 0, route)
    lifecycles.close()
    record = next(read_records(path))
    at = moments(record)
    rest = end_attributes(record, at)
    return record, Told(start_attributes(record), rest, span_events(record, at))
