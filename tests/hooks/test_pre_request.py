"""`pre_request`: how a scheduling decision is read, rule by rule of the seed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from otel_lifecycle import (
    Endpoint,
    EndpointMetrics,
    LatencyPrediction,
    LifecycleRecord,
    Load,
    NPUState,
)
from otel_lifecycle.model.fields import fields_of
from tests.conftest import Bench
from tests.hooks.shapes import (
    Metadata,
    NamespacedName,
    ProfileRunResult,
    Request,
    Response,
    ScheduledEndpoint,
    SchedulingResult,
    endpoint,
    identity,
    last,
    metadata,
    pd_group,
    pd_leader,
    pd_route,
    predicted,
    prediction,
    prefix_match,
    result,
    route,
    stream,
    usage,
)
from tests.routes import NOW
from tests.tracking.expected import (
    E2E_MS,
    STREAMED_RECORD,
    TTFT_MS,
    prediction_input,
    record,
    snapshot,
)


def track(bench: Bench, scheduling_result: Any, request: Request | None = None) -> LifecycleRecord:
    """Return the record of a request that streams and completes."""
    request = request or Request()
    bench.tracker.pre_request(request, scheduling_result)
    stream(bench.tracker, request, bench.clock, usage=usage())
    return bench.records[-1]


def identified(pod: str) -> dict[str, Any]:
    """The identity of an endpoint in a record."""
    return {"id": f"pod://llm/{pod}", "address": f"{pod}.local", "port": "8000"}


def unscraped(pod: str) -> dict[str, Any]:
    """An endpoint of which only the load is known."""
    return {**identified(pod), "inflight": {"tokens": 0, "requests": 0}, "prefillTokens": 0}


# The route of `pd_leader`.
PD_ROUTE = {
    "leader": identified("leader-0"),
    "prefill": snapshot("prefill-0"),
    "decode": snapshot("decode-0"),
}


def lines(bench: Bench) -> list[dict[str, Any]]:
    """The lines of the record file."""
    assert bench.tracker.flush(timeout=30)
    return [json.loads(line) for line in bench.path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("request_", "scheduling_result", "reason"),
    [
        (None, result(predicted("qwen-0")), "no_request_id"),
        (Request(request_id=""), result(predicted("qwen-0")), "no_request_id"),
        (Request(request_id=None), result(predicted("qwen-0")), "no_request_id"),
        (Request(request_id=7), result(predicted("qwen-0")), "no_request_id"),
        (SimpleNamespace(), result(predicted("qwen-0")), "no_request_id"),
        (Request(), None, "no_endpoint"),
        (Request(), SimpleNamespace(), "no_endpoint"),
        (
            Request(),
            SchedulingResult({"": ProfileRunResult([predicted("qwen-0")])}, ""),
            "no_endpoint",
        ),
        (Request(), result(predicted("qwen-0"), primary_profile_name="other"), "no_endpoint"),
        (Request(), result(profile_results=None), "no_endpoint"),
        (Request(), result(profile_results={"default": None}), "no_endpoint"),
        (Request(), result(profile_results={"default": ProfileRunResult(None)}), "no_endpoint"),
        (Request(), result(), "no_endpoint"),
        (Request(), result(None, predicted("qwen-0")), "no_endpoint"),
        (Request(), result(ScheduledEndpoint(None)), "no_endpoint"),
    ],
    ids=[
        "no request",
        "empty id",
        "null id",
        "id of another type",
        "id absent",
        "no result",
        "result without profiles",
        "no primary profile",
        "unknown primary profile",
        "null profiles",
        "null profile",
        "null targets",
        "no targets",
        "first target null",
        "first target without metadata",
    ],
)
def test_skipped(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    request_: Any,
    scheduling_result: Any,
    reason: str,
) -> None:
    """Without request, id, endpoint or metadata nothing is tracked; a debug log has the reason."""
    caplog.set_level(logging.DEBUG, "otel_lifecycle")

    bench.tracker.pre_request(request_, scheduling_result)

    assert (bench.tracker.store.active_requests, bench.tracker.store.loads()) == (0, {})
    assert (bench.records, bench.spans) == ([], [])
    assert bench.tracker.store.ignored == {reason: 1}
    why = {
        "no_request_id": "not tracked: no request or no request id",
        "no_endpoint": "not tracked: no selected endpoint",
    }
    assert [(entry.levelno, entry.message) for entry in caplog.records] == [
        (logging.DEBUG, why[reason])
    ]


def test_aggregated(bench: Bench) -> None:
    """An aggregated request is recorded with the full snapshot of the selected endpoint."""
    request = Request()
    bench.tracker.pre_request(request, result(predicted("qwen-0"), predicted("qwen-1")))
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load(512, 1)}
    stream(bench.tracker, request, bench.clock, usage=usage())

    assert lines(bench) == [record(**{"provider": "", **STREAMED_RECORD})]
    assert [span["at"] for span in bench.spans] == [[0.0, TTFT_MS, E2E_MS, E2E_MS]]
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load()}
    assert bench.tracker.store.ignored == {}


def test_prefill_decode(bench: Bench) -> None:
    """A complete PD route: prefill and decode with full snapshots, the leader by identity only."""
    request = Request()
    bench.tracker.pre_request(request, result(pd_leader(), primary_route=pd_route()))
    assert bench.tracker.store.loads() == {
        "pod://llm/prefill-0": Load(512, 1),
        "pod://llm/decode-0": Load(512, 1),
    }
    stream(bench.tracker, request, bench.clock, usage=usage())

    assert lines(bench) == [
        record(
            **{
                "provider": "",
                "selectedEndpoint": "pod://llm/leader-0",
                "trackedEndpoints": ["pod://llm/prefill-0", "pod://llm/decode-0"],
                "predictionInputs": [
                    prediction_input("prefill", "prefill-0"),
                    prediction_input("decode", "decode-0"),
                ],
                "selectedRoute": PD_ROUTE,
                **STREAMED_RECORD,
            }
        )
    ]


def test_ranks_of_a_pd_route(bench: Bench) -> None:
    """If the pod's name does not identify an endpoint, its own name is recorded too."""
    leader = endpoint(
        "leader-0",
        "leader-0-rank-1",
        pd_group=pd_group(endpoint("qwen-0", "qwen-0-rank-0"), endpoint("qwen-0", "qwen-0-rank-1")),
    )
    track(bench, result(leader))

    assert lines(bench)[0]["selectedRoute"] == {
        "leader": {**identified("leader-0"), "name": "leader-0-rank-1"},
        "prefill": {**snapshot("qwen-0"), "name": "qwen-0-rank-0"},
        "decode": {**snapshot("qwen-0"), "name": "qwen-0-rank-1"},
    }


