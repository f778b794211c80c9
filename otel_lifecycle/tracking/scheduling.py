"""Reads what a scheduler hands to the seed's hooks: objects of the shape in `protocols`.

Nothing is required beyond what the seed requires. What else is absent, of another type, or raises
when it is read, is unknown: it never costs the request its record.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, cast

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
    sanitize,
)
from otel_lifecycle.model.fields import Field, constructor, fields_of
from otel_lifecycle.tracking.protocols import (
    Response,
    SchedulingEndpoint,
    SchedulingRequest,
    SchedulingResult,
)

# Keys of endpoint attributes. The first two are upstream's (their constants equal their names);
# those of hermes-router are not public.
LATENCY_PREDICTION_KEY = "LatencyPredictionInfoKey"
PREFIX_CACHE_KEY = "PrefixCacheMatchInfoKey"
NPU_STATE_KEY = "NPUStateKey"
PD_GROUP_KEY = "PDGroupInfoKey"

_BYTES_PER_TOKEN = 4  # upstream's own estimate
_TOKEN_COUNTS = (
    ("prompt_tokens", InputTokenSource.REPORTED),
    ("prompt_tokens_estimate", InputTokenSource.ESTIMATED),
)
_OUTCOMES = {
    "": Outcome.COMPLETED,
    "natural": Outcome.COMPLETED,
    "client-disconnect": Outcome.CLIENT_DISCONNECT,
    "evicted": Outcome.EVICTED,
    "error": Outcome.ERROR,
}
_EVENT_TYPES = {
    0: EndpointEventType.ADD_OR_UPDATE,
    1: EndpointEventType.DELETE,
    "add_or_update": EndpointEventType.ADD_OR_UPDATE,
    "delete": EndpointEventType.DELETE,
}
_NOBODY = Endpoint().identity

# Stands for a value that is there and of no use, so that it is counted and not just unknown.
_UNUSABLE: Any = object()


def request_start(request: SchedulingRequest, result: SchedulingResult) -> RequestStart | None:
    """What the seed's `PreRequest` reads; None when no endpoint is selected."""
    selected = _selected(result)
    if selected is None:
        return None
    leader = _known(selected)
    group = _pd_group(selected)
    pair = _dispatched_pair(result, leader, group)
    prefill = decode = selected
    if pair is None:
        route = Route(_route_endpoint(leader))
    else:
        route = Route(
            RouteEndpoint(leader.endpoint), _route_endpoint(pair[0]), _route_endpoint(pair[1])
        )
        if group is not None:
            # What the group's endpoints were expected to do says nothing of other ones.
            prefill = group[0].source if _is_same(group[0], pair[0]) else None
            decode = group[1].source if _is_same(group[1], pair[1]) else None
    return msgspec.structs.replace(
        request_facts(request),
        route=route,
        prefix_cache_score=_prefix_cache_score(prefill),
        prediction=LatencyPrediction(_predicted(prefill, "ttft"), _predicted(decode, "tpot")),
        candidates=_read(result, "candidates", _UNUSABLE),
        policy=_read(result, "policy", _UNUSABLE),
        route_mismatch=group is not None and (pair is None or not all(map(_is_same, group, pair))),
    )


def request_facts(request: SchedulingRequest) -> RequestStart:
    """What is known of a request without a scheduling result."""
    tokens, source = _input_tokens(request)
    stream = _read(_read(request, "body"), "stream")
    return RequestStart(
        request_id=request.request_id,
        route=None,
        model=_read(request, "target_model", _UNUSABLE),
        input_tokens=tokens,
        input_token_source=source.value,
        streaming=stream if isinstance(stream, bool) else None,
        attempt=_read(request, "attempt", _UNUSABLE),
        operation=_read(request, "operation", _UNUSABLE),
        received_at=_moment(request, "received_at"),
    )


def request_completion(response: Response, served: object) -> RequestCompletion:
    """What the seed's `ResponseBody` reads of the last chunk.

    `termination_cause` is llm-d-router's, and newer than the seed. Without it and without an
    `error`, a forced completion cannot be told from a natural one.
    """
    cause = _read(response, "termination_cause")
    usage = _read(response, "usage")
    error = _read(response, "error")
    return RequestCompletion(
        outcome=_outcome(cause, error),
        output_tokens=_output_tokens(usage),
        cached_tokens=_number(_read(usage, "prompt_token_details"), "cached_tokens"),
        served_endpoint=None if served is None else endpoint_from(served),
        error_type="error" if error is None else error_type(error),
    )


