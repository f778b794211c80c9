"""A scheduler's values as plain objects shaped like the seed's, in snake_case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from otel_lifecycle import Endpoint, RequestLifecycleTracker
from otel_lifecycle.testing import ManualClock
from tests.routes import SCRAPED

LATENCY_PREDICTION = "LatencyPredictionInfoKey"
PREFIX_CACHE = "PrefixCacheMatchInfoKey"
NPU_STATE = "NPUStateKey"
PD_GROUP = "PDGroupInfoKey"


@dataclass
class NamespacedName:
    namespace: str
    name: str


@dataclass
class Metadata:
    namespaced_name: NamespacedName
    pod_name: str
    address: str
    port: str


@dataclass
class Metrics:
    active_models: Any = field(default_factory=lambda: {"lora-a": 2})
    waiting_models: Any = field(default_factory=lambda: {"lora-b": 1})
    max_active_models: Any = 4
    running_requests_size: Any = 3
    waiting_queue_size: Any = 1
    kv_cache_usage_percent: Any = 0.31
    kv_cache_max_token_capacity: Any = 524288
    cache_block_size: Any = 128
    cache_num_blocks: Any = 4096
    update_time: Any = SCRAPED


@dataclass
class NPUDevice:
    target: Any
    device_id: Any
    ai_core_utilization: Any
    hbm_utilization: Any
    hbm_bandwidth_utilization: Any


@dataclass
class NPUState:
    devices: Any
    observation_time: Any = SCRAPED
    data_status: Any = "fresh"
    device_count: Any = 2
    ai_core_utilization_avg: Any = 60.0
    ai_core_utilization_max: Any = 63.0
    hbm_utilization_avg: Any = 70.5
    hbm_utilization_max: Any = 71.0
    hbm_bandwidth_utilization_avg: Any = 39.0
    hbm_bandwidth_utilization_max: Any = 40.0


@dataclass
class ScheduledEndpoint:
    metadata: Any
    metrics: Any = None
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])

    def get(self, key: str) -> Any:
        return self.attributes.get(key)


@dataclass
class ProfileRunResult:
    target_endpoints: Any


@dataclass
class SchedulingResult:
    profile_results: Any
    primary_profile_name: Any = "default"
    primary_route: Any = None
    candidates: Any = 8
    policy: Any = "prefix+load"


@dataclass
class Request:
    request_id: Any = "request-1"
    target_model: Any = "Qwen/Qwen3-8B"
    tokenized_prompt: Any = field(default_factory=lambda: SimpleNamespace(token_ids=[7] * 512))
    body: Any = field(default_factory=lambda: SimpleNamespace(stream=True))
    operation: Any = "chat"


@dataclass
class Usage:
    completion_tokens: Any
    prompt_tokens: Any = 512
    prompt_token_details: Any = None


@dataclass
class Response:
    end_of_stream: Any = False
    usage: Any = None
    termination_cause: Any = None
    error: Any = None


def metadata(pod: str, name: str = "") -> Metadata:
    """The metadata of an endpoint in namespace `llm`."""
    return Metadata(NamespacedName("llm", name), pod, f"{pod}.local", "8000")


def identity(pod: str, name: str = "") -> Endpoint:
    """The same as an `Endpoint`, to look up its load."""
    return Endpoint("llm", pod, f"{pod}.local", "8000", name)


def npu_state(pod: str) -> NPUState:
    """The state of two chips."""
    return NPUState(
        [
            NPUDevice(f"{pod}.local:8082", "0", 57.0, 70.0, 38.0),
            NPUDevice(f"{pod}.local:8082", "1", 63.0, 71.0, 40.0),
        ]
    )


def endpoint(pod: str, name: str = "", **attributes: Any) -> ScheduledEndpoint:
    """An endpoint with all values known; `attributes` by lower-case key name."""
    keys = {
        "prediction": LATENCY_PREDICTION,
        "prefix_cache": PREFIX_CACHE,
        "npu": NPU_STATE,
        "pd_group": PD_GROUP,
    }
    known = {"npu": npu_state(pod), **attributes}
    return ScheduledEndpoint(
        metadata(pod, name), Metrics(), {keys[key]: value for key, value in known.items()}
    )


def prefix_match(match_blocks: Any = 21, total_blocks: Any = 50) -> SimpleNamespace:
    """A prefix-cache score, by default 0.42."""
    return SimpleNamespace(match_blocks=match_blocks, total_blocks=total_blocks)


def prediction(ttft: Any = 210.0, tpot: Any = 18.5) -> SimpleNamespace:
    """A prediction, in milliseconds."""
    return SimpleNamespace(ttft=ttft, tpot=tpot)


def predicted(pod: str, name: str = "") -> ScheduledEndpoint:
    """An endpoint with a prefix-cache score and a prediction."""
    return endpoint(pod, name, prefix_cache=prefix_match(), prediction=prediction())


def pd_group(prefill: Any, decode: Any) -> SimpleNamespace:
    """The pair of a leader."""
    return SimpleNamespace(
        selected_prefill_pod=SimpleNamespace(endpoint=prefill),
        selected_decode_pod=SimpleNamespace(endpoint=decode),
    )


def pd_leader() -> ScheduledEndpoint:
    """A leader with its pair; each half has another prediction."""
    prefill = endpoint(
        "prefill-0", prefix_cache=prefix_match(), prediction=prediction(210.0, 999.0)
    )
    decode = endpoint(
        "decode-0", prefix_cache=prefix_match(1, 50), prediction=prediction(999.0, 18.5)
    )
    return endpoint(
        "leader-0",
        prefix_cache=prefix_match(2, 50),
        prediction=prediction(888.0, 888.0),
        pd_group=pd_group(prefill, decode),
    )


def route(leader: Any, prefill: Any, decode: Any) -> SimpleNamespace:
    """A dispatched route, made of metadata."""
    return SimpleNamespace(leader=leader, prefill=prefill, decode=decode)


def pd_route() -> SimpleNamespace:
    """The dispatched route of `pd_leader`."""
    return route(metadata("leader-0"), metadata("prefill-0"), metadata("decode-0"))


def result(*targets: Any, **changes: Any) -> SchedulingResult:
    """A scheduling result that picks the first of `targets`."""
    profiles: Mapping[str, Any] = {"default": ProfileRunResult(list(targets))}
    return SchedulingResult(**{"profile_results": profiles, **changes})


def usage(completion_tokens: Any = 128, cached_tokens: Any = 200) -> Usage:
    """The usage that an engine reports at the end."""
    return Usage(
        completion_tokens, prompt_token_details=SimpleNamespace(cached_tokens=cached_tokens)
    )


def last(**changes: Any) -> Response:
    """The last chunk."""
    return Response(end_of_stream=True, **changes)


def stream(
    tracker: RequestLifecycleTracker, request: Any, clock: ManualClock | None = None, **end: Any
) -> None:
    """Two chunks and the last one, 250, 1,000 and 2,790 ms after the start."""
    for milliseconds, chunk in ((250, Response()), (750, Response()), (1_790, last(**end))):
        if clock is not None:
            clock.advance(milliseconds)
        tracker.response_body(request, chunk)