def test_group_alone(bench: Bench) -> None:
    """Without a dispatched route, the endpoint's own PD group is the route."""
    written = track(bench, result(pd_leader()))

    assert written.tracked_endpoints == ["pod://llm/prefill-0", "pod://llm/decode-0"]
    assert written.route_mismatch is False
    assert lines(bench)[0]["selectedRoute"] == PD_ROUTE


@pytest.mark.parametrize(
    "dispatched",
    [
        route(None, metadata("prefill-0"), metadata("decode-0")),
        route(metadata("leader-0"), None, metadata("decode-0")),
        route(metadata("leader-0"), metadata("prefill-0"), None),
        route(None, None, None),
    ],
    ids=["no leader", "no prefill", "no decode", "nothing"],
)
@pytest.mark.parametrize("selected", [predicted("leader-0"), pd_leader()], ids=["alone", "group"])
def test_incomplete_route(bench: Bench, selected: ScheduledEndpoint, dispatched: Any) -> None:
    """With an incomplete dispatched route, the selected endpoint carries the load."""
    bench.tracker.pre_request(Request(), result(selected, primary_route=dispatched))
    assert bench.tracker.store.loads() == {"pod://llm/leader-0": Load(512, 1)}
    bench.tracker.response_body(Request(), last())

    (written,) = bench.records
    assert written.tracked_endpoints == ["pod://llm/leader-0"]
    assert lines(bench)[0]["selectedRoute"] == {"leader": snapshot("leader-0")}
    assert written.route_mismatch is ("PDGroupInfoKey" in selected.attributes)


@pytest.mark.parametrize(
    "group",
    [
        None,
        SimpleNamespace(),
        SimpleNamespace(selected_prefill_pod=None, selected_decode_pod=None),
        pd_group(None, endpoint("decode-0")),
        pd_group(endpoint("prefill-0"), None),
        pd_group(ScheduledEndpoint(None), endpoint("decode-0")),
        pd_group(endpoint("prefill-0"), ScheduledEndpoint(Metadata(cast("Any", None), "", "", ""))),
    ],
    ids=[
        "null",
        "no pods",
        "null pods",
        "no prefill endpoint",
        "no decode endpoint",
        "no prefill metadata",
        "nameless decode",
    ],
)
def test_incomplete_group(bench: Bench, group: Any) -> None:
    """A PD group without both endpoints is ignored."""
    selected = predicted("qwen-0")
    selected.attributes["PDGroupInfoKey"] = group

    written = track(bench, result(selected))

    assert written.tracked_endpoints == ["pod://llm/qwen-0"]
    assert (written.prefix_cache_score, written.prediction) == (
        0.42,
        LatencyPrediction(210.0, 18.5),
    )


