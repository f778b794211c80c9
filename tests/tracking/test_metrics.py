"""The gauges, histograms and counters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_lifecycle import (
    EndpointEvent,
    EndpointEventType,
    EndpointMetrics,
    LatencyPrediction,
    NPUDevice,
    NPUState,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    RouteEndpoint,
    TrackerConfig,
)
from otel_lifecycle.model.endpoint_state import Collected
from tests.conftest import Bench
from tests.routes import NOW, NOW_NS, aggregated, disaggregated, endpoint, known, start
from tests.tracking.expected import answer


def points(bench: Bench, name: str) -> dict[frozenset[tuple[str, Any]], float]:
    """Return the points of one metric."""
    return bench.telemetry.metrics().get(name, {})


def sums(bench: Bench, name: str) -> dict[frozenset[tuple[str, Any]], float]:
    """Return the sums of one histogram."""
    return bench.telemetry.histogram_sums().get(name, {})


def by_endpoint(bench: Bench, name: str) -> dict[str, float]:
    """Return the points of one metric whose only attribute is the endpoint."""
    return {
        dict(attributes)["llm_router.endpoint.id"]: value
        for attributes, value in points(bench, name).items()
    }


def npu_endpoint(pod: str, **changes: Any) -> RouteEndpoint:
    """An endpoint with one chip, observed now unless `changes` say otherwise."""
    state: dict[str, Any] = {
        "observation_time": NOW,
        "data_status": "fresh",
        "device_count": 1,
        "devices": (NPUDevice("10.0.1.3:8082", "0", 57.0, 70.0, None),),
    }
    metrics = EndpointMetrics(running_requests=2, update_time=changes.pop("update_time", NOW))
    return RouteEndpoint(endpoint(pod), metrics, NPUState(**{**state, **changes}))


def test_inflight(bench: Bench) -> None:
    """The gauges follow the load of each endpoint, and return to 0."""
    tracked = bench.tracker.track(start(route=disaggregated()))

    assert by_endpoint(bench, "llm_router.inflight.tokens") == {
        "pod://llm/prefill-0": 512,
        "pod://llm/decode-0": 512,
    }
    tracked.chunk()
    assert by_endpoint(bench, "llm_router.inflight.requests") == {
        "pod://llm/prefill-0": 0,
        "pod://llm/decode-0": 1,
    }
    tracked.complete()
    assert by_endpoint(bench, "llm_router.inflight.requests") == {
        "pod://llm/prefill-0": 0,
        "pod://llm/decode-0": 0,
    }


def test_removed_endpoint_vanishes(bench: Bench) -> None:
    """A deleted endpoint disappears from all gauges."""
    bench.tracker.track(start()).complete()
    event = EndpointEvent(EndpointEventType.DELETE, endpoint("qwen-0"))
    bench.tracker.extract_endpoint(event)

    gauges = [
        name
        for name, found in bench.telemetry.metrics().items()
        if any("llm_router.endpoint.id" in dict(attributes) for attributes in found)
    ]
    assert gauges == ["llm_router.prediction.error"] or gauges == []


def test_engine_gauges(bench: Bench) -> None:
    """The engine's last values are shown; unknown ones are absent."""
    bench.tracker.track(start(route=Route(known("qwen-0")))).complete()
    unknown = RouteEndpoint(endpoint("qwen-1"), EndpointMetrics(waiting_requests=0))
    bench.tracker.track(start(route=Route(unknown))).complete()

    metrics = ("request.running", "request.waiting", "kv_cache.utilization")
    assert [by_endpoint(bench, f"llm_router.endpoint.{name}") for name in metrics] == [
        {"pod://llm/qwen-0": 3},
        {"pod://llm/qwen-0": 1, "pod://llm/qwen-1": 0},
        {"pod://llm/qwen-0": 0.31},
    ]


