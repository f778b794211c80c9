"""Reads what a scheduler hands to the seed's hooks: any objects of the shape of the Go types.

The shapes are those of the Gateway API Inference Extension v1.5.0 and of hermes-router, with
attributes in snake_case (`interface/scheduling/types.go`, `interface/datalayer`,
`interface/requestcontrol`). Nothing is required beyond what the seed requires; whatever else is
absent, or of another type, is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from otel_lifecycle.model import (
    Endpoint,
    EndpointEventType,
    EndpointMetrics,
    InputTokenSource,
    LatencyPrediction,
    NPUDevice,
    NPUState,
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
    RouteEndpoint,
)

# Keys of endpoint attributes. The first two are upstream's (their constants equal their names);
# those of hermes-router are not public.
LATENCY_PREDICTION_KEY = "LatencyPredictionInfoKey"
PREFIX_CACHE_KEY = "PrefixCacheMatchInfoKey"
NPU_STATE_KEY = "NPUStateKey"
PD_GROUP_KEY = "PDGroupInfoKey"

_BYTES_PER_TOKEN = 4  # upstream's own estimate

_OUTCOMES = {
    "natural": Outcome.COMPLETED,
    "client-disconnect": Outcome.CLIENT_DISCONNECT,
    "evicted": Outcome.EVICTED,
    "error": Outcome.ERROR,
}


class SchedulingRequest(Protocol):
    """`LLMRequest`. Optional: `tokenized_prompt.token_ids`, `prompt_tokens` (reported),
    `prompt_tokens_estimate`, `request_size_bytes`, `body.stream`, `attempt`."""  # noqa: D205, D209

    @property
    def request_id(self) -> str:
        """The id; an empty one is not tracked."""
        ...

    @property
    def target_model(self) -> str:
        """The model after any rewrite."""
        ...


class EndpointMetadata(Protocol):
    """`EndpointMetadata`; an `Endpoint` of ours is taken too. Optional: `namespaced_name`
    (`.namespace`, `.name`), `labels`."""  # noqa: D205, D209

    @property
    def pod_name(self) -> str:
        """The pod's name, shared by its ranks."""
        ...

    @property
    def address(self) -> str:
        """Host or IP address."""
        ...

    @property
    def port(self) -> str:
        """The port, as text."""
        ...


class SchedulingEndpoint(Protocol):
    """A scheduler's endpoint; its attributes are frozen at scheduling."""

    @property
    def metadata(self) -> EndpointMetadata | None:
        """Who it is."""
        ...

    @property
    def metrics(self) -> object | None:
        """`Metrics` as last scraped, or `EndpointMetrics`."""
        ...

    def get(self, key: str, /) -> object | None:
        """The attribute under a key, None where there is none."""
        ...


class ProfileRunResult(Protocol):
    """What one profile picked, best first."""

    @property
    def target_endpoints(self) -> Sequence[SchedulingEndpoint]:
        """The pick, and its fallbacks."""
        ...


class SchedulingResult(Protocol):
    """What the scheduler decided. Optional: `primary_route` (`.leader`, `.prefill`, `.decode`
    metadata of the dispatched PD route), `candidates`, `policy`."""  # noqa: D205, D209

    @property
    def primary_profile_name(self) -> str:
        """The profile whose pick is dispatched."""
        ...

    @property
    def profile_results(self) -> Mapping[str, ProfileRunResult | None]:
        """The profiles by name."""
        ...


class Response(Protocol):
    """A chunk of the response. Optional: `usage` (`.completion_tokens`,
    `.prompt_token_details.cached_tokens`), `termination_cause` and `error` on the last."""  # noqa: D205, D209

    @property
    def end_of_stream(self) -> bool:
        """Whether it is the last."""
        ...


def request_start(request: SchedulingRequest, result: SchedulingResult) -> RequestStart | None:
    """What the seed's `PreRequest` reads; None when no endpoint is selected."""
    selected = _selected(result)
    if selected is None:
        return None
    leader = _route_endpoint(selected)
    group = _pd_group(selected)
    route = Route(leader, *group) if group is not None else Route(leader)
    dispatched = getattr(result, "primary_route", None)
    mismatch = False
    if dispatched is not None:
        complete = _dispatched_route(dispatched, leader, group)
        if complete is not None:
            mismatch = group is not None and _identities(complete) != _identities(route)
            route = complete
    score, prediction = _routing(selected, route, group, mismatch)
    return msgspec.structs.replace(
        request_facts(request),
        route=route,
        prefix_cache_score=score,
        prediction=prediction,
        candidates=getattr(result, "candidates", None),
        policy=getattr(result, "policy", ""),
        route_mismatch=mismatch,
    )


