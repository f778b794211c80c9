"""Why a request went where it went: candidates, ranks, margin and regret."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from otel_lifecycle import (
    Candidate,
    Endpoint,
    EndpointEvent,
    EndpointEventType,
    EndpointMetrics,
    LatencyPrediction,
    RequestStart,
    Route,
)
from otel_lifecycle.telemetry.span_reader import record_from_span
from otel_lifecycle.telemetry.spans import span_from_record
from otel_lifecycle.tracking.decisions import Considered
from tests.conftest import Bench
from tests.routes import NOW, bare, disaggregated, endpoint, start


def considered(*candidates: Any, pod: str = "qwen-0", **changes: Any) -> RequestStart:
    """A request to a pod, for which these were considered."""
    return msgspec.structs.replace(
        start(route=Route(bare(pod))), candidates=list(candidates), **changes
    )


def scored(pod: str, score: Any, **known: Any) -> Candidate:
    """A candidate with a score."""
    return Candidate(endpoint(pod), score, **known)


def decision(bench: Bench, request: RequestStart) -> Any:
    """The decision of a request that has completed, as its line in the file has it."""
    bench.tracker.track(request).complete()
    assert bench.tracker.flush(timeout=30)
    return json.loads(bench.path.read_bytes().splitlines()[-1]).get("decision")


def ranks(bench: Bench, request: RequestStart) -> Any:
    """Rank and margin of the chosen endpoint, and the names of the candidates, best first."""
    (pick,) = decision(bench, request)["picks"]
    names = [candidate["id"].removeprefix("pod://llm/") for candidate in pick["candidates"]]
    return pick["chosenRank"], pick["margin"], names


def test_a_whole_decision(bench: Bench) -> None:
    """A candidate has its scores, prediction, load, and the state of its engine at that moment."""
    other = bench.tracker.track(start("other", Route(bare("qwen-1"))))
    request = considered(
        scored(
            "qwen-1",
            0.5,
            scores={"prefix": 0.0, "load": 0.5},
            prediction=LatencyPrediction(300.0, 20.0),
            metrics=EndpointMetrics(waiting_requests=4, kv_cache_usage=0.75, update_time=NOW),
        ),
        scored(
            "qwen-0",
            1.75,
            scores={"prefix": 1.25, "load": 0.5},
            prefix_cache_score=0.625,
            prediction=LatencyPrediction(310.0, 18.0),
        ),
        decision_reason="prefix_match",
        filtered=3,
    )

    expected = {
        "reason": "prefix_match",
        "filtered": 3,
        "picks": [
            {
                "role": "leader",
                "chosenRank": 1,
                "margin": 1.25,
                "regretMillis": 10.0,
                "candidates": [
                    {
                        "id": "pod://llm/qwen-0",
                        "score": 1.75,
                        "scores": {"prefix": 1.25, "load": 0.5},
                        "prefixCacheScore": 0.625,
                        "prediction": {"ttftMillis": 310.0, "tpotMillis": 18.0},
                        "inflight": {"tokens": 0, "requests": 0},
                    },
                    {
                        "id": "pod://llm/qwen-1",
                        "score": 0.5,
                        "scores": {"prefix": 0.0, "load": 0.5},
                        "prediction": {"ttftMillis": 300.0, "tpotMillis": 20.0},
                        "inflight": {"tokens": 512, "requests": 1},
                        "waiting": 4,
                        "kvCacheUsage": 0.75,
                    },
                ],
            }
        ],
    }
    assert decision(bench, request) == expected
    other.complete()
    (attributes, _) = (span["attributes"] for span in bench.spans)
    assert {
        name: value for name, value in attributes.items() if name.startswith("llm_router.decision.")
    } == {
        "llm_router.decision.reason": "prefix_match",
        "llm_router.decision.endpoints": ["pod://llm/qwen-0", "pod://llm/qwen-1"],
        "llm_router.decision.scores": [1.75, 0.5],
        "llm_router.decision.chosen_rank": 1,
        "llm_router.decision.margin": 1.25,
        "llm_router.decision.regret": 0.01,
    }
    assert attributes["llm_router.route.candidates.count"] == 2


def test_a_count_is_no_decision(bench: Bench) -> None:
    """Without candidates there is nothing of a decision in the record or on the span."""
    assert decision(bench, start()) is None
    assert decision(bench, considered("a", object())) is None
    assert decision(bench, considered()) is None

    assert [record.candidates for record in bench.records] == [8, 2, 0]
    names = {name for span in bench.spans for name in span["attributes"]}
    assert [name for name in names if "decision" in name] == []


def test_each_role_has_its_pick(bench: Bench) -> None:
    """The regret of a decode is of the time per token; the span has both picks."""
    request = msgspec.structs.replace(
        start(route=disaggregated()),
        candidates=[
            Candidate(endpoint("decode-1"), 1, role="decode", prediction=LatencyPrediction(9, 16)),
            Candidate(endpoint("prefill-0"), 3, role="prefill", prediction=LatencyPrediction(70)),
            Candidate(endpoint("prefill-1"), 2, role="prefill", prediction=LatencyPrediction(50)),
            Candidate(endpoint("decode-0"), 2, role="decode", prediction=LatencyPrediction(9, 18)),
            Candidate(endpoint("leader-0"), role="leader"),
        ],
    )

    picks = decision(bench, request)["picks"]

    assert [
        (pick["role"], pick["chosenRank"], pick["margin"], pick["regretMillis"]) for pick in picks
    ] == [("leader", None, None, None), ("prefill", 1, 1.0, 20.0), ("decode", 1, 1.0, 2.0)]
    (attributes,) = (span["attributes"] for span in bench.spans)
    assert attributes["llm_router.decision.endpoints"] == [
        "pod://llm/decode-0",
        "pod://llm/decode-1",
    ]
    assert attributes["llm_router.decision.regret"] == 0.002
    assert attributes["llm_router.decision.prefill.scores"] == [3.0, 2.0]
    assert attributes["llm_router.decision.prefill.regret"] == 0.02


@pytest.mark.parametrize(
    ("scores", "expected", "invalid"),
    [
        ({"qwen-0": 1.0}, (1, None, ["qwen-0"]), 0),
        ({"qwen-0": -5.0, "qwen-1": -2.0}, (2, -3.0, ["qwen-1", "qwen-0"]), 0),
        ({"qwen-0": 0.3, "qwen-1": 0.3}, (1, 0.0, ["qwen-0", "qwen-1"]), 0),
        ({"qwen-1": 0.3, "qwen-0": 0.3}, (1, 0.0, ["qwen-1", "qwen-0"]), 0),
        ({"qwen-0": None, "qwen-1": None}, (None, None, ["qwen-0", "qwen-1"]), 0),
        ({"qwen-1": None, "qwen-0": 2}, (1, None, ["qwen-0", "qwen-1"]), 0),
        ({"qwen-0": math.nan, "qwen-1": 1.0}, (None, None, ["qwen-1", "qwen-0"]), 1),
        ({"qwen-0": 1.0, "qwen-1": math.inf}, (1, None, ["qwen-0", "qwen-1"]), 1),
        ({"qwen-0": 1.0, "qwen-1": "2"}, (1, None, ["qwen-0", "qwen-1"]), 1),
        ({"qwen-0": 1.0, "qwen-1": True}, (1, None, ["qwen-0", "qwen-1"]), 1),
        ({"qwen-0": 1.0, "qwen-1": 10**400}, (1, None, ["qwen-0", "qwen-1"]), 1),
    ],
)
def test_ranks(bench: Bench, scores: dict[str, Any], expected: Any, invalid: int) -> None:
    """A higher score is better, equals share a rank, and what is no finite number is no score."""
    candidates = [scored(pod, score) for pod, score in scores.items()]

    assert ranks(bench, considered(*candidates)) == expected

    assert bench.tracker.store.ignored["invalid_value"] == invalid
    (record,) = bench.records
    (span,) = bench.telemetry.spans
    assert dict(span_from_record(record).attributes or {}) == dict(span.attributes or {})


def test_only_the_best_are_recorded(make_bench: Callable[..., Bench]) -> None:
    """As many as the setting says, and always the chosen one; its rank is among all."""
    bench = make_bench(decision_candidates=3)
    candidates = [scored(f"qwen-{number}", -number) for number in range(10_000)]

    few, many = (
        considered(*candidates[:20], pod="qwen-17"),
        considered(*candidates, pod="qwen-9999"),
    )

    assert ranks(bench, few) == (18, -17.0, ["qwen-0", "qwen-1", "qwen-17"])
    assert ranks(bench, many) == (10_000, -9999.0, ["qwen-0", "qwen-1", "qwen-9999"])
    assert ranks(bench, considered(*candidates)) == (1, 1.0, ["qwen-0", "qwen-1", "qwen-2"])
    assert [record.candidates for record in bench.records] == [20, 10_000, 10_000]


class Unseen(float):
    """A router's own number."""