def test_npu_gauges(bench: Bench) -> None:
    """Each chip has a point for each value it has, as a fraction."""
    bench.tracker.track(start(route=Route(npu_endpoint("qwen-0")))).complete()

    chip = frozenset(
        {
            ("llm_router.endpoint.id", "pod://llm/qwen-0"),
            ("llm_router.npu.device.id", "0"),
            ("llm_router.npu.device.target", "10.0.1.3:8082"),
        }
    )
    kinds = ("core", "memory", "memory_bandwidth")
    assert [points(bench, f"llm_router.npu.{kind}.utilization") for kind in kinds] == [
        {chip: 0.57},
        {chip: 0.7},
        {},
    ]


def test_npu_without_devices(bench: Bench) -> None:
    """Without devices the endpoint's average is shown."""
    state = npu_endpoint("qwen-0", devices=(), ai_core_utilization_avg=40.0)
    bench.tracker.track(start(route=Route(state))).complete()

    assert by_endpoint(bench, "llm_router.npu.core.utilization") == {"pod://llm/qwen-0": 0.4}


def test_stale_is_absent(bench: Bench) -> None:
    """Stale or missing values are absent, never 0."""
    old = NOW - timedelta(minutes=1)
    for number, changes in enumerate(
        ({"data_status": "stale"}, {"data_status": "missing"}, {"observation_time": old})
    ):
        state = npu_endpoint(f"qwen-{number}", update_time=old, **changes)
        bench.tracker.track(start(route=Route(state))).complete()

    assert points(bench, "llm_router.npu.core.utilization") == {}
    assert points(bench, "llm_router.endpoint.request.running") == {}


@pytest.mark.parametrize(
    ("gpu", "shown", "other"),
    [
        (False, "llm_router.npu.core.utilization", "hw.gpu.utilization"),
        (True, "hw.gpu.utilization", "llm_router.npu.core.utilization"),
    ],
)
def test_collected_state_becomes_old(bench: Bench, gpu: bool, shown: str, other: str) -> None:
    """What was collected is shown until it is too old since it was judged, by its own name."""
    bench.tracker.track(start()).complete()
    devices = npu_endpoint("qwen-0").npu
    (state,) = bench.tracker.store.endpoints()
    state.collected = Collected(npu=devices, gpu=gpu, judged_ns=NOW_NS)
    seconds = bench.tracker.config.stale_after.total_seconds()

    bench.clock.set_wall_ns(NOW_NS + round(seconds * 1e9))
    assert list(points(bench, shown).values()) == [0.57]
    assert points(bench, other) == {}
    bench.clock.set_wall_ns(NOW_NS + round(seconds * 1e9) + 1_000_000)
    assert points(bench, shown) == {}


def test_latencies(bench: Bench) -> None:
    """A completed stream is in all three histograms, with the conventions' attributes."""
    answer(bench, bench.tracker.track(start()))

    request = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "vllm",
        "gen_ai.request.model": "Qwen/Qwen3-8B",
        "server.address": "qwen-0.local",
        "server.port": 8000,
    }
    ended = {**request, "llm_router.outcome": "completed"}
    names = (
        "gen_ai.server.time_to_first_token",
        "gen_ai.server.time_per_output_token",
        "gen_ai.server.request.duration",
    )
    assert [points(bench, name) for name in names] == [
        {frozenset(request.items()): 1},
        {frozenset(request.items()): 1},
        {frozenset(ended.items()): 1},
    ]
    assert [sums(bench, name) for name in names] == [
        {frozenset(request.items()): 0.25},
        {frozenset(request.items()): 0.02},
        {frozenset(ended.items()): 2.79},
    ]


