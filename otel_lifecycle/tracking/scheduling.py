"""Reads what a scheduler hands to the seed's hooks: objects of the shape in `protocols`.

Nothing is required beyond what the seed requires. What else is absent, of another type, or raises
when it is read, is unknown: it never costs the request its record.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec

from otel_lifecycle.model import (
    Endpoint,
    EndpointEventType,
    EndpointMetrics,
    InputTokenSource,
    LatencyPrediction,
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
    RouteEndpoint,
    sanitize,
)
from otel_lifecycle.tracking.protocols import (
    Response,
    SchedulingEndpoint,
    SchedulingRequest,
    SchedulingResult,
)
from otel_lifecycle.tracking.reading import (
    UNUSABLE,
    attribute,
    endpoint_metrics,
    moment,
    npu_state,
    number,
    plain,
    read,
    text,
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
NOBODY = Endpoint().identity


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
        candidates=_candidates(result, is_pair=pair is not None),
        policy=read(result, "policy", UNUSABLE),
        decision_reason=text(result, "reason"),
        filtered=number(result, "filtered"),
        route_mismatch=group is not None and (pair is None or not all(map(_is_same, group, pair))),
    )


def request_facts(request: SchedulingRequest) -> RequestStart:
    """What is known of a request without a scheduling result."""
    token_ids = _token_ids(request)
    tokens, source = _input_tokens(request, token_ids)
    stream = read(read(request, "body"), "stream")
    return RequestStart(
        request_id=request.request_id,
        route=None,
        model=read(request, "target_model", UNUSABLE),
        input_tokens=tokens,
        input_token_source=source.value,
        streaming=stream if isinstance(stream, bool) else None,
        attempt=read(request, "attempt", UNUSABLE),
        operation=read(request, "operation", UNUSABLE),
        received_at=moment(request, "received_at"),
        prompt=token_ids,
    )


def request_completion(response: Response, served: object) -> RequestCompletion:
    """What the seed's `ResponseBody` reads of the last chunk.

    `termination_cause` is llm-d-router's, and newer than the seed. Without it and without an
    `error`, a forced completion cannot be told from a natural one.
    """
    cause = read(response, "termination_cause")
    usage = read(response, "usage")
    error = read(response, "error")
    return RequestCompletion(
        outcome=_outcome(cause, error),
        output_tokens=_output_tokens(usage),
        cached_tokens=number(read(usage, "prompt_token_details"), "cached_tokens"),
        served_endpoint=None if served is None else endpoint_from(served),
        error_type="error" if error is None else error_type(error),
    )


def _outcome(cause: object, error: object) -> Outcome:
    """How the request ended; a response with an error did not complete, whatever else it says."""
    known = "" if cause is None else sanitize.text(plain(cause))
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
    metadata = read(source, "metadata")
    if metadata is None:
        metadata = source
    elif isinstance(metadata, Endpoint):
        return metadata
    name = read(metadata, "namespaced_name")
    if name is None:
        name = metadata
    labels = read(metadata, "labels")
    endpoint = Endpoint(
        namespace=text(name, "namespace"),
        pod_name=text(metadata, "pod_name"),
        address=text(metadata, "address"),
        port=text(metadata, "port"),
        name=text(name, "name"),
        labels=labels if isinstance(labels, dict) else {},  # pyright: ignore[reportUnknownArgumentType]
    )
    return None if endpoint.identity == NOBODY else endpoint


def event_type(value: object) -> EndpointEventType | None:
    """Ours, or upstream's 0 (add or update) and 1 (delete)."""
    kind = plain(value)
    return _EVENT_TYPES.get(kind) if type(kind) in (int, str) else None


class ScoredTarget:
    """A target of a profile, as a `Candidate` that is read when the record is made.

    A scheduler's endpoints are frozen at scheduling.

    Attributes:
        role: As for `Candidate`.
    """

    __slots__ = ("_source", "role")

    def __init__(self, source: SchedulingEndpoint, role: str) -> None:
        self._source = source
        self.role = role

    @property
    def identity(self) -> Hashable:
        """That of its endpoint; of one with a name, without reading the rest."""
        name = read(read(self._source, "metadata"), "namespaced_name")
        namespace, own = text(name, "namespace"), text(name, "name")
        return (namespace, own) if own else self.endpoint.identity

    @property
    def endpoint(self) -> Endpoint:
        """The endpoint."""
        return endpoint_from(self._source) or Endpoint()

    @property
    def score(self) -> Any:
        """What it was ranked by."""
        return read(self._source, "score")

    @property
    def scores(self) -> Any:
        """The parts of that, by name."""
        return read(self._source, "scores")

    @property
    def prefix_cache_score(self) -> Any:
        """The cached part of the prompt."""
        return _prefix_cache_score(self._source)

    @property
    def prediction(self) -> LatencyPrediction:
        """Its predicted latencies."""
        return LatencyPrediction(_predicted(self._source, "ttft"), _predicted(self._source, "tpot"))

    @property
    def metrics(self) -> EndpointMetrics | None:
        """The state of its engine."""
        return endpoint_metrics(read(self._source, "metrics"))


