"""Hypothesis strategies for routes and requests, valid and invalid."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

from otel_lifecycle import (
    SLO,
    Endpoint,
    EndpointMetrics,
    LatencyPrediction,
    NPUDevice,
    NPUState,
    RequestStart,
    Route,
    RouteEndpoint,
)
from tests.routes import NOW

texts = st.text(max_size=20)
counts = st.none() | st.integers(0, 2**40) | st.integers()
numbers = (
    st.none()
    | st.floats(0, 1)
    | st.floats(0, 100)
    | st.floats(0, 1e9)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.integers(-10, 200)
)
moments = st.none() | st.datetimes(
    datetime(1970, 1, 2), datetime(2100, 1, 1), timezones=st.just(timezone.utc)
)
models = st.dictionaries(texts, st.integers(0, 100), max_size=3)

endpoints = st.builds(
    Endpoint,
    namespace=st.sampled_from(["", "llm", "a/b"]),
    pod_name=st.sampled_from(["", "qwen-0", "qwen-1", "\ud800"]),
    address=st.sampled_from(["", "10.0.0.7", "fe80::1"]),
    port=st.sampled_from(["", "8000", "08", "http", "99999"]),
    name=st.sampled_from(["", "qwen-0", "qwen-0-rank-1"]),
)
metrics = st.builds(
    EndpointMetrics,
    running_requests=counts,
    waiting_requests=counts,
    kv_cache_usage=numbers,
    kv_cache_max_token_capacity=counts,
    cache_block_size=counts,
    cache_num_blocks=counts,
    active_models=models,
    waiting_models=models,
    max_active_models=counts,
    prefix_cache_hit_rate=numbers,
    update_time=moments,
)
devices = st.builds(
    NPUDevice,
    target=texts,
    device_id=texts,
    ai_core_utilization=numbers,
    hbm_utilization=numbers,
    hbm_bandwidth_utilization=numbers,
)
npu_states = st.builds(
    NPUState,
    observation_time=moments,
    data_status=st.sampled_from(["fresh", "stale", "partial", "missing", ""]),
    device_count=counts,
    ai_core_utilization_avg=numbers,
    ai_core_utilization_max=numbers,
    hbm_utilization_avg=numbers,
    hbm_utilization_max=numbers,
    hbm_bandwidth_utilization_avg=numbers,
    hbm_bandwidth_utilization_max=numbers,
    devices=st.lists(devices, max_size=3).map(tuple),
)
route_endpoints = st.builds(RouteEndpoint, endpoints, st.none() | metrics, st.none() | npu_states)
routes = (
    st.builds(Route, route_endpoints)
    | route_endpoints.map(lambda prefill: Route(prefill, prefill))
    | st.builds(Route, route_endpoints, route_endpoints, route_endpoints)
)
label_names = st.sampled_from(["tenant", "a.b", "T_1", "", "no name", "x" * 100, "é"])
label_values = (
    texts
    | st.integers()
    | st.floats()
    | st.booleans()
    | st.none()
    | st.just("x" * 257)
    | st.binary()
)
starts = st.builds(
    RequestStart,
    request_id=texts.filter(bool),
    route=routes,
    model=texts,
    input_tokens=counts,
    input_token_source=st.sampled_from([None, "tokenized", "reported", "estimated", "unknown"]),
    streaming=st.none() | st.booleans(),
    prefix_cache_score=numbers,
    prediction=st.none() | st.builds(LatencyPrediction, numbers, numbers),
    candidates=counts,
    policy=texts,
    engine_request_id=st.none() | texts,
    attempt=st.integers(-1, 5),
    operation=texts,
    provider=texts,
    route_mismatch=st.booleans(),
    labels=st.dictionaries(label_names, label_values, max_size=4) | st.just(None),
    slo=st.none() | st.builds(SLO, numbers, numbers, numbers),
    received_at=moments | st.integers(0, 10**12).map(lambda us: NOW - timedelta(microseconds=us)),
)
delays = st.floats(0, 1e6).map(lambda seconds: timedelta(seconds=seconds))