def test_predicted_latencies(bench: Bench) -> None:
    """Predicted latencies have the same attributes and requests as measured ones."""
    answer(bench, bench.tracker.track(start("both measured")))
    tracked = bench.tracker.track(start("no second token"))
    tracked.chunk()
    tracked.complete(output_tokens=1)
    bench.tracker.track(start("not a stream")).complete(output_tokens=128)
    unpredicted = RequestStart("not predicted", aggregated("qwen-1"))
    tracked = bench.tracker.track(unpredicted)
    tracked.chunk()
    tracked.complete(output_tokens=128)

    measured = {
        name: {
            key: count for key, count in found.items() if ("server.address", "qwen-0.local") in key
        }
        for name, found in bench.telemetry.metrics().items()
        if name.startswith("gen_ai.server.time")
    }
    assert {
        "time_to_first_token": list(measured["gen_ai.server.time_to_first_token"].values()),
        "time_per_output_token": list(measured["gen_ai.server.time_per_output_token"].values()),
    } == {"time_to_first_token": [2], "time_per_output_token": [1]}
    assert [
        points(bench, "llm_router.predicted.time_to_first_token"),
        points(bench, "llm_router.predicted.time_per_output_token"),
    ] == [
        measured["gen_ai.server.time_to_first_token"],
        measured["gen_ai.server.time_per_output_token"],
    ]
    assert [
        list(sums(bench, f"llm_router.predicted.time_{target}").values())
        for target in ("to_first_token", "per_output_token")
    ] == [[2 * 0.21], [0.0185]]


def test_prediction_error(bench: Bench) -> None:
    """The error of TTFT is the prefill endpoint's, of TPOT the decode's, by direction."""
    early = RequestStart("1", disaggregated(), prediction=LatencyPrediction(1000.0, 21.0))
    answer(bench, bench.tracker.track(early))
    late = RequestStart("2", aggregated(), prediction=LatencyPrediction(ttft_ms=100.0))
    answer(bench, bench.tracker.track(late))
    exact = RequestStart("3", aggregated("qwen-1"), prediction=LatencyPrediction(ttft_ms=250.0))
    answer(bench, bench.tracker.track(exact))

    found = {
        tuple(value for _, value in sorted(attributes)): error
        for attributes, error in sums(bench, "llm_router.prediction.error").items()
    }
    assert found == {
        ("pod://llm/prefill-0", "too_high", "ttft"): 0.75,
        ("pod://llm/decode-0", "too_high", "tpot"): 0.001,
        ("pod://llm/qwen-0", "too_low", "ttft"): 0.15,
        ("pod://llm/qwen-1", "too_high", "ttft"): 0.0,
    }


def test_outcomes(make_bench: Callable[..., Bench]) -> None:
    """Every request is counted by outcome and model, sampled or not; errors by type."""
    bench = make_bench(ALWAYS_OFF)
    bench.tracker.track(start()).complete()
    bench.tracker.track(start()).fail("http_500")
    bench.tracker.track(start()).disconnect()

    model = ("gen_ai.request.model", "Qwen/Qwen3-8B")
    assert points(bench, "llm_router.requests") == {
        frozenset({model, ("llm_router.outcome", outcome)}): 1
        for outcome in ("completed", "error", "client_disconnect")
    }
    errors = [
        dict(attributes).get("error.type")
        for attributes in points(bench, "gen_ai.server.request.duration")
    ]
    assert sorted(errors, key=str) == [None, None, "http_500"]


def test_cardinality_is_bounded(make_bench: Callable[..., Bench]) -> None:
    """Beyond the limit endpoints and models share one series."""
    bench = make_bench(max_metric_values=2)
    handles = [
        bench.tracker.track(
            RequestStart(
                f"request-{number}",
                Route(npu_endpoint(f"qwen-{number}")),
                f"model-{number}",
                input_tokens=1,
            )
        )
        for number in range(5)
    ]
    assert by_endpoint(bench, "llm_router.inflight.requests") == {
        "pod://llm/qwen-0": 1,
        "pod://llm/qwen-1": 1,
        "_OTHER": 3,
    }
    assert len(points(bench, "llm_router.npu.core.utilization")) == 2
    for tracked in handles:
        tracked.complete()
    models = {
        dict(attributes)["gen_ai.request.model"]: value
        for attributes, value in points(bench, "llm_router.requests").items()
    }
    assert models == {"model-0": 1, "model-1": 1, "_OTHER": 3}
    addresses = {
        dict(attributes)["server.address"]
        for attributes in points(bench, "gen_ai.server.request.duration")
    }
    assert addresses == {"qwen-0.local", "qwen-1.local", "_OTHER"}