def _outcome(cause: object, error: object) -> Outcome:
    """How the request ended; a response with an error did not complete, whatever else it says."""
    known = "" if cause is None else sanitize.text(_plain(cause))
    outcome = _OUTCOMES.get(known, Outcome.ERROR)
    return Outcome.ERROR if outcome is Outcome.COMPLETED and error is not None else outcome


def error_type(error: object) -> str:
    """A short name: the text itself, or the qualified name of the exception's type."""
    if isinstance(error, str):
        return error
    kind: type[Any] = error if isinstance(error, type) else type(error)
    if kind.__module__ in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


def endpoint_from(source: object) -> Endpoint | None:
    """Who an endpoint is, of its metadata or of itself; None when nothing is known of it."""
    if isinstance(source, Endpoint):
        return source
    metadata = _read(source, "metadata")
    if metadata is None:
        metadata = source
    elif isinstance(metadata, Endpoint):
        return metadata
    name = _read(metadata, "namespaced_name")
    if name is None:
        name = metadata
    labels = _read(metadata, "labels")
    endpoint = Endpoint(
        namespace=_text(name, "namespace"),
        pod_name=_text(metadata, "pod_name"),
        address=_text(metadata, "address"),
        port=_text(metadata, "port"),
        name=_text(name, "name"),
        labels=labels if isinstance(labels, dict) else {},  # pyright: ignore[reportUnknownArgumentType]
    )
    return None if endpoint.identity == _NOBODY else endpoint


def event_type(value: object) -> EndpointEventType | None:
    """Ours, or upstream's 0 (add or update) and 1 (delete)."""
    plain = _plain(value)
    return _EVENT_TYPES.get(plain) if type(plain) in (int, str) else None


def _selected(result: SchedulingResult) -> SchedulingEndpoint | None:
    """The first target of the primary profile, if it is known who it is."""
    try:
        name = result.primary_profile_name
        profile = result.profile_results.get(name) if name else None
        selected = None if profile is None else profile.target_endpoints[0]
    except Exception:
        return None
    return None if _read(selected, "metadata") is None else selected


class _Known(NamedTuple):
    """An endpoint, and where the scheduler keeps what it knows of it."""

    endpoint: Endpoint
    identity: Hashable
    source: SchedulingEndpoint | None


_Pair: TypeAlias = tuple[_Known, _Known]


def _known(source: SchedulingEndpoint) -> _Known:
    endpoint = endpoint_from(source) or Endpoint()
    return _Known(endpoint, endpoint.identity, source)


def _is_same(one: _Known, other: _Known) -> bool:
    return one.identity == other.identity


def _pd_group(selected: SchedulingEndpoint) -> _Pair | None:
    """Prefill and decode endpoint of a leader, if both are known by name or address."""
    info = _attribute(selected, PD_GROUP_KEY)
    if info is None:
        return None
    prefill = _read(_read(info, "selected_prefill_pod"), "endpoint")
    decode = _read(_read(info, "selected_decode_pod"), "endpoint")
    if prefill is None or decode is None:
        return None
    pair = _known(prefill), _known(decode)
    return None if any(known.identity == _NOBODY for known in pair) else pair


def _dispatched_pair(result: SchedulingResult, leader: _Known, group: _Pair | None) -> _Pair | None:
    """Prefill and decode endpoint of the dispatched route, if it is complete.

    Where nothing is said of it, the leader's own group is dispatched.
    """
    route = _read(result, "primary_route")
    if route is None:
        return group
    prefill = endpoint_from(_read(route, "prefill"))
    decode = endpoint_from(_read(route, "decode"))
    if prefill is None or decode is None or _read(route, "leader") is None:
        return None
    pair = group or (leader, leader)
    return (
        _among(prefill, (pair[0], pair[1], leader)),
        _among(decode, (pair[1], pair[0], leader)),
    )


def _among(endpoint: Endpoint, known: Iterable[_Known]) -> _Known:
    """An endpoint, with the first object of the scheduler that is about it."""
    identity = endpoint.identity
    source = next((one.source for one in known if one.identity == identity), None)
    return _Known(endpoint, identity, source)


def _route_endpoint(known: _Known) -> RouteEndpoint:
    endpoint, _, source = known
    if source is None:
        return RouteEndpoint(endpoint)
    return RouteEndpoint(
        endpoint, _metrics(_read(source, "metrics")), _npu(_attribute(source, NPU_STATE_KEY))
    )