@pytest.mark.parametrize(
    "odd", [None, math.nan, math.inf, -math.inf, "9", True, 10**400, object(), Unseen(0.25)]
)
@pytest.mark.parametrize("count", [9, 2_000])
def test_odd_scores_among_many(make_bench: Callable[..., Bench], odd: Any, count: int) -> None:
    """However many there are, the result is the same: what is no finite number is no score."""
    bench = make_bench(decision_candidates=3)
    candidates: list[Any] = [scored(f"qwen-{number}", -number) for number in range(count)]
    candidates[5] = scored("qwen-5", odd)
    candidates[7] = "no candidate"
    known = isinstance(odd, Unseen)

    for pod, rank in (("qwen-0", 1), ("qwen-6", 6), (f"qwen-{count - 1}", count - 2)):
        found = ranks(bench, considered(*candidates, pod=pod))
        assert found[0] == rank + known
    last = ranks(bench, considered(*candidates, pod="qwen-5"))
    assert last[0] == (1 if known else None)


@pytest.mark.parametrize("count", [9, 2_000])
def test_many_without_scores(bench: Bench, count: int) -> None:
    """They are recorded in the router's order, with the chosen one; there is no rank."""
    candidates = [scored(f"qwen-{number}", None) for number in range(count)]

    rank, margin, names = ranks(bench, considered(*candidates, pod=f"qwen-{count - 1}"))

    assert (rank, margin) == (None, None)
    assert names == [*(f"qwen-{number}" for number in range(7)), f"qwen-{count - 1}"]


