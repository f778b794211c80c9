"""How the scheduler chooses an endpoint."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timezone

from hermes_router.config import parse_endpoint
from hermes_router.datastore import Datastore, Endpoint
from hermes_router.director import Director
from hermes_router.endpoint import (
    EndpointEvent,
    EndpointEventType,
    EndpointMetrics,
    NamespacedName,
    NPUState,
)
from hermes_router.model import (
    InferenceRequest,
    InferenceResponse,
    LatencyPredictionInfo,
    PDGroupInfo,
    PrefixCacheMatchInfo,
    RequestBody,
)
from hermes_router.predictor import Features, LatencyPredictor
from hermes_router.prompt import text_prompt
from hermes_router.scheduler import Scheduler

METRICS = EndpointMetrics(
    update_time=datetime(2026, 1, 1, tzinfo=timezone.utc),
    running_requests_size=0,
    waiting_queue_size=0,
    kv_cache_usage_percent=0.0,
    cache_block_size=16,
    cache_num_blocks=1000,
)
PD_ROLES = {"leader": "leader", "p-0": "prefill", "p-1": "prefill", "d-0": "decode"}


class KnownLatency(LatencyPredictor):
    """Predicts a millisecond for each request the endpoint runs."""

    def __init__(self) -> None:
        """Needs no records."""

    def predict(self, role: str, features: Features | None) -> LatencyPredictionInfo:
        if features is None:
            return LatencyPredictionInfo()
        latency = 1 + features.num_request_running
        return LatencyPredictionInfo(latency, latency)


def make_datastore(roles: dict[str, str]) -> Datastore:
    datastore = Datastore()
    for port, (name, role) in enumerate(roles.items(), start=1):
        description = {"name": name, "address": "h", "port": port, "role": role}
        add = EndpointEventType.ADD_OR_UPDATE
        datastore.apply(EndpointEvent(add, parse_endpoint(description)))
        get(datastore, name).update_metrics(METRICS)
    return datastore


def get(datastore: Datastore, name: str) -> Endpoint:
    endpoint = datastore.get(NamespacedName("default", name))
    assert endpoint is not None
    return endpoint


def make_request(text: str = "x" * 640) -> InferenceRequest:
    body = RequestBody("/v1/completions", b"{}", stream=True)
    return InferenceRequest("id", "m", body, text_prompt(text), {}, prompt_tokens_estimate=160)


def pick(
    datastore: Datastore,
    request: InferenceRequest,
    predictor: LatencyPredictor | None = None,
    excluded: tuple[NamespacedName, ...] = (),
) -> str:
    result = Scheduler(datastore, "aggregated", predictor).schedule(request, excluded)
    assert result is not None
    return result.target.metadata.namespaced_name.name


TWO = {"a": "aggregated", "b": "aggregated"}


def test_a_cached_prefix_attracts() -> None:
    """The endpoint with the cached prompt is chosen, even if it is slightly busier."""
    datastore, request = make_datastore(TWO), make_request()
    get(datastore, "b").prefix_index.add(request.prompt.block_hashes(16))
    get(datastore, "b").inflight_requests = 2
    assert pick(datastore, request) == "b"


def test_load_repels() -> None:
    """A busy endpoint loses, by the router's own count or by its metrics."""
    datastore = make_datastore(TWO)
    get(datastore, "a").inflight_requests = 3
    assert pick(datastore, make_request()) == "b"
    get(datastore, "b").update_metrics(replace(METRICS, waiting_queue_size=9))
    assert pick(datastore, make_request()) == "a"


def test_a_shorter_predicted_latency_attracts() -> None:
    """Predictions decide between endpoints with equal other scores."""
    datastore = make_datastore(TWO)
    get(datastore, "a").update_metrics(replace(METRICS, running_requests_size=1))
    get(datastore, "b").inflight_requests = 1
    assert pick(datastore, make_request(), KnownLatency()) == "b"


def test_what_failed_is_avoided() -> None:
    """Excluded endpoints are never chosen; unreachable ones only if there is no other."""
    datastore, request = make_datastore(TWO), make_request()
    get(datastore, "a").avoid()
    a, b = NamespacedName("default", "a"), NamespacedName("default", "b")
    assert pick(datastore, request) == "b"
    assert pick(datastore, request, excluded=(b,)) == "a"
    assert Scheduler(datastore, "aggregated", None).schedule(request, (a, b)) is None


def test_ties_are_spread() -> None:
    """Idle endpoints all get their share."""
    scheduler = Scheduler(make_datastore(TWO), "aggregated", None)
    results = [scheduler.schedule(make_request()) for _ in range(50)]
    names = {result.target.metadata.namespaced_name.name for result in results if result}
    assert names == {"a", "b"}


def test_the_snapshot_of_an_aggregated_pick() -> None:
    """It has the values on which the choice was based, and no unknown ones."""
    datastore, request = make_datastore({"a": "aggregated"}), make_request("x" * 641)
    get(datastore, "a").prefix_index.add(request.prompt.block_hashes(16)[:4])
    result = Scheduler(datastore, "aggregated", None).schedule(request)
    assert result is not None
    assert (result.candidates, result.policy, result.primary_route) == (
        1,
        "prefix+load+prediction",
        None,
    )
    assert result.target.metrics is METRICS
    assert result.target.attributes == {"PrefixCacheMatchInfoKey": PrefixCacheMatchInfo(4, 11, 16)}