@pytest.mark.parametrize(
    ("prefill", "known"),
    [("prefill-0", unscraped("prefill-0")), ("leader-0", snapshot("leader-0"))],
    ids=["others", "leader prefills"],
)
def test_route_without_group(bench: Bench, prefill: str, known: dict[str, Any]) -> None:
    """A dispatched PD route counts without a group.

    The leader is only identified. Prefill and decode have the selected endpoint's values if they
    are that endpoint. Score and predictions are the selected endpoint's.
    """
    dispatched = route(metadata("leader-0"), metadata(prefill), metadata("decode-0"))
    written = track(bench, result(predicted("leader-0"), primary_route=dispatched))

    assert written.tracked_endpoints == [f"pod://llm/{prefill}", "pod://llm/decode-0"]
    assert written.route_mismatch is False
    assert lines(bench)[0]["selectedRoute"] == {
        "leader": identified("leader-0"),
        "prefill": known,
        "decode": unscraped("decode-0"),
    }
    assert written.prefix_cache_score == 0.42
    assert written.prediction == LatencyPrediction(210.0, 18.5)


@pytest.mark.parametrize(
    ("dispatched", "tracked", "score", "expected"),
    [
        (
            route(metadata("leader-0"), metadata("prefill-0"), metadata("decode-9")),
            ["pod://llm/prefill-0", "pod://llm/decode-9"],
            0.42,
            LatencyPrediction(210.0, None),
        ),
        (
            route(metadata("leader-0"), metadata("prefill-9"), metadata("decode-0")),
            ["pod://llm/prefill-9", "pod://llm/decode-0"],
            None,
            LatencyPrediction(None, 18.5),
        ),
        (
            route(metadata("leader-0"), metadata("decode-0"), metadata("prefill-0")),
            ["pod://llm/decode-0", "pod://llm/prefill-0"],
            None,
            LatencyPrediction(None, None),
        ),
        (
            route(metadata("leader-0"), None, None),
            ["pod://llm/leader-0"],
            0.04,
            LatencyPrediction(888.0, 888.0),
        ),
    ],
    ids=["other decode", "other prefill", "swapped", "leader alone"],
)
def test_route_mismatch(
    bench: Bench, dispatched: Any, tracked: list[str], score: float, expected: LatencyPrediction
) -> None:
    """If dispatched route and PD group disagree, the former is recorded, with a mark."""
    written = track(bench, result(pd_leader(), primary_route=dispatched))

    assert written.route_mismatch is True
    assert written.tracked_endpoints == tracked
    assert (written.prefix_cache_score, written.prediction) == (score, expected)
    route_ = lines(bench)[0]["selectedRoute"]
    pods = [endpoint_id.removeprefix("pod://llm/") for endpoint_id in tracked]
    if len(pods) == 1:
        assert route_ == {"leader": snapshot("leader-0")}
    else:
        known = [unscraped(pod) if pod.endswith("9") else snapshot(pod) for pod in pods]
        assert route_ == dict(
            leader=identified("leader-0"), **dict(zip(("prefill", "decode"), known, strict=True))
        )


@pytest.mark.parametrize("prefill", ["prefill-0", "decode-0", "leader-0"])
def test_known_endpoints_of_another_route(bench: Bench, prefill: str) -> None:
    """A known endpoint of the dispatched route keeps its snapshot, in any role."""
    dispatched = route(metadata("leader-0"), metadata(prefill), metadata("decode-9"))

    written = track(bench, result(pd_leader(), primary_route=dispatched))

    assert written.selected_route is not None
    assert written.selected_route.prefill is not None
    assert written.selected_route.decode is not None
    assert written.selected_route.prefill.metrics is not None
    assert written.selected_route.decode.metrics is None


def test_leader_is_the_selected_endpoint(bench: Bench) -> None:
    """The selected endpoint stays the leader, whatever leader the route names."""
    dispatched = route(metadata("leader-9"), metadata("prefill-0"), metadata("decode-0"))

    written = track(bench, result(pd_leader(), primary_route=dispatched))

    assert written.selected_endpoint == "pod://llm/leader-0"
    assert written.route_mismatch is False