@pytest.mark.parametrize("count", [9, 2_000])
def test_many_with_one_named_twice(bench: Bench, count: int) -> None:
    """Its better score counts, and it counts once, even if it is far behind."""
    candidates = [
        *(scored(f"qwen-{number}", -number) for number in range(1, count)),
        *(scored("qwen-2", score) for score in (-1.5, -9_000)),
        *(scored("qwen-0", score) for score in (-9_500, -9_100)),
    ]

    rank, margin, names = ranks(bench, considered(*candidates))

    assert (rank, margin, names[-1]) == (count, -9_099.0, "qwen-0")
    assert names[:3] == ["qwen-1", "qwen-2", "qwen-3"]


def test_many_of_two_roles(bench: Bench) -> None:
    """Each role is ranked on its own, with the load of its best endpoints and of the chosen one."""
    roles = ("prefill", "decode")
    busy = [bench.tracker.track(start(role, Route(bare(f"{role}-0")))) for role in roles]
    request = msgspec.structs.replace(
        start(route=disaggregated()),
        candidates=[
            Candidate(
                endpoint(f"{role}-{number}"),
                number * (1 if role == "decode" else -1),
                role=role,
                prediction=LatencyPrediction(50.0 + number, 20.0 - number / 500),
            )
            for role in roles
            for number in range(1_000)
        ],
    )

    prefill, decode = decision(bench, request)["picks"]

    assert (prefill["role"], prefill["chosenRank"], prefill["regretMillis"]) == ("prefill", 1, 0)
    assert (decode["role"], decode["chosenRank"], decode["regretMillis"]) == (
        "decode",
        1_000,
        1.998,
    )
    assert prefill["candidates"][0]["inflight"]["requests"] == 1
    assert decode["candidates"][-1]["id"] == "pod://llm/decode-0"
    assert decode["candidates"][-1]["inflight"]["requests"] == 1
    assert all(tracked.is_tracked for tracked in busy)


def test_the_chosen_one_may_be_none_of_them(make_bench: Callable[..., Bench]) -> None:
    """It is recorded all the same, and the decision says so, unless the router has a reason."""
    bench = make_bench(decision_candidates=2)
    others = [scored(f"qwen-{number}", number) for number in (1, 2, 3)]

    found = decision(bench, considered(*others))

    assert found["reason"] == "not_a_candidate"
    (pick,) = found["picks"]
    assert (pick["chosenRank"], pick["margin"], pick["regretMillis"]) == (None, None, None)
    assert [candidate["id"] for candidate in pick["candidates"]] == [
        "pod://llm/qwen-3",
        "pod://llm/qwen-0",
    ]
    assert pick["candidates"][1] == {"id": "pod://llm/qwen-0"}
    assert decision(bench, considered(*others, decision_reason="pinned"))["reason"] == "pinned"