def request_facts(request: SchedulingRequest) -> RequestStart:
    """What is known of a request without a scheduling result."""
    tokens, source = _input_tokens(request)
    stream = getattr(getattr(request, "body", None), "stream", None)
    return RequestStart(
        request_id=request.request_id,
        route=None,
        model=getattr(request, "target_model", ""),
        input_tokens=tokens,
        input_token_source=source.value,
        streaming=stream if isinstance(stream, bool) else None,
        attempt=getattr(request, "attempt", 1),
        operation=getattr(request, "operation", ""),
    )


def request_completion(response: Response, served: object) -> RequestCompletion:
    """What the seed's `ResponseBody` reads of the last chunk.

    `termination_cause` is llm-d-router's, and newer than the seed: without it a forced completion
    cannot be told from a natural one.
    """
    cause = getattr(response, "termination_cause", None) or "natural"
    outcome = _OUTCOMES.get(getattr(cause, "value", cause), Outcome.ERROR)
    usage = getattr(response, "usage", None)
    details = getattr(usage, "prompt_token_details", None)
    error = getattr(response, "error", None)
    return RequestCompletion(
        outcome=outcome,
        output_tokens=_known(getattr(usage, "completion_tokens", None)),
        cached_tokens=_known(getattr(details, "cached_tokens", None)) if usage else None,
        served_endpoint=endpoint_from(served) if served is not None else None,
        error_type=error_type(error) if error is not None else "error",
    )


def error_type(error: object) -> str:
    """A short name: the text itself, or the qualified name of the exception's type."""
    if isinstance(error, str):
        return error
    kind: type[Any] = error if isinstance(error, type) else type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def endpoint_from(metadata: object) -> Endpoint:
    """An endpoint of any shape; ours is passed through."""
    if isinstance(metadata, Endpoint):
        return metadata
    inner = getattr(metadata, "metadata", None)
    if inner is not None:
        return endpoint_from(inner)
    name = getattr(metadata, "namespaced_name", metadata)
    labels = getattr(metadata, "labels", None)
    return Endpoint(
        namespace=_text(name, "namespace"),
        pod_name=_text(metadata, "pod_name"),
        address=_text(metadata, "address"),
        port=_text(metadata, "port"),
        name=_text(name, "name"),
        labels=labels if isinstance(labels, dict) else {},  # pyright: ignore[reportUnknownArgumentType]
    )


def event_type(value: object) -> EndpointEventType | None:
    """Ours, or upstream's 0 (add or update) and 1 (delete)."""
    value = getattr(value, "value", value)
    return {
        0: EndpointEventType.ADD_OR_UPDATE,
        1: EndpointEventType.DELETE,
        "add_or_update": EndpointEventType.ADD_OR_UPDATE,
        "delete": EndpointEventType.DELETE,
    }.get(value if isinstance(value, (int, str)) else "")


def _selected(result: SchedulingResult) -> SchedulingEndpoint | None:
    """The first target of the primary profile, if it is known who it is."""
    results = getattr(result, "profile_results", None)
    name = getattr(result, "primary_profile_name", None)
    if not results or not name:
        return None
    targets = getattr(results.get(name), "target_endpoints", None)
    if not targets or targets[0] is None or getattr(targets[0], "metadata", None) is None:
        return None
    return targets[0]


def _route_endpoint(endpoint: SchedulingEndpoint) -> RouteEndpoint:
    return RouteEndpoint(
        endpoint_from(endpoint.metadata),
        _metrics(getattr(endpoint, "metrics", None)),
        _npu(_attribute(endpoint, NPU_STATE_KEY)),
    )


def _attribute(endpoint: object, key: str) -> Any:
    get = getattr(endpoint, "get", None)
    return get(key) if callable(get) else None


def _pd_endpoints(selected: object) -> tuple[SchedulingEndpoint, SchedulingEndpoint] | None:
    info = _attribute(selected, PD_GROUP_KEY)
    prefill = getattr(getattr(info, "selected_prefill_pod", None), "endpoint", None)
    decode = getattr(getattr(info, "selected_decode_pod", None), "endpoint", None)
    return None if prefill is None or decode is None else (prefill, decode)


def _pd_group(selected: object) -> tuple[RouteEndpoint, RouteEndpoint] | None:
    pair = _pd_endpoints(selected)
    return None if pair is None else (_route_endpoint(pair[0]), _route_endpoint(pair[1]))


def _dispatched_route(
    dispatched: object, leader: RouteEndpoint, group: tuple[RouteEndpoint, RouteEndpoint] | None
) -> Route | None:
    """The dispatched PD route if it is complete, with what is known of its endpoints."""
    known = {entry.endpoint.identity: entry for entry in (leader, *(group or ()))}
    entries: list[RouteEndpoint] = []
    for role in ("leader", "prefill", "decode"):
        metadata = getattr(dispatched, role, None)
        if metadata is None:
            return None
        endpoint = endpoint_from(metadata)
        entries.append(known.get(endpoint.identity, RouteEndpoint(endpoint)))
    return Route(leader, entries[1], entries[2])