def test_records(bench: Bench) -> None:
    """The counters of the record file are exported too."""
    bench.tracker.track(start()).complete()
    bench.tracker.flush(timeout=30)

    names = ("written", "dropped", "queue")
    assert [points(bench, f"llm_router.records.{name}") for name in names] == [
        {frozenset(): 1},
        {frozenset(): 0},
        {frozenset(): 0},
    ]


def test_ignored_calls(bench: Bench) -> None:
    """Ignored calls and values are counted by reason."""
    bench.tracker.track(RequestStart("", aggregated()))
    bench.tracker.track(RequestStart("request-1", aggregated(), input_tokens=-1)).complete()

    assert points(bench, "llm_router.ignored") == {
        frozenset({("llm_router.ignored.reason", "no_request_id")}): 1,
        frozenset({("llm_router.ignored.reason", "invalid_value")}): 1,
    }


def test_never_a_request_id(bench: Bench) -> None:
    """No metric has an attribute with a different value for every request."""
    bench.tracker.track(start("secret-id")).complete()

    values = {
        value
        for found in bench.telemetry.metrics().values()
        for attributes in found
        for _, value in attributes
    }
    assert "secret-id" not in values


def test_engine_known_twice(bench: Bench) -> None:
    """Loads of stores add up; an engine's own values do not."""
    route = Route(npu_endpoint("qwen-0", devices=(), ai_core_utilization_avg=60.0))
    full = EndpointMetrics(running_requests=3, kv_cache_usage=0.9, update_time=NOW)
    route = Route(RouteEndpoint(route.leader.endpoint, full, route.leader.npu))
    other = RequestLifecycleTracker(
        TrackerConfig(store_name=f"other than {bench.path}"),
        bench.telemetry.tracer_provider,
        bench.telemetry.meter_provider,
        bench.clock,
    )
    handles = [tracker.track(start(route=route)) for tracker in (bench.tracker, other)]
    shown = {
        name: by_endpoint(bench, f"llm_router.{name}")
        for name in (
            "inflight.requests",
            "endpoint.request.running",
            "endpoint.kv_cache.utilization",
            "npu.core.utilization",
        )
    }
    for tracked in handles:
        tracked.complete()
    other.close()

    assert shown == {
        "inflight.requests": {"pod://llm/qwen-0": 2},
        "endpoint.request.running": {"pod://llm/qwen-0": 3},
        "endpoint.kv_cache.utilization": {"pod://llm/qwen-0": 0.9},
        "npu.core.utilization": {"pod://llm/qwen-0": 0.6},
    }


def test_errors_are_bounded(make_bench: Callable[..., Bench]) -> None:
    """Error types beyond the limit count as one."""
    bench = make_bench(max_metric_values=2)
    for number in range(4):
        bench.tracker.track(start(f"request-{number}")).fail(f"error {number}")

    durations = points(bench, "gen_ai.server.request.duration")
    assert {dict(key)["error.type"]: count for key, count in durations.items()} == {
        "error 0": 1,
        "error 1": 1,
        "_OTHER": 2,
    }


def test_the_last_export(bench: Bench) -> None:
    """The last values of a closed tracker are in one more collection, and then gone."""
    bench.tracker.track(start()).complete()
    bench.tracker.close()

    metrics = bench.telemetry.metrics()
    assert metrics["llm_router.records.written"] == {frozenset(): 1}
    assert set(metrics["llm_router.inflight.requests"].values()) == {0}
    assert "llm_router.inflight.requests" not in bench.telemetry.metrics()