@pytest.mark.parametrize("dispatched", [True, False])
def test_snapshots_where_prefill_is_decode(bench: Bench, dispatched: bool) -> None:
    """Each half keeps its own snapshot, with the load of the shared endpoint."""
    halves = endpoint("qwen-0"), endpoint("qwen-0")
    halves[0].metrics.running_requests_size, halves[1].metrics.running_requests_size = 1, 2
    leader = endpoint("leader-0", pd_group=pd_group(*halves))
    who = route(metadata("leader-0"), metadata("qwen-0"), metadata("qwen-0"))
    bench.tracker.pre_request(Request("other"), result(leader))

    written = track(bench, result(leader, primary_route=who if dispatched else None))

    assert written.selected_route is not None
    prefill, decode = written.selected_route.prefill, written.selected_route.decode
    assert prefill is not None
    assert prefill.metrics is not None
    assert decode is not None
    assert decode.metrics is not None
    assert (prefill.metrics.running_requests, decode.metrics.running_requests) == (1, 2)
    assert prefill.inflight == decode.inflight == Load(512, 1)


def test_prefill_is_decode(bench: Bench) -> None:
    """A PD route with one endpoint for both roles is counted once, until its end."""
    both = predicted("qwen-0")
    leader = endpoint("leader-0", pd_group=pd_group(both, both))
    request = Request()

    bench.tracker.pre_request(request, result(leader))
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load(512, 1)}
    bench.tracker.response_body(request, Response())
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load(512, 1)}
    bench.tracker.response_body(request, last())

    (written,) = bench.records
    assert written.tracked_endpoints == ["pod://llm/qwen-0"]
    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load()}


def test_dispatch_inflight_excludes_the_request(bench: Bench) -> None:
    """The load at dispatch excludes the request itself and the older request with its id."""
    first, second = Request("first"), Request("second")
    bench.tracker.pre_request(first, result(predicted("qwen-0")))
    for _ in range(2):
        bench.tracker.pre_request(second, result(predicted("qwen-0")))
    for request in (first, second):
        stream(bench.tracker, request)

    loads = [
        (
            written.dispatch_inflight,
            written.selected_route and written.selected_route.leader.inflight,
            written.prediction_inputs[0].inflight_tokens,
        )
        for written in bench.records
    ]
    others = (Load(512, 1), Load(512, 1), 512)
    assert loads == [others, (Load(), Load(), 0), others]


def test_dispatch_inflight_is_that_of_the_selected_endpoint(bench: Bench) -> None:
    """The load at dispatch of a PD route is the leader's, which such routes do not add to."""
    first, second = Request("first"), Request("second")
    bench.tracker.pre_request(first, result(pd_leader()))
    bench.tracker.pre_request(second, result(pd_leader()))
    bench.tracker.response_body(second, last())

    (written,) = bench.records
    assert written.selected_route is not None
    assert written.selected_route.prefill is not None
    assert written.dispatch_inflight == Load()
    assert written.selected_route.prefill.inflight == Load(512, 1)

    bench.tracker.pre_request(Request("alone"), result(predicted("leader-0")))
    bench.tracker.pre_request(second, result(pd_leader()))
    bench.tracker.response_body(second, last())
    assert bench.records[-1].dispatch_inflight == Load(512, 1)


@pytest.mark.parametrize("dispatched", [pd_route(), None], ids=["dispatched", "group alone"])
def test_routing_of_a_pd_route(bench: Bench, dispatched: Any) -> None:
    """Score and predicted TTFT come from the prefill endpoint, predicted TPOT from the decode."""
    written = track(bench, result(pd_leader(), primary_route=dispatched))

    assert written.prefix_cache_score == 0.42
    assert written.prediction == LatencyPrediction(210.0, 18.5)


@pytest.mark.parametrize(
    ("attribute", "expected", "mode"),
    [
        (prediction(210.0, 18.5), LatencyPrediction(210.0, 18.5), "active"),
        (prediction(210.0, 0.0), LatencyPrediction(210.0, None), "active"),
        (prediction(0, 18.5), LatencyPrediction(None, 18.5), "active"),
        (prediction(0.0, 0.0), LatencyPrediction(None, None), ""),
        (prediction(None, None), LatencyPrediction(None, None), ""),
        (None, LatencyPrediction(None, None), ""),
        ("soon", LatencyPrediction(None, None), ""),
    ],
    ids=["both", "ttft", "tpot", "zero", "null", "absent", "another type"],
)
def test_prediction_mode(
    bench: Bench, attribute: Any, expected: LatencyPrediction, mode: str
) -> None:
    """The mode is `active` if there is a prediction, else empty; 0 means no prediction."""
    written = track(bench, result(endpoint("qwen-0", prediction=attribute)))

    assert (written.prediction, written.prediction_mode) == (expected, mode)