class _Targets:
    """The scored targets of all profiles, and how many endpoints the scheduler says there were."""

    def __init__(self, targets: Sequence[ScoredTarget], count: int) -> None:
        self._targets = targets
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[ScoredTarget]:
        return iter(self._targets)


def _candidates(result: SchedulingResult, *, is_pair: bool) -> Any:
    """The targets of the profiles, if they have scores; else what the scheduler says itself."""
    given = read(result, "candidates", UNUSABLE)
    if given is None or isinstance(given, int):
        targets: list[ScoredTarget] = []
        try:
            for name, profile in result.profile_results.items():
                role = name if is_pair and name in ("prefill", "decode") else ""
                if profile is not None and (role or name == result.primary_profile_name):
                    sources = profile.target_endpoints
                    if sources and isinstance(number(sources[0], "score"), (int, float)):
                        targets += [ScoredTarget(source, role) for source in sources]
        except Exception:
            return given
        if targets:
            return _Targets(targets, sanitize.count(given) or len(targets))
    return given


def _selected(result: SchedulingResult) -> SchedulingEndpoint | None:
    """The first target of the primary profile, if it is known who it is."""
    try:
        name = result.primary_profile_name
        profile = result.profile_results.get(name) if name else None
        selected = None if profile is None else profile.target_endpoints[0]
    except Exception:
        return None
    return None if read(selected, "metadata") is None else selected


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
    info = attribute(selected, PD_GROUP_KEY)
    if info is None:
        return None
    prefill = read(read(info, "selected_prefill_pod"), "endpoint")
    decode = read(read(info, "selected_decode_pod"), "endpoint")
    if prefill is None or decode is None:
        return None
    pair = _known(prefill), _known(decode)
    return None if any(known.identity == NOBODY for known in pair) else pair


def _dispatched_pair(result: SchedulingResult, leader: _Known, group: _Pair | None) -> _Pair | None:
    """Prefill and decode endpoint of the dispatched route, if it is complete.

    Where nothing is said of it, the leader's own group is dispatched.
    """
    route = read(result, "primary_route")
    if route is None:
        return group
    prefill = endpoint_from(read(route, "prefill"))
    decode = endpoint_from(read(route, "decode"))
    if prefill is None or decode is None or read(route, "leader") is None:
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
        endpoint,
        endpoint_metrics(read(source, "metrics")),
        npu_state(attribute(source, NPU_STATE_KEY)),
    )


def _predicted(endpoint: object, latency: str) -> Any:
    """Milliseconds; upstream's zero value stands for no prediction."""
    predicted = number(attribute(endpoint, LATENCY_PREDICTION_KEY), latency)
    return None if predicted == 0 else predicted


def _prefix_cache_score(endpoint: object) -> Any:
    """The cached part of the prompt: a number, or blocks matched of blocks in total."""
    info = attribute(endpoint, PREFIX_CACHE_KEY)
    if info is None or isinstance(info, (int, float)):
        return info
    total = number(info, "total_blocks")
    if total is None or total == 0:
        return None
    matched, total = sanitize.count(number(info, "match_blocks")), sanitize.count(total)
    return UNUSABLE if matched is None or total is None else matched / total


def _token_ids(request: SchedulingRequest) -> Any:
    """The tokenized prompt, if there is one."""
    token_ids = read(read(request, "tokenized_prompt"), "token_ids")
    try:
        return token_ids if not isinstance(token_ids, (str, bytes)) and len(token_ids) else None
    except Exception:
        return None


def _input_tokens(request: SchedulingRequest, token_ids: Any) -> tuple[Any, InputTokenSource]:
    if token_ids is not None:
        return len(token_ids), InputTokenSource.TOKENIZED
    for name, source in _TOKEN_COUNTS:
        tokens = number(request, name)
        if tokens is not None:
            return tokens, source
    size = sanitize.count(number(request, "request_size_bytes"))
    if size:
        return max(1, (size + 2) // _BYTES_PER_TOKEN), InputTokenSource.ESTIMATED
    return None, InputTokenSource.UNKNOWN


def _output_tokens(usage: object) -> Any:
    """The completion tokens; a usage that counts no prompt tokens either is upstream's zero value:
    nothing was reported."""  # noqa: D205, D209
    tokens = number(usage, "completion_tokens")
    return None if tokens == 0 and not number(usage, "prompt_tokens") else tokens
