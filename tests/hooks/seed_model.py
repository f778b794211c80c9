"""The seed in Python, line by line: how it reads a scheduler's objects and calls its store.

Functions have the names and the order of the original; unknown is its zero value, 0 or "". The
store is not in the seed, so the model implements the rules in `docs/seed-parity.md`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tests.hooks.shapes import LATENCY_PREDICTION, NPU_STATE, PD_GROUP, PREFIX_CACHE, NPUState


class Moment(NamedTuple):
    """Go's `time.Time`: differences are those of the monotonic clock. Nanoseconds."""

    wall: int
    monotonic: int


@dataclass
class Counter:
    """The load of an endpoint, from its first use until it is deleted."""

    tokens: int = 0
    requests: int = 0

    def add(self, tokens: int, requests: int) -> None:
        self.tokens += tokens
        self.requests += requests

    def as_dict(self) -> dict[str, int]:
        return {"tokens": self.tokens, "requests": self.requests}


@dataclass
class Started:
    """One request in flight, with the contents of its record."""

    record: dict[str, Any]
    started: Moment
    leases: dict[str, tuple[Counter, int]]
    first_chunk: Moment | None = None


@dataclass
class Store:
    """Requests in flight and counters; `finished` holds the records in order of their end."""

    inflight: dict[str, Started] = field(default_factory=dict[str, Started])
    counters: dict[Any, Counter] = field(default_factory=dict[Any, Counter])
    finished: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def snapshot(self, metadata: Any) -> dict[str, int]:
        return self.counters.get(key(metadata), Counter()).as_dict()

    def supersede(self, request_id: str, now: Moment) -> None:
        """End the older request with the same id."""
        if request_id in self.inflight:
            self.end(request_id, "superseded", now)

    def start_request(self, record: dict[str, Any], now: Moment) -> None:
        tokens, counted = record["inputTokenLength"], record["trackedEndpoints"]
        roles = ["prefill", "decode"] if len(counted) > 1 else ["leader"]
        leases: dict[str, tuple[Counter, int]] = {}
        for role, metadata in zip(roles, counted, strict=True):
            counter = self.counters.setdefault(key(metadata), Counter())
            # Once if they are the same endpoint: then it is charged until the end.
            if all(counter is not other for other, _ in leases.values()):
                leases[role] = (counter, tokens)
                counter.add(tokens, 1)
        self.inflight[record["requestId"]] = Started(record, now, leases)

    def mark_first_chunk(self, request_id: str, now: Moment) -> None:
        request = self.inflight.get(request_id)
        if request is None or request.first_chunk is not None:
            return
        request.first_chunk = now
        if len(request.leases) > 1:
            give_back(request, "prefill")

    def complete_request(
        self, request_id: str, now: Moment, output_length: int, selected: Any
    ) -> None:
        if request_id in self.inflight:
            self.end(request_id, "completed", now, output_length, endpoint_id(selected))

    def end(
        self,
        request_id: str,
        outcome: str,
        now: Moment,
        output_length: int = 0,
        served: str = "",
    ) -> None:
        request = self.inflight.pop(request_id)
        for role in list(request.leases):
            give_back(request, role)
        request.record["outcome"] = outcome
        request.record["outputLength"] = output_length
        request.record["servedEndpoint"] = served
        request.record["ttft"] = since(request, request.first_chunk)
        request.record["e2e"] = since(request, now)
        self.finished.append(request.record)

    def apply_endpoint_event(self, event: Any) -> None:
        if event.type == 1:
            self.counters.pop(key(event.endpoint), None)
        else:
            self.counters.setdefault(key(event.endpoint), Counter())


def give_back(request: Started, role: str) -> None:
    counter, tokens = request.leases.pop(role)
    counter.add(-tokens, -1)


def since(request: Started, moment: Moment | None) -> float | None:
    """Return milliseconds."""
    return None if moment is None else (moment.monotonic - request.started.monotonic) / 1e6


def key(metadata: Any) -> Any:
    """Return the key of a load counter: the name, which identifies ranks, else all other fields."""
    name = metadata.namespaced_name
    if name.name:
        return name.namespace, name.name
    return name.namespace, metadata.pod_name, metadata.address, metadata.port