@pytest.mark.parametrize(
    ("attribute", "score"),
    [
        (prefix_match(21, 50), 0.42),
        (prefix_match(0, 50), 0.0),
        (prefix_match(50, 50), 1.0),
        (prefix_match(0, 0), None),
        (0.42, 0.42),
        (1, 1.0),
        (0, 0.0),
        (None, None),
    ],
    ids=["blocks", "no match", "all", "no blocks", "score", "whole number", "zero", "absent"],
)
def test_prefix_cache_score(bench: Bench, attribute: Any, score: float | None) -> None:
    """The score is matched by total blocks, or a number; a missing one is unknown, not 0."""
    written = track(bench, result(endpoint("qwen-0", prefix_cache=attribute)))

    assert written.prefix_cache_score == score
    missing = [(entry.feature, entry.reason.value) for entry in written.missing_feature_reasons]
    assert missing == ([] if score is not None else [("prefixCacheScore", "prefix_cache_missing")])
    assert bench.tracker.store.ignored == {}


def with_tokens(**values: Any) -> Any:
    """A request with these values for its length."""
    return SimpleNamespace(request_id="request-1", target_model="Qwen/Qwen3-8B", **values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {
                "tokenized_prompt": SimpleNamespace(token_ids=[1, 2, 3]),
                "prompt_tokens": 9,
                "prompt_tokens_estimate": 8,
                "request_size_bytes": 400,
            },
            (3, "tokenized"),
        ),
        ({"tokenized_prompt": SimpleNamespace(token_ids=[]), "prompt_tokens": 9}, (9, "reported")),
        ({"tokenized_prompt": None, "prompt_tokens": 9}, (9, "reported")),
        ({"tokenized_prompt": SimpleNamespace(token_ids=7), "prompt_tokens": 9}, (9, "reported")),
        ({"tokenized_prompt": SimpleNamespace(token_ids="text")}, (None, "unknown")),
        ({"prompt_tokens": 0}, (0, "reported")),
        ({"prompt_tokens": 9, "prompt_tokens_estimate": 8}, (9, "reported")),
        ({"prompt_tokens_estimate": 8, "request_size_bytes": 400}, (8, "estimated")),
        ({"prompt_tokens": None, "prompt_tokens_estimate": 8}, (8, "estimated")),
        ({"request_size_bytes": 400}, (100, "estimated")),
        ({"request_size_bytes": 10}, (3, "estimated")),
        ({"request_size_bytes": 1}, (1, "estimated")),
        ({"request_size_bytes": 0}, (None, "unknown")),
        ({}, (None, "unknown")),
    ],
    ids=[
        "tokenized first",
        "empty token ids",
        "reported",
        "unusable token ids",
        "text for token ids",
        "reported zero",
        "reported before estimate",
        "estimate before size",
        "estimate",
        "size",
        "size rounded as Go does",
        "small size",
        "no size",
        "unknown",
    ],
)
def test_input_tokens(
    bench: Bench, values: dict[str, Any], expected: tuple[int | None, str]
) -> None:
    """The length is that of the tokenized prompt, else a reported count, else an estimate."""
    written = track(bench, result(predicted("qwen-0")), with_tokens(**values))

    assert (written.input_token_length, written.input_token_source.value) == expected
    assert bench.tracker.store.ignored == {}


def test_estimate_on_the_span(bench: Bench) -> None:
    """An estimate never shows as usage on the span."""
    track(bench, result(predicted("qwen-0")), with_tokens(request_size_bytes=400))

    (span,) = bench.spans
    tokens = {key: value for key, value in span["attributes"].items() if "input_tokens" in key}
    assert tokens == {
        "llm_router.request.input_tokens.estimate": 100,
        "llm_router.request.input_tokens.source": "estimated",
        "gen_ai.usage.cache_read.input_tokens": 200,
    }