def _predicted(endpoint: object, latency: str) -> Any:
    """Milliseconds; upstream's zero value stands for no prediction."""
    predicted = _number(_attribute(endpoint, LATENCY_PREDICTION_KEY), latency)
    return None if predicted == 0 else predicted


def _prefix_cache_score(endpoint: object) -> Any:
    """The cached part of the prompt: a number, or blocks matched of blocks in total."""
    info = _attribute(endpoint, PREFIX_CACHE_KEY)
    if info is None or isinstance(info, (int, float)):
        return info
    total = _number(info, "total_blocks")
    if total is None or total == 0:
        return None
    matched, total = sanitize.count(_number(info, "match_blocks")), sanitize.count(total)
    return _UNUSABLE if matched is None or total is None else matched / total


def _input_tokens(request: SchedulingRequest) -> tuple[Any, InputTokenSource]:
    token_ids = _read(_read(request, "tokenized_prompt"), "token_ids")
    if token_ids is not None and not isinstance(token_ids, (str, bytes)):
        try:
            length = len(token_ids)
        except Exception:
            length = 0
        if length > 0:
            return length, InputTokenSource.TOKENIZED
    for name, source in _TOKEN_COUNTS:
        tokens = _number(request, name)
        if tokens is not None:
            return tokens, source
    size = sanitize.count(_number(request, "request_size_bytes"))
    if size:
        return max(1, (size + 2) // _BYTES_PER_TOKEN), InputTokenSource.ESTIMATED
    return None, InputTokenSource.UNKNOWN


def _output_tokens(usage: object) -> Any:
    """The completion tokens; a usage that counts no prompt tokens either is upstream's zero value:
    nothing was reported."""  # noqa: D205, D209
    tokens = _number(usage, "completion_tokens")
    return None if tokens == 0 and not _number(usage, "prompt_tokens") else tokens


def _metrics(metrics: object) -> EndpointMetrics | None:
    if metrics is None or isinstance(metrics, EndpointMetrics):
        return metrics
    return _read_metrics(metrics)


def _npu(state: object) -> NPUState | None:
    if isinstance(state, NPUState):
        return state
    for name in _NPU_FIELDS:
        if _read(state, name, _UNUSABLE) is not None:
            return _read_npu(state)
    return None  # of another type


def _device(device: object) -> NPUDevice:
    if isinstance(device, NPUDevice):
        return device
    return _read_device(device)


def _attribute(endpoint: object, key: str) -> Any:
    try:
        return endpoint.get(key)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    except Exception:
        return None


def _read(source: object, name: str, unreadable: Any = None) -> Any:
    """An attribute; None where there is none, `unreadable` where it raises."""
    try:
        return getattr(source, name, None)
    except Exception:
        return unreadable


def _number(source: object, name: str) -> Any:
    try:
        value = getattr(source, name, None)
    except Exception:
        return _UNUSABLE
    return value if value is None or isinstance(value, (int, float)) else _UNUSABLE


def _plain(value: object) -> Any:
    """The plain value of an enum member; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def _text(source: object, name: str) -> str:
    try:
        value = getattr(source, name, "")
    except Exception:
        return ""
    return value if type(value) is str else sanitize.text(_plain(value))


def _moment(source: object, name: str) -> datetime | None:
    value = _read(source, name)
    return value if isinstance(value, datetime) else None


def _models(source: object, name: str) -> dict[str, int]:
    value = _read(source, name)
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def _devices(source: object, name: str) -> tuple[NPUDevice, ...]:
    devices = _read(source, name)
    if not isinstance(devices, (list, tuple)):
        return ()
    return tuple(map(_device, cast("list[object]", devices)))


def _seed_name(field: Field) -> str:
    """The seed's name of a field, in snake_case."""
    return re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), field.record_name)


def _field(field: Field) -> str:
    """The call that reads a field, by the kind it is declared to be."""
    name = "devices" if field.struct is not None else field.kind or "models"
    return f"{name if name in _READERS else 'number'}(o, {_seed_name(field)!r})"


_READERS: Mapping[str, Callable[[object, str], object]] = {
    "text": _text,
    "moment": _moment,
    "models": _models,
    "devices": _devices,
    "number": _number,
}
_NPU_FIELDS = tuple(map(_seed_name, fields_of(NPUState)))
_read_metrics = constructor(EndpointMetrics, _field, _READERS)
_read_npu = constructor(NPUState, _field, _READERS)
_read_device = constructor(NPUDevice, _field, _READERS)