def test_one_named_twice_counts_once(bench: Bench) -> None:
    """Its better score counts; the ranks of one pod are different endpoints."""
    ranked = Candidate(endpoint("qwen-1", name="qwen-1-rank-1"), 0.7)
    request = considered(
        scored("qwen-0", 0.1), scored("qwen-1", 0.5), ranked, scored("qwen-0", 0.9)
    )

    (pick,) = decision(bench, request)["picks"]

    assert [(one["id"], one.get("name"), one["score"]) for one in pick["candidates"]] == [
        ("pod://llm/qwen-0", None, 0.9),
        ("pod://llm/qwen-1", "qwen-1-rank-1", 0.7),
        ("pod://llm/qwen-1", None, 0.5),
    ]
    (attributes,) = (span["attributes"] for span in bench.spans)
    assert attributes["llm_router.decision.endpoints"][1] == "pod://llm/qwen-1#qwen-1-rank-1"


def test_nothing_unusable_is_recorded(bench: Bench) -> None:
    """Values out of range, of other types and without end are left out, and counted."""
    request = considered(
        Candidate(
            endpoint("qwen-0"),
            1.0,
            scores={"a" * 600: 1.0, "nan": math.nan, **{f"s{n}": n for n in range(100)}},  # type: ignore[dict-item]
            prefix_cache_score=1.5,
            prediction=LatencyPrediction(math.inf, -1.0),
            role="",
            metrics=EndpointMetrics(waiting_requests=-1, kv_cache_usage=3.0, update_time=NOW),
        ),
        Candidate(endpoint("qwen-1"), 1.0, role="router"),
        Candidate(endpoint("qwen-2"), scores=[1, 2]),  # type: ignore[arg-type]
    )

    (pick,) = decision(bench, request)["picks"]

    first, second = pick["candidates"]
    assert set(first) == {"id", "score", "scores", "inflight"}
    assert len(first["scores"]) == 15
    assert max(map(len, first["scores"])) == 512
    assert second == {"id": "pod://llm/qwen-2", "inflight": {"tokens": 0, "requests": 0}}
    assert bench.tracker.store.ignored["invalid_value"] == 2


def test_stale_engines_are_unknown(bench: Bench) -> None:
    """Metrics that are too old are left out; what the router said last of one is used."""
    old = EndpointMetrics(waiting_requests=9, update_time=NOW - timedelta(seconds=6))
    bench.tracker.track(start(route=Route(bare("qwen-2")))).complete()
    known = msgspec.structs.replace(
        bare("qwen-3"), metrics=EndpointMetrics(waiting_requests=5, update_time=NOW)
    )
    bench.tracker.track(start(route=Route(known))).complete()

    request = considered(scored("qwen-0", 4, metrics=old), scored("qwen-2", 3), scored("qwen-3", 2))
    (pick,) = decision(bench, request)["picks"]

    assert [one.get("waiting") for one in pick["candidates"]] == [None, None, 5]


def test_each_round_has_its_decision(bench: Bench) -> None:
    """A reroute tells its own; one that names no candidates has none."""
    tracked = bench.tracker.track(considered(scored("qwen-0", 2), scored("qwen-1", 1)))
    tracked.reroute(Route(bare("qwen-1")), reason="connect_error")
    tracked.reroute(
        Route(bare("qwen-2")),
        reason="http_503",
        candidates=[scored("qwen-2", 7), scored("qwen-3", 3), scored("qwen-4", 3)],
        decision_reason="fallback",
    )
    tracked.complete()

    (record,) = bench.records
    assert (record.candidates, record.attempt) == (3, 3)
    decisions = [record.decision, *(change.decision for change in record.rerouted)]
    assert [
        one and (one.reason, [(pick.chosen_rank, pick.margin) for pick in one.picks])  # type: ignore[union-attr]
        for one in decisions
    ] == [("", [(1, 1.0)]), msgspec.UNSET, ("fallback", [(1, 4.0)])]


def test_rounds_are_bounded(bench: Bench) -> None:
    """Of a request that is sent for ever, the first decision and the last 64 are kept."""
    tracked = bench.tracker.track(considered(scored("qwen-0", 0)))
    for number in range(1, 101):
        pod = f"qwen-{number}"
        tracked.reroute(Route(bare(pod)), candidates=[scored(pod, number)])
    tracked.complete()

    (record,) = bench.records
    found = [record.decision, *(change.decision for change in record.rerouted)]
    scores = [one.picks[0].candidates[0].score for one in found]  # type: ignore[union-attr]
    assert scores == [0, *range(37, 101)]