def test_unknown_length_charges_the_request_alone(bench: Bench) -> None:
    """A request of unknown length adds one request and no tokens to the load."""
    bench.tracker.pre_request(with_tokens(), result(predicted("qwen-0")))

    assert bench.tracker.load(identity("qwen-0")) == Load(tokens=0, requests=1)
    bench.tracker.response_body(with_tokens(), last())
    (written,) = bench.records
    assert (written.input_token_length, written.input_token_source.value) == (None, "unknown")


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        (Metadata(NamespacedName("llm", "qwen-0-rank-1"), "qwen-0", "10.0.0.7", "8000"),
         "pod://llm/qwen-0"),
        (Metadata(NamespacedName("", ""), "qwen-0", "", ""), "pod:///qwen-0"),
        (Metadata(NamespacedName("llm", ""), "", "10.0.0.7", "8000"), "addr://10.0.0.7:8000"),
        (Metadata(NamespacedName("llm", ""), "", "10.0.0.7", ""), ""),
        (Metadata(NamespacedName("llm", ""), "", "", "8000"), ""),
        (Metadata(NamespacedName("llm", "engine"), "", "", ""), ""),
        (SimpleNamespace(), ""),
        (SimpleNamespace(address="10.0.0.7", port=8000), "addr://10.0.0.7:8000"),
        (SimpleNamespace(namespace="llm", pod_name="qwen-0"), "pod://llm/qwen-0"),
        (Endpoint("llm", "qwen-0"), "pod://llm/qwen-0"),
    ],
    ids=[
        "pod",
        "pod without namespace",
        "address",
        "no port",
        "no address",
        "name alone",
        "nothing",
        "port as a number",
        "namespace beside the pod",
        "ours",
    ],
)  # fmt: skip
def test_endpoint_id(bench: Bench, who: Any, expected: str) -> None:
    """`pod://namespace/pod`, else `addr://host:port`, else empty; it is tracked in any case."""
    written = track(bench, result(ScheduledEndpoint(who)))

    assert written.selected_endpoint == expected
    assert written.tracked_endpoints == [expected]


def test_snapshots_are_copies(bench: Bench) -> None:
    """Changes that the router makes after `pre_request` do not change the record."""
    selected = predicted("qwen-0")
    request = Request()
    bench.tracker.pre_request(request, result(selected))
    selected.metrics.active_models["lora-z"] = 9
    selected.metrics.waiting_models.clear()
    selected.metrics.running_requests_size = 99
    npu = selected.attributes["NPUStateKey"]
    npu.devices[0].ai_core_utilization = 1.0
    npu.devices.clear()
    npu.data_status = "missing"
    selected.metadata.pod_name = "other"
    request.tokenized_prompt.token_ids.clear()
    stream(bench.tracker, request, bench.clock, usage=usage())

    assert lines(bench) == [record(**{"provider": "", **STREAMED_RECORD})]


def test_metrics_changed_in_place(bench: Bench) -> None:
    """If a router changes one metrics object, each request has the values at its dispatch."""
    selected = predicted("qwen-0")
    for running in (3, 4):
        selected.metrics.running_requests_size = running
        track(bench, result(selected))

    running = [
        written.selected_route
        and written.selected_route.leader.metrics
        and written.selected_route.leader.metrics.running_requests
        for written in bench.records
    ]
    assert running == [3, 4]


def test_nothing_known_of_the_endpoint(bench: Bench) -> None:
    """Without metrics and NPU state the snapshot has neither, and features have a reason."""
    written = track(bench, result(ScheduledEndpoint(metadata("qwen-0"))))

    assert written.selected_route is not None
    assert (written.selected_route.leader.metrics, written.selected_route.leader.npu) == (
        None,
        None,
    )
    assert [(entry.feature, entry.reason.value) for entry in written.missing_feature_reasons] == [
        ("prefixCacheScore", "prefix_cache_missing"),
        ("numRequestWaiting", "metrics_missing"),
        ("numRequestRunning", "metrics_missing"),
        ("kvCacheUsage", "metrics_missing"),
        ("hbmUtilization", "npu_missing"),
        ("aiCoreUtilization", "npu_missing"),
        ("bandwidthUtilization", "npu_missing"),
    ]


STALE_FEATURES = dict.fromkeys(
    ("numRequestWaiting", "numRequestRunning", "kvCacheUsage"), "metrics_stale"
)


