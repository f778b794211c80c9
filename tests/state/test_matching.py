"""Metrics and devices are matched to endpoints."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import cast

import msgspec
import pytest

from otel_lifecycle import Endpoint, EndpointMetrics
from otel_lifecycle.model.endpoint_state import EndpointState
from otel_lifecycle.state.accelerators import DeviceReading
from otel_lifecycle.state.matching import Fleet, Pod
from otel_lifecycle.state.targets import Target

EXPORTER = Target("npu_exporter", "http://10.0.1.3:8082/metrics")
POD = Endpoint("llm", "qwen-0", "10.0.0.7", "8000")
ADDRESS = Endpoint(address="10.0.0.8", port="8000")
ON_HOST = Endpoint(address="10.0.1.3", port="8000")
FREE = DeviceReading("npu", "0")
OF_QWEN_0 = DeviceReading("npu", "1", namespace="llm", pod_name="qwen-0")
OF_QWEN_1 = DeviceReading("npu", "2", namespace="llm", pod_name="qwen-1")
SCRAPED = datetime(2026, 11, 24, 23, 42, 56, tzinfo=timezone.utc)
READINGS = [FREE, OF_QWEN_0, OF_QWEN_1]


def rank(index: int) -> Endpoint:
    """One rank of a pod."""
    return Endpoint("llm", "qwen-0", "10.0.1.3", str(8000 + index), f"qwen-0-rank-{index}")


@pytest.mark.parametrize(
    ("endpoints", "pods", "target", "expected"),
    [
        ([POD], [], EXPORTER, {POD.label: ["1"]}),
        (
            [POD, ADDRESS],
            [Pod("llm", "qwen-1", "10.0.0.8")],
            EXPORTER,
            {POD.label: ["1"], ADDRESS.label: ["2"]},
        ),
        (
            [ADDRESS, Endpoint(address="10.0.0.8", port="8001")],
            [Pod("", "", "10.0.0.8", "node-1", "10.0.1.3")],
            EXPORTER,
            {},
        ),
        ([ON_HOST], [], EXPORTER, {ON_HOST.label: ["0"]}),
        ([ON_HOST, POD], [], EXPORTER, {ON_HOST.label: ["0"], POD.label: ["1"]}),
        ([ON_HOST, Endpoint(address="10.0.1.3", port="8001")], [], EXPORTER, {}),
        ([rank(0), rank(1)], [], EXPORTER, {rank(0).label: ["0", "1"], rank(1).label: ["0", "1"]}),
        (
            [ADDRESS],
            [Pod("llm", "qwen-9", "10.0.0.8", "node-1", "10.0.1.3")],
            EXPORTER,
            {ADDRESS.label: ["0"]},
        ),
        (
            [ADDRESS],
            [Pod("llm", "qwen-9", "10.0.0.8", "node-1", "192.168.0.1")],
            Target("npu_exporter", EXPORTER.url, hosts=("node-1", "192.168.0.1")),
            {ADDRESS.label: ["0"]},
        ),
        (
            [POD, ADDRESS],
            [],
            Target(
                "npu_exporter",
                EXPORTER.url,
                (("addr://10.0.0.8:8000", ("0", "2")), ("pod://llm/qwen-0", ())),
            ),
            {ADDRESS.label: ["0", "2"], POD.label: ["0", "1", "2"]},
        ),
        (
            [ADDRESS],
            [],
            Target("npu_exporter", EXPORTER.url, (("10.0.0.8:8000", ("1",)), ("nobody", ()))),
            {ADDRESS.label: ["1"]},
        ),
    ],
    ids=[
        "pod label",
        "pod of the address",
        "pods that share their host's address",
        "host alone",
        "a pod's device is its own",
        "host shared",
        "ranks of a pod",
        "node address of the pod",
        "node of both pods",
        "explicit",
        "explicit by address",
    ],
)
def test_devices(
    endpoints: list[Endpoint], pods: list[Pod], target: Target, expected: dict[str, list[str]]
) -> None:
    """Devices match by explicit map, by pod, or by a host with only one endpoint."""
    fleet = Fleet(map(EndpointState, endpoints), {pod.address: pod for pod in pods})

    found = fleet.devices(target, READINGS)

    assert {
        state.endpoint.label: [one.device_id for one in readings]
        for state, readings in found.items()
    } == expected


FIRST = EndpointMetrics(
    running_requests=1,
    waiting_requests=2,
    kv_cache_usage=0.2,
    kv_cache_max_token_capacity=160,
    cache_num_blocks=10,
    cache_block_size=16,
    active_models={"lora-a": 1},
    max_active_models=4,
    prefix_cache_hit_rate=0.5,
    update_time=SCRAPED,
)
SECOND = EndpointMetrics(
    running_requests=3,
    waiting_requests=None,
    kv_cache_usage=0.4,
    kv_cache_max_token_capacity=160,
    cache_num_blocks=10,
    cache_block_size=16,
    active_models={"lora-b": 2},
    max_active_models=4,
    prefix_cache_hit_rate=0.7,
    update_time=SCRAPED,
)
BOTH = EndpointMetrics(
    running_requests=4,
    waiting_requests=None,
    kv_cache_usage=cast("float", pytest.approx(0.3)),
    kv_cache_max_token_capacity=320,
    cache_num_blocks=20,
    cache_block_size=16,
    active_models={"lora-a": 1, "lora-b": 2},
    max_active_models=4,
    prefix_cache_hit_rate=cast("float", pytest.approx(0.6)),
    update_time=SCRAPED,
)
UNLIKE = msgspec.structs.replace(SECOND, cache_block_size=32, max_active_models=8)
BOTH_UNLIKE = msgspec.structs.replace(BOTH, cache_block_size=None, max_active_models=None)


@pytest.mark.parametrize(
    ("endpoint", "ranks", "expected"),
    [
        (ADDRESS, {"": FIRST}, FIRST),
        (ADDRESS, {"0": FIRST, "1": SECOND}, BOTH),
        (ADDRESS, {"0": FIRST, "1": UNLIKE}, BOTH_UNLIKE),
        (Endpoint("llm", "a", "10.0.0.8", "8000", "a-rank-1"), {"0": FIRST, "1": SECOND}, SECOND),
        (Endpoint("llm", "a", "10.0.0.8", "8000", "a-rank-1"), {"0": FIRST}, FIRST),
        (ADDRESS, {}, None),
        (Endpoint(address="10.0.0.8", port="8001"), {"": FIRST}, None),
    ],
    ids=[
        "one",
        "all ranks of a port",
        "ranks that differ",
        "its rank",
        "the rank of its port",
        "none",
        "another port",
    ],
)
def test_metrics(
    endpoint: Endpoint, ranks: dict[str, EndpointMetrics], expected: EndpointMetrics | None
) -> None:
    """An engine's metrics go to the endpoint at its address, by rank."""
    state = EndpointState(endpoint)
    target = Target("engine", "http://10.0.0.8:8000/metrics")

    assert Fleet([state], {}).metrics(target, ranks) == (
        {} if expected is None else {state: expected}
    )