def test_the_decode_may_be_chosen_later(bench: Bench) -> None:
    """What becomes known of the same dispatch is added to its decision."""
    prefills = [Candidate(endpoint(f"p-{number}"), -number, role="prefill") for number in (0, 1)]
    decodes = [Candidate(endpoint(f"d-{number}"), -number, role="decode") for number in (0, 1)]
    prefill, decode = bare("p-0"), bare("d-1")
    tracked = bench.tracker.track(
        RequestStart("request-1", Route(prefill, prefill), candidates=prefills)
    )
    tracked.extend(Route(decode, prefill, decode), [*prefills, *decodes])
    tracked.complete()

    (record,) = bench.records
    assert record.decision is not msgspec.UNSET
    assert [(pick.role, pick.chosen_rank) for pick in record.decision.picks] == [
        ("prefill", 1),
        ("decode", 2),
    ]
    assert (record.candidates, record.rerouted) == (4, [])


def test_the_router_may_change_its_list(bench: Bench) -> None:
    """Candidates and their load are those of the dispatch."""
    candidates = [scored("qwen-0", 2), scored("qwen-1", 1)]
    request = considered(*candidates)
    assert isinstance(request.candidates, list)
    tracked = bench.tracker.track(request)
    request.candidates.clear()
    bench.tracker.track(start("other", Route(bare("qwen-1")))).complete()
    bench.tracker.extract_endpoint(EndpointEvent(EndpointEventType.DELETE, endpoint("qwen-1")))
    tracked.complete()

    record = bench.records[-1]
    assert record.candidates == 2
    assert record.decision is not msgspec.UNSET
    assert len(record.decision.picks[0].candidates) == 2


def loads(pick: Any) -> dict[str, int]:
    """The requests in flight on each candidate of a pick."""
    return {one.id.removeprefix("pod://llm/"): one.inflight.requests for one in pick.candidates}


@pytest.mark.parametrize("others", [0, 100])
@pytest.mark.parametrize("count", [3, 200])
def test_the_load_is_that_of_the_dispatch(bench: Bench, others: int, count: int) -> None:
    """However many endpoints and candidates there are, and whatever happens afterwards."""
    for number in range(others):
        bench.tracker.store.add_endpoint(endpoint(f"other-{number}"))
    busy = bench.tracker.track(start("busy", Route(bare("qwen-1"))))
    known = len(bench.tracker.store.states)
    request = considered(*(scored(f"qwen-{number}", -number) for number in range(count)))

    tracked = bench.tracker.track(request)
    assert len(bench.tracker.store.states) == known + 1, "only the chosen endpoint becomes known"
    busy.complete()
    bench.tracker.extract_endpoint(EndpointEvent(EndpointEventType.DELETE, endpoint("qwen-1")))
    later = [bench.tracker.track(start(str(n), Route(bare(f"qwen-{n}")))) for n in (0, 1, 2)]
    tracked.complete()

    decided = bench.records[-1].decision
    assert decided is not msgspec.UNSET
    assert {
        pod: load for pod, load in loads(decided.picks[0]).items() if pod in ("qwen-0", "qwen-1")
    } == {"qwen-0": 0, "qwen-1": 1}
    assert sum(loads(decided.picks[0]).values()) == 1
    assert all(one.is_tracked for one in later)


def test_a_decode_chosen_later_has_the_load_of_then(bench: Bench) -> None:
    """The prefill's candidates have that of the prefill's dispatch; the order is that of roles."""
    prefill, decode = bare("p-0"), bare("d-0")
    tracked = bench.tracker.track(
        RequestStart(
            "request-1",
            Route(decode, decode, decode),
            candidates=[Candidate(endpoint(pod), role="decode") for pod in ("d-0", "d-1")],
        )
    )
    busy = [bench.tracker.track(start(pod, Route(bare(pod)))) for pod in ("p-1", "d-1")]
    tracked.extend(
        Route(decode, prefill, decode),
        [Candidate(endpoint(pod), role="prefill") for pod in ("p-0", "p-1", "d-1")],
    )
    tracked.complete()

    decided = bench.records[-1].decision
    assert decided is not msgspec.UNSET
    assert [(pick.role, loads(pick)) for pick in decided.picks] == [
        ("prefill", {"p-0": 0, "p-1": 1, "d-1": 1}),
        ("decode", {"d-0": 0, "d-1": 0}),
    ]
    assert all(one.is_tracked for one in busy)