def _identities(route: Route) -> list[object]:
    return [entry.endpoint.identity for entry in (route.prefill, route.decode) if entry]


def _routing(
    selected: SchedulingEndpoint,
    route: Route,
    group: tuple[RouteEndpoint, RouteEndpoint] | None,
    mismatch: bool,
) -> tuple[Any, LatencyPrediction]:
    """Score and TTFT from prefill, TPOT from decode; aggregated: all from the selected one."""
    prefill: object = selected
    decode: object = selected
    pair = _pd_endpoints(selected)
    if route.is_disaggregated and pair is not None:
        prefill, decode = pair
        if mismatch:
            # What the group's endpoints were expected to do says nothing of other ones.
            given = _identities(route)
            prefill = prefill if group and group[0].endpoint.identity == given[0] else None
            decode = decode if group and group[1].endpoint.identity == given[1] else None
    ttft = getattr(_attribute(prefill, LATENCY_PREDICTION_KEY), "ttft", None)
    tpot = getattr(_attribute(decode, LATENCY_PREDICTION_KEY), "tpot", None)
    return (
        _prefix_cache_score(_attribute(prefill, PREFIX_CACHE_KEY)),
        LatencyPrediction(_known(ttft), _known(tpot)),
    )


def _known(value: Any) -> Any:
    """Upstream's zero value stands for unknown."""
    return None if value == 0 else value


def _prefix_cache_score(info: Any) -> Any:
    if info is None or isinstance(info, (int, float)):
        return info
    total = getattr(info, "total_blocks", None)
    if not total:
        return None
    return getattr(info, "match_blocks", 0) / total


def _input_tokens(request: SchedulingRequest) -> tuple[Any, InputTokenSource]:
    token_ids = getattr(getattr(request, "tokenized_prompt", None), "token_ids", None)
    if token_ids is not None and len(token_ids) > 0:
        return len(token_ids), InputTokenSource.TOKENIZED
    reported = getattr(request, "prompt_tokens", None)
    if reported is not None:
        return reported, InputTokenSource.REPORTED
    estimate = getattr(request, "prompt_tokens_estimate", None)
    if estimate is not None:
        return estimate, InputTokenSource.ESTIMATED
    size = getattr(request, "request_size_bytes", None)
    if isinstance(size, int) and size > 0:
        return max(1, round(size / _BYTES_PER_TOKEN)), InputTokenSource.ESTIMATED
    return None, InputTokenSource.UNKNOWN


def _text(source: object, name: str) -> str:
    value = getattr(source, name, "")
    return value if isinstance(value, str) else "" if value is None else str(value)


def _metrics(metrics: Any) -> EndpointMetrics | None:
    if metrics is None or isinstance(metrics, EndpointMetrics):
        return metrics
    read = _reader(metrics)
    return EndpointMetrics(
        running_requests=read("running_requests_size"),
        waiting_requests=read("waiting_queue_size"),
        kv_cache_usage=read("kv_cache_usage_percent"),
        kv_cache_max_token_capacity=read("kv_cache_max_token_capacity"),
        cache_block_size=read("cache_block_size"),
        cache_num_blocks=read("cache_num_blocks"),
        active_models=read("active_models") or {},
        waiting_models=read("waiting_models") or {},
        max_active_models=read("max_active_models"),
        update_time=read("update_time"),
    )


def _npu(state: Any) -> NPUState | None:
    if state is None or isinstance(state, NPUState):
        return state
    read = _reader(state)
    status = read("data_status")
    return NPUState(
        observation_time=read("observation_time"),
        data_status=getattr(status, "value", status) or "",
        device_count=read("device_count"),
        ai_core_utilization_avg=read("ai_core_utilization_avg"),
        ai_core_utilization_max=read("ai_core_utilization_max"),
        hbm_utilization_avg=read("hbm_utilization_avg"),
        hbm_utilization_max=read("hbm_utilization_max"),
        hbm_bandwidth_utilization_avg=read("hbm_bandwidth_utilization_avg"),
        hbm_bandwidth_utilization_max=read("hbm_bandwidth_utilization_max"),
        devices=tuple(_device(device) for device in read("devices") or ()),
    )


def _device(device: Any) -> NPUDevice:
    if isinstance(device, NPUDevice):
        return device
    read = _reader(device)
    return NPUDevice(
        target=_text(device, "target"),
        device_id=_text(device, "device_id"),
        ai_core_utilization=read("ai_core_utilization"),
        hbm_utilization=read("hbm_utilization"),
        hbm_bandwidth_utilization=read("hbm_bandwidth_utilization"),
    )


def _reader(source: object) -> Callable[[str], Any]:
    return partial(_read, source)


def _read(source: object, name: str) -> Any:
    return getattr(source, name, None)
