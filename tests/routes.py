"""Endpoints and routes for tests."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from otel_lifecycle import (
    Endpoint,
    EndpointMetrics,
    LatencyPrediction,
    NPUDevice,
    NPUState,
    RequestStart,
    Route,
    RouteEndpoint,
)

# Where the clock of a `Bench` begins: 2023-11-14T22:13:20Z.
NOW_NS = 1_700_000_000_000_000_000
NOW = datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
SCRAPED = NOW - timedelta(seconds=0.5)


def endpoint(pod: str, *, name: str = "") -> Endpoint:
    """An endpoint in namespace `llm`."""
    return Endpoint("llm", pod, f"{pod}.local", "8000", name)


def known(pod: str) -> RouteEndpoint:
    """An endpoint with all values known, scraped half a second before `NOW_NS`."""
    return RouteEndpoint(
        endpoint(pod),
        EndpointMetrics(
            running_requests=3,
            waiting_requests=1,
            kv_cache_usage=0.31,
            kv_cache_max_token_capacity=524288,
            cache_block_size=128,
            cache_num_blocks=4096,
            active_models={"lora-a": 2},
            waiting_models={"lora-b": 1},
            max_active_models=4,
            update_time=SCRAPED,
        ),
        NPUState(
            observation_time=SCRAPED,
            data_status="fresh",
            device_count=2,
            ai_core_utilization_avg=60.0,
            ai_core_utilization_max=63.0,
            hbm_utilization_avg=70.5,
            hbm_utilization_max=71.0,
            hbm_bandwidth_utilization_avg=39.0,
            hbm_bandwidth_utilization_max=40.0,
            devices=(
                NPUDevice(f"{pod}.local:8082", "0", 57.0, 70.0, 38.0),
                NPUDevice(f"{pod}.local:8082", "1", 63.0, 71.0, 40.0),
            ),
        ),
    )


def bare(pod: str) -> RouteEndpoint:
    """An endpoint of which only the identity is known."""
    return RouteEndpoint(endpoint(pod))


def aggregated(pod: str = "qwen-0") -> Route:
    """A route to one endpoint with all values known."""
    return Route(known(pod))


def disaggregated() -> Route:
    """A PD route with all values known."""
    return Route(known("leader-0"), known("prefill-0"), known("decode-0"))


def start(request_id: str = "request-1", route: Route | None = None) -> RequestStart:
    """A request with all values known."""
    return RequestStart(
        request_id,
        route or aggregated(),
        "Qwen/Qwen3-8B",
        input_tokens=512,
        input_token_source="tokenized",
        prefix_cache_score=0.42,
        prediction=LatencyPrediction(210.0, 18.5),
        candidates=8,
        policy="prefix+load",
        operation="chat",
        provider="vllm",
    )