def test_what_is_named_again_is_not_kept_again(bench: Bench) -> None:
    """However often a route becomes known better, the candidates for a role are kept once."""
    candidates, prefill, decode = [scored("qwen-0", 1)], bare("p-0"), bare("qwen-0")
    tracked = bench.tracker.track(start(route=Route(decode, prefill, decode)))
    for _ in range(3):
        tracked.extend(Route(decode, prefill, decode), candidates)

    lifecycle = bench.tracker.store.find("request-1")
    assert lifecycle is not None
    noted = lifecycle.dispatch.start.candidates
    assert isinstance(noted, Considered)
    assert [len(rounds) for rounds in noted.dispatches] == [1]


UNUSABLE: list[Any] = ["qwen-1", Endpoint(cast("str", ["llm"]), "qwen-1")]


@pytest.mark.parametrize("others", [0, 100])
@pytest.mark.parametrize("count", [3, 200])
@pytest.mark.parametrize("bad", UNUSABLE)
def test_candidates_without_a_usable_endpoint(
    bench: Bench, bad: Any, count: int, others: int
) -> None:
    """They cost the request its ranking, not its record."""
    for number in range(others):
        bench.tracker.store.add_endpoint(endpoint(f"other-{number}"))

    found = decision(bench, considered(*[Candidate(bad, 1.0)] * count))

    assert found is None
    assert [record.candidates for record in bench.records] == [count]
    assert not bench.tracker.store.ignored


class Similar(NamedTuple):
    """A candidate of the router's own."""

    endpoint: Endpoint
    role: str = ""
    score: float = 1.0


@pytest.mark.parametrize("count", [3, 200])
@pytest.mark.parametrize("good", [0, 2])
def test_candidates_of_another_type(bench: Bench, good: int, count: int) -> None:
    """They are left out, however much they look like candidates."""
    candidates = [scored(f"qwen-{number}", number) for number in range(good)]
    others = [Similar(endpoint(f"qwen-{number}")) for number in range(count)]

    found = decision(bench, considered(*candidates, *others))

    assert (found is None) == (good == 0)
    assert [record.candidates for record in bench.records] == [good + count]
    assert good == 0 or len(found["picks"][0]["candidates"]) == good
    assert not bench.tracker.store.ignored


def test_many_of_the_same_name(bench: Bench) -> None:
    """Pods of two namespaces are different endpoints, and those named twice count once."""
    candidates = [
        Candidate(Endpoint(namespace, f"qwen-{number}", f"qwen-{number}.local", "8000"), -number)
        for number in range(500)
        for namespace in ("blue", "llm", "blue")
    ]

    rank, margin, names = ranks(bench, considered(*candidates, pod="qwen-400"))

    assert (rank, margin, names[-1]) == (801, -400.0, "qwen-400")


def test_a_list_that_cannot_be_read(bench: Bench) -> None:
    """A sequence that raises costs the request its decision, not its record."""

    class Broken(list[Any]):
        def __iter__(self) -> Any:
            raise RuntimeError

    assert decision(bench, msgspec.structs.replace(start(), candidates=Broken([1, 2]))) is None
    assert [record.candidates for record in bench.records] == [2]


def test_a_span_tells_names_and_scores(bench: Bench) -> None:
    """What is read of a span has the candidates with their scores, and the numbers of the pick."""
    decision(bench, considered(scored("qwen-1", 4), scored("qwen-0", 2), scored("qwen-2", None)))

    (record,) = bench.records
    (span,) = bench.telemetry.spans
    read = record_from_span(span)
    assert record.decision is not msgspec.UNSET
    for candidate in record.decision.picks[0].candidates:
        candidate.inflight = None
    assert read == record


def test_margin_and_regret_are_measured(bench: Bench) -> None:
    """By policy and role; a better one that was passed over is a margin of 0."""
    predicted = LatencyPrediction(30.0), LatencyPrediction(20.0)
    first = [
        scored("qwen-0", 5, prediction=predicted[0]),
        scored("qwen-1", 3, prediction=predicted[1]),
    ]
    decision(bench, considered(*first))
    decision(bench, considered(scored("qwen-0", 1), scored("qwen-1", 3)))

    key = frozenset(
        {("llm_router.route.policy", "prefix+load"), ("llm_router.decision.role", "leader")}
    )
    sums, metrics = bench.telemetry.histogram_sums(), bench.telemetry.metrics()
    assert sums["llm_router.decision.margin"] == {key: 2.0}
    assert sums["llm_router.decision.regret"] == {key: 0.01}
    assert metrics["llm_router.decision.margin"] == {key: 2}
    assert metrics["llm_router.decision.regret"] == {key: 1}