@pytest.mark.parametrize(
    ("age", "stale_after", "expected"),
    [
        (5.001, None, STALE_FEATURES),
        (5, None, {}),
        (60, "5s", STALE_FEATURES),
        (60, "2m", {}),
        (60, "0", {}),
        (-60, "5s", {}),
        (None, "5s", {}),
    ],
    ids=[
        "older than the default",
        "as old as the default",
        "old",
        "not that old",
        "never stale",
        "in the future",
        "unknown",
    ],
)
def test_stale_metrics(
    make_bench: Callable[..., Bench],
    age: float | None,
    stale_after: str | None,
    expected: dict[str, str],
) -> None:
    """Old metrics are not used as features; the snapshot keeps them, with their time."""
    selected = predicted("qwen-0")
    moment = None if age is None else NOW - timedelta(seconds=age)
    selected.metrics.update_time = moment

    limit = {} if stale_after is None else {"stale_after": stale_after}
    written = track(make_bench(**limit), result(selected))

    missing = {entry.feature: entry.reason.value for entry in written.missing_feature_reasons}
    (given,) = written.prediction_inputs
    assert missing == expected
    assert (given.num_request_waiting, given.num_request_running, given.kv_cache_usage) == (
        (None, None, None) if expected else (1, 3, 0.31)
    )
    assert written.selected_route is not None
    assert written.selected_route.leader.metrics is not None
    assert written.selected_route.leader.metrics.running_requests == 3
    assert written.selected_route.leader.metrics.update_time == moment


STALE_NPU = dict.fromkeys(
    ("hbmUtilization", "aiCoreUtilization", "bandwidthUtilization"), "npu_stale"
)


@pytest.mark.parametrize(
    ("age", "status", "expected"),
    [
        (5.001, "fresh", STALE_NPU),
        (5, "fresh", {}),
        (0, "stale", STALE_NPU),
        (None, "fresh", {}),
    ],
    ids=["old", "not that old", "says so", "age unknown"],
)
def test_stale_npu_state(
    bench: Bench, age: float | None, status: str, expected: dict[str, str]
) -> None:
    """An old or `stale` NPU state gives no features; the snapshot keeps it."""
    selected = predicted("qwen-0")
    state_ = selected.attributes["NPUStateKey"]
    state_.observation_time = None if age is None else NOW - timedelta(seconds=age)
    state_.data_status = status

    written = track(bench, result(selected))

    missing = {entry.feature: entry.reason.value for entry in written.missing_feature_reasons}
    (given,) = written.prediction_inputs
    assert missing == expected
    assert (
        given.hbm_utilization,
        given.ai_core_utilization,
        given.bandwidth_utilization,
    ) == ((None, None, None) if expected else (70.5, 60.0, 39.0))
    assert written.selected_route is not None
    assert written.selected_route.leader.npu is not None
    assert written.selected_route.leader.npu.hbm_utilization_avg == 70.5


def test_ranks_of_one_pod(bench: Bench) -> None:
    """Data-parallel ranks of one pod share its id but never a counter."""
    first, second = Request("first"), Request("second")
    bench.tracker.pre_request(first, result(predicted("qwen-0", "qwen-0-rank-0")))
    bench.tracker.pre_request(second, result(predicted("qwen-0", "qwen-0-rank-1")))

    assert bench.tracker.store.loads() == {
        "pod://llm/qwen-0#qwen-0-rank-0": Load(512, 1),
        "pod://llm/qwen-0#qwen-0-rank-1": Load(512, 1),
    }
    stream(bench.tracker, first)
    assert bench.tracker.load(identity("qwen-0", "qwen-0-rank-0")) == Load()
    assert bench.tracker.load(identity("qwen-0", "qwen-0-rank-1")) == Load(512, 1)


def test_duplicate_id(bench: Bench) -> None:
    """If an id is already in flight, the older request ends as `superseded`."""
    request = Request()
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    bench.tracker.pre_request(request, result(predicted("qwen-1")))
    assert bench.tracker.store.loads() == {
        "pod://llm/qwen-0": Load(),
        "pod://llm/qwen-1": Load(512, 1),
    }
    stream(bench.tracker, request)

    assert [(written.outcome.value, written.selected_endpoint) for written in bench.records] == [
        ("superseded", "pod://llm/qwen-0"),
        ("completed", "pod://llm/qwen-1"),
    ]
    assert bench.tracker.store.ignored == {"duplicate_start": 1}


def test_rerouted(bench: Bench) -> None:
    """A rerouted request stays one request, and its load moves along."""
    request = Request()
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    bench.tracker.reroute_request(request, result(predicted("qwen-1")), "connect_error")
    assert bench.tracker.store.loads() == {
        "pod://llm/qwen-0": Load(),
        "pod://llm/qwen-1": Load(512, 1),
    }
    stream(bench.tracker, request)

    (written,) = bench.records
    assert (written.selected_endpoint, written.attempt) == ("pod://llm/qwen-1", 2)
    assert [
        (change.from_endpoint, change.to_endpoint, change.reason) for change in written.rerouted
    ] == [("pod://llm/qwen-0", "pod://llm/qwen-1", "connect_error")]