class SeedTracker:
    """`RequestLifecycleTracker`; the time is an argument."""

    def __init__(self) -> None:
        self.store = Store()

    def pre_request(self, request: Any, result: Any, now: Moment) -> None:
        if request is None or request.request_id == "":
            return
        route = extract_primary_route(result)
        selected = selected_target(result)
        if selected is None or selected.metadata is None:
            return
        tracked = tracked_route_endpoints(route)
        self.store.supersede(request.request_id, now)
        score, prediction, mode = selected_routing_snapshot(selected)
        record: dict[str, Any] = {
            "requestId": request.request_id,
            "model": request.target_model,
            "inputTokenLength": request_input_tokens(request),
            "selectedEndpoint": endpoint_id(selected.metadata),
            "trackedEndpoints": tracked or [selected.metadata],
            "startedAt": now.wall,
            "dispatchInflight": self.store.snapshot(selected.metadata),
            "prefixCacheScore": score,
            "prediction": prediction,
            "predictionMode": mode,
            "selectedRoute": selected_route_snapshot(self.store, selected),
        }
        self.store.start_request(record, now)

    def response_body(self, request: Any, response: Any, target: Any, now: Moment) -> None:
        if request is None or request.request_id == "" or response is None:
            return
        self.store.mark_first_chunk(request.request_id, now)
        if not response.end_of_stream:
            return
        self.store.complete_request(request.request_id, now, output_length(response), target)

    def extract_endpoint(self, event: Any) -> None:
        self.store.apply_endpoint_event(event)


@dataclass
class Route:
    """`prerequest.Route`."""

    leader: Any
    prefill: Any
    decode: Any


def extract_primary_route(result: Any) -> Any:
    """hermes-router's; the port reads `primary_route`, and without one the group's."""
    selected = selected_target(result)
    if selected is None:
        return None
    if result.primary_route is not None:
        return result.primary_route
    pair = selected_pd_route_endpoints(selected)
    return pair and Route(selected.metadata, pair[0].metadata, pair[1].metadata)


def request_input_tokens(request: Any) -> int:
    if request.tokenized_prompt is not None and len(request.tokenized_prompt.token_ids) > 0:
        return len(request.tokenized_prompt.token_ids)
    return request.prompt_tokens or 0  # the helper of hermes-router


def selected_target(result: Any) -> Any:
    targets = primary_profile_targets(result)
    if not targets:
        return None
    leader = targets[0]
    if leader is None or leader.metadata is None:
        return None
    return leader


def primary_profile_targets(result: Any) -> Any:
    if result is None or result.primary_profile_name == "" or result.profile_results is None:
        return None
    run = result.profile_results.get(result.primary_profile_name)
    if run is None or not run.target_endpoints:
        return None
    return run.target_endpoints


def has_complete_pd_route(route: Any) -> bool:
    return (
        route is not None
        and route.leader is not None
        and route.prefill is not None
        and route.decode is not None
    )


def read_latency_attribute(endpoint: Any) -> tuple[float, float]:
    prediction = endpoint.get(LATENCY_PREDICTION)
    if not hasattr(prediction, "ttft"):  # none, or of another type
        return 0.0, 0.0
    return prediction.ttft, prediction.tpot


def pd_prediction(prefill: Any, decode: Any) -> tuple[float, float]:
    return read_latency_attribute(prefill)[0], read_latency_attribute(decode)[1]


def prefix_cache_score(endpoint: Any) -> float:
    """`score.PrefixCacheScoreFromEndpoint`: upstream's matched of total blocks."""
    info = endpoint.get(PREFIX_CACHE)
    return info.match_blocks / info.total_blocks if info is not None and info.total_blocks else 0.0


def selected_routing_snapshot(selected: Any) -> tuple[float, dict[str, float], str]:
    prefill, decode = selected_pd_route_endpoints(selected) or (selected, selected)
    active = pd_prediction(prefill, decode)
    mode = derive_prediction_mode(active)
    return prefix_cache_score(prefill), dict(zip(PREDICTED, active, strict=True)), mode