def test_the_snapshot_of_a_pair() -> None:
    """The leader is the target with the pair; each half has its own prediction."""
    datastore, request = make_datastore(PD_ROLES), make_request()
    get(datastore, "p-1").prefix_index.add(request.prompt.block_hashes(16))
    now = METRICS.update_time
    npu = NPUState(now, "fresh", 0, None, None, None, None, None, None, [])
    get(datastore, "d-0").npu = npu
    result = Scheduler(datastore, "pd", KnownLatency()).schedule(request)
    assert result is not None
    assert result.primary_route is not None
    assert (result.candidates, result.policy) == (4, "prefix+load+prediction")
    assert result.target.metadata.namespaced_name.name == "leader"
    assert list(result.target.attributes) == ["PDGroupInfoKey"]
    group = result.target.get("PDGroupInfoKey")
    assert isinstance(group, PDGroupInfo)
    prefill, decode = group.selected_prefill_pod.endpoint, group.selected_decode_pod.endpoint
    assert prefill.metadata is result.primary_route.prefill is get(datastore, "p-1").metadata
    assert decode.metadata is result.primary_route.decode is get(datastore, "d-0").metadata
    assert prefill.get("PrefixCacheMatchInfoKey") == PrefixCacheMatchInfo(10, 10, 16)
    assert decode.get("PrefixCacheMatchInfoKey") is None
    assert isinstance(decode.get("LatencyPredictionInfoKey"), LatencyPredictionInfo)
    assert decode.get("NPUStateKey") is npu


def test_a_pair_needs_every_role() -> None:
    """Without a decode endpoint nothing can be served."""
    roles = {name: role for name, role in PD_ROLES.items() if role != "decode"}
    assert Scheduler(make_datastore(roles), "pd", None).schedule(make_request()) is None


def test_the_director_charges_and_gives_back() -> None:
    """The prefill's load ends at the first chunk, the decode's at the end; a retry moves it."""
    datastore, request, response = make_datastore(PD_ROLES), make_request(), InferenceResponse()
    scheduler = Scheduler(datastore, "pd", None)
    director = Director(datastore, scheduler)

    def loads() -> list[tuple[int, int]]:
        endpoints = sorted(datastore, key=lambda endpoint: endpoint.metadata.namespaced_name)
        return [(endpoint.inflight_requests, endpoint.inflight_tokens) for endpoint in endpoints]

    for excluded, expected in [
        ("p-1", [(1, 160), (1, 0), (1, 160), (0, 0)]),
        ("p-0", [(1, 160), (1, 0), (0, 0), (1, 160)]),
    ]:
        result = scheduler.schedule(request, [NamespacedName("default", excluded)])
        assert result is not None
        director.pre_request(request, result)
        assert loads() == expected
    director.response_body(request, response, None)
    assert loads() == [(1, 160), (1, 0), (0, 0), (0, 0)]
    response.end_of_stream = True
    director.response_body(request, response, None)
    assert loads() == [(0, 0)] * 4


def test_an_endpoint_that_comes_back_starts_at_zero() -> None:
    """Load added before an endpoint left does not affect its successor."""
    datastore, request = make_datastore({"a": "aggregated"}), make_request()
    scheduler = Scheduler(datastore, "aggregated", None)
    director = Director(datastore, scheduler)
    result = scheduler.schedule(request)
    assert result is not None
    director.pre_request(request, result)
    metadata = get(datastore, "a").metadata
    datastore.apply(EndpointEvent(EndpointEventType.ADD_OR_UPDATE, metadata))
    assert get(datastore, "a").inflight_requests == 1
    datastore.apply(EndpointEvent(EndpointEventType.DELETE, metadata))
    datastore.apply(EndpointEvent(EndpointEventType.DELETE, metadata))
    datastore.apply(EndpointEvent(EndpointEventType.ADD_OR_UPDATE, metadata))
    director.response_body(request, InferenceResponse(end_of_stream=True), metadata)
    assert get(datastore, "a").inflight_requests == 0


def picks(policy: str, number: int, explore: float = 0.0) -> list[tuple[str, str]]:
    """The first endpoints that a policy chooses of four alike, and its reasons."""
    datastore = make_datastore(dict.fromkeys("abcd", "aggregated"))
    scheduler = Scheduler(datastore, "aggregated", None, policy, explore)
    results = [scheduler.schedule(make_request()) for _ in range(number)]
    return [
        (result.target.metadata.pod_name, result.reason) for result in results if result is not None
    ]


def test_policies_that_look_at_nothing() -> None:
    """Endpoints take turns, or chance decides among all."""
    assert "".join(name for name, _ in picks("round_robin", 8)) == "abcdabcd"
    assert {name for name, _ in picks("random", 40)} == set("abcd")


def test_a_policy_ranks_by_its_own_scores_only() -> None:
    """Least load ignores what is cached, and tells no other score."""
    datastore, request = make_datastore(TWO), make_request()
    get(datastore, "a").prefix_index.add(request.prompt.block_hashes(16))
    get(datastore, "a").inflight_requests = 3
    result = Scheduler(datastore, "aggregated", None, "least_load").schedule(request)
    assert result is not None
    assert (result.target.metadata.pod_name, result.policy) == ("b", "least_load")
    assert dict(result.target.scores) == {"load": 1.0}


def test_exploration_is_told() -> None:
    """A share of the requests goes anywhere, with a reason; the others follow the policy."""
    explored = [name for name, reason in picks("round_robin", 400, explore=0.25) if reason]
    assert 60 < len(explored) < 140
    assert set(explored) == set("abcd")