@pytest.mark.parametrize(
    ("request_", "scheduling_result", "reason"),
    [
        (None, result(predicted("qwen-1")), "no_request_id"),
        (Request(), None, "no_endpoint"),
        (Request("other"), result(predicted("qwen-1")), "unknown_request"),
    ],
)
def test_not_rerouted(bench: Bench, request_: Any, scheduling_result: Any, reason: str) -> None:
    """Without request, endpoint or a request in flight, a reroute does nothing."""
    bench.tracker.pre_request(Request(), result(predicted("qwen-0")))

    bench.tracker.reroute_request(request_, scheduling_result)

    assert bench.tracker.store.loads() == {"pod://llm/qwen-0": Load(512, 1)}
    assert bench.tracker.store.ignored == {reason: 1}


@pytest.mark.parametrize(
    ("attempt", "expected"), [(2, 2), (5, 5), (1, 2), (0, 2), ("5", 2), (None, 2)]
)
def test_attempt(bench: Bench, attempt: Any, expected: int) -> None:
    """A reroute increments the attempt, unless the router reports a higher number."""
    request = Request()
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    request.attempt = attempt  # type: ignore[attr-defined]
    bench.tracker.reroute_request(request, result(predicted("qwen-1")))
    stream(bench.tracker, request)

    (written,) = bench.records
    assert written.attempt == expected


def test_rejected(bench: Bench) -> None:
    """A request without an endpoint is recorded as `rejected` and adds no load."""
    bench.tracker.reject(Request(), "no_candidates")

    assert lines(bench) == [
        record(
            provider="",
            outcome="rejected",
            selectedEndpoint="",
            trackedEndpoints=[],
            candidates=None,
            policy="",
            dispatchInflight=None,
            prefixCacheScore=None,
            prediction={"ttftMillis": None, "tpotMillis": None},
            predictionMode="",
            predictionInputs=[],
            selectedRoute=None,
            error={"type": "no_candidates"},
        )
    ]
    assert bench.tracker.store.loads() == {}


@pytest.mark.parametrize("request_", [None, SimpleNamespace(), Request(request_id="")])
def test_not_rejected(bench: Bench, request_: Any) -> None:
    """A rejected request without an id is not recorded."""
    bench.tracker.reject(request_, "no_candidates")

    assert (bench.records, bench.tracker.store.ignored) == ([], {"no_request_id": 1})


def test_injected(bench: Bench) -> None:
    """The engine's span becomes the child of the request's own."""
    request = Request()
    headers: dict[str, str] = {}
    bench.tracker.pre_request(request, result(predicted("qwen-0")))
    bench.tracker.inject(request, headers)
    stream(bench.tracker, request)

    (written,) = bench.records
    assert headers == {
        "traceparent": f"00-{written.trace_id}-{written.span_id}-{written.trace_flags:02x}"
    }


def test_inbound_headers(bench: Bench) -> None:
    """The trace context in the inbound headers is the request's parent."""
    request = Request()
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    bench.tracker.pre_request(request, result(predicted("qwen-0")), headers)
    stream(bench.tracker, request)

    (written,) = bench.records
    assert (written.trace_id, written.parent_span_id) == (
        "0af7651916cd43dd8448eb211c80319c",
        "b7ad6b7169203331",
    )


@pytest.mark.parametrize("request_", [None, SimpleNamespace(), Request("other")])
def test_not_injected(bench: Bench, request_: Any) -> None:
    """Headers of an unknown request stay unchanged."""
    headers: dict[str, str] = {}

    bench.tracker.inject(request_, headers)

    assert headers == {}


VALUES = {
    "text": "fresh",
    "moment": NOW,
    "fraction": 0.5,
    "percent": 50.0,
    "count": 3,
    "": {"a": 1},
}


def state(struct: type[msgspec.Struct]) -> SimpleNamespace:
    """An object shaped like the seed's with every field, by the seed's name in snake_case."""
    values: dict[str, Any] = {}
    for field in fields_of(struct):
        name = re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), field.record_name)
        values[name] = VALUES[field.kind] if field.struct is None else [state(field.struct)]
    return SimpleNamespace(**values)


def test_every_declared_field_is_read(bench: Bench) -> None:
    """No field of metrics and NPU state is lost on its way into the record."""
    selected = endpoint("qwen-0", npu=state(NPUState))
    selected.metrics = state(EndpointMetrics)

    route_ = track(bench, result(selected)).selected_route

    assert route_ is not None
    for known in (route_.leader.metrics, route_.leader.npu):
        assert known is not None
        assert [
            field.name for field in fields_of(type(known)) if not getattr(known, field.name)
        ] == []