PREDICTED = ("ttftMillis", "tpotMillis")


def derive_prediction_mode(active: tuple[float, float]) -> str:
    return "active" if active != (0.0, 0.0) else ""


def output_length(response: Any) -> int:
    if response.usage is None or response.usage.completion_tokens < 0:
        return 0
    return response.usage.completion_tokens


def tracked_route_endpoints(route: Any) -> list[Any]:
    if not has_complete_pd_route(route):
        return []
    return [route.prefill, route.decode]


def selected_route_snapshot(store: Store, selected: Any) -> dict[str, Any]:
    pair = selected_pd_route_endpoints(selected)
    if pair is not None:
        return {
            "leader": {"id": endpoint_id(selected.metadata)},
            "prefill": endpoint_snapshot(store, pair[0]),
            "decode": endpoint_snapshot(store, pair[1]),
        }
    return {"leader": endpoint_snapshot(store, selected)}


def selected_pd_route_endpoints(selected: Any) -> tuple[Any, Any] | None:
    info = selected.get(PD_GROUP)
    if info is None:
        return None
    if info.selected_prefill_pod is None or info.selected_decode_pod is None:
        return None
    prefill = info.selected_prefill_pod.endpoint
    decode = info.selected_decode_pod.endpoint
    return (prefill, decode) if prefill is not None and decode is not None else None


def endpoint_snapshot(store: Store, endpoint: Any) -> dict[str, Any]:
    snapshot = {
        "id": endpoint_id(endpoint.metadata),
        "metrics": endpoint_metrics_snapshot(endpoint.metrics),
        "inflight": store.snapshot(endpoint.metadata),
        "npu": endpoint_npu_snapshot(endpoint),
    }
    return {name: value for name, value in snapshot.items() if value is not None}


def endpoint_id(metadata: Any) -> str:
    if metadata is None:
        return ""
    if metadata.pod_name != "":
        return f"pod://{metadata.namespaced_name.namespace}/{metadata.pod_name}"
    if metadata.address == "" or metadata.port == "":
        return ""
    return f"addr://{metadata.address}:{metadata.port}"


def endpoint_metrics_snapshot(metrics: Any) -> dict[str, Any] | None:
    if metrics is None:
        return None
    return {
        "activeModels": dict(metrics.active_models),
        "waitingModels": dict(metrics.waiting_models),
        "maxActiveModels": metrics.max_active_models,
        "runningRequestsSize": metrics.running_requests_size,
        "waitingQueueSize": metrics.waiting_queue_size,
        "kvCacheUsagePercent": metrics.kv_cache_usage_percent,
        "kvCacheMaxTokenCapacity": metrics.kv_cache_max_token_capacity,
        "cacheBlockSize": metrics.cache_block_size,
        "cacheNumBlocks": metrics.cache_num_blocks,
        "updateTime": metrics.update_time,
    }


def endpoint_npu_snapshot(endpoint: Any) -> dict[str, Any] | None:
    state = endpoint.get(NPU_STATE)
    if not isinstance(state, NPUState):
        return None
    return {
        "observationTime": state.observation_time,
        "dataStatus": state.data_status,
        "deviceCount": state.device_count,
        "aiCoreUtilizationAvg": state.ai_core_utilization_avg,
        "aiCoreUtilizationMax": state.ai_core_utilization_max,
        "hbmUtilizationAvg": state.hbm_utilization_avg,
        "hbmUtilizationMax": state.hbm_utilization_max,
        "hbmBandwidthUtilizationAvg": state.hbm_bandwidth_utilization_avg,
        "hbmBandwidthUtilizationMax": state.hbm_bandwidth_utilization_max,
        "devices": [
            {
                "target": device.target,
                "deviceId": device.device_id,
                "aiCoreUtilization": device.ai_core_utilization,
                "hbmUtilization": device.hbm_utilization,
                "hbmBandwidthUtilization": device.hbm_bandwidth_utilization,
            }
            for device in state.devices
        ],
    }
