"""The scored targets of all profiles in a scheduling result become the decision of the record."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec import UNSET

from otel_lifecycle import Candidate
from otel_lifecycle.model.decision import Decision
from tests.conftest import Bench
from tests.hooks import shapes
from tests.hooks.shapes import ProfileRunResult, Request, endpoint, identity, metadata, result


@dataclass
class Scored(shapes.ScheduledEndpoint):
    """GIE's `ScoredEndpoint`, with the parts of its score."""

    score: Any = None
    scores: dict[str, Any] = field(default_factory=dict[str, Any])


def scored(pod: str, score: Any, name: str = "", **attributes: Any) -> Scored:
    """A target about which everything is known."""
    known = endpoint(pod, name, **attributes)
    return Scored(known.metadata, known.metrics, known.attributes, score, {"load": score})


def decide(bench: Bench, scheduling_result: Any) -> Any:
    """The decision of a request, and the number of its candidates."""
    request = Request()
    bench.tracker.pre_request(request, scheduling_result)
    bench.tracker.response_body(request, shapes.last())
    record = bench.records[-1]
    return record.decision, record.candidates


def ids(decision: Decision | Any) -> dict[str, list[str]]:
    """The candidates of each role, best first."""
    return {
        pick.role: [candidate.id.removeprefix("pod://llm/") for candidate in pick.candidates]
        for pick in decision.picks
    }


def test_targets_with_scores(bench: Bench) -> None:
    """Each has what the scheduler knew of it; the count is the scheduler's own."""
    first = scored(
        "qwen-0", 2.0, prefix_cache=shapes.prefix_match(), prediction=shapes.prediction()
    )
    second = scored("qwen-1", 1.5, prediction=shapes.prediction(200.0, 0.0))

    decision, count = decide(bench, result(first, second))

    assert count == 8
    (pick,) = decision.picks
    assert (pick.role, pick.chosen_rank, pick.margin, pick.regret_ms) == ("leader", 1, 0.5, 10.0)
    best, other = pick.candidates
    assert (best.id, best.scores, best.prefix_cache_score) == (
        "pod://llm/qwen-0",
        {"load": 2.0},
        0.42,
    )
    assert (other.prediction.ttft_ms, other.prediction.tpot_ms) == (200.0, None)
    assert (other.waiting, other.kv_cache_usage) == (1, 0.31)


def test_profiles_of_a_pair(bench: Bench) -> None:
    """The profiles `prefill` and `decode` tell of these roles, and no others of anything."""
    leader = shapes.pd_leader()
    profiles = {
        "default": ProfileRunResult([leader]),
        "prefill": ProfileRunResult([scored("prefill-0", 2), scored("prefill-1", 1)]),
        "decode": ProfileRunResult([scored("decode-0", 0.2), scored("decode-1", 0.1)]),
        "shadow": ProfileRunResult([scored("shadow-0", 1)]),
        "failed": None,
    }

    decision, _ = decide(bench, result(profile_results=profiles, primary_route=shapes.pd_route()))

    assert ids(decision) == {
        "prefill": ["prefill-0", "prefill-1"],
        "decode": ["decode-0", "decode-1"],
    }


def test_ranks_of_one_pod(bench: Bench) -> None:
    """A name tells them apart, and the load of each is its own."""
    busy, request = scored("qwen-0", 1, "qwen-0-rank-0"), Request("other")
    bench.tracker.pre_request(request, result(busy))

    decision, _ = decide(bench, result(scored("qwen-0", 2, "qwen-0-rank-1"), busy))

    (pick,) = decision.picks
    assert [(one.name, one.inflight.requests) for one in pick.candidates] == [
        ("qwen-0-rank-1", 0),
        ("qwen-0-rank-0", 1),
    ]


def test_a_reason_and_what_was_filtered(bench: Bench) -> None:
    """Are told by the result, if it has them."""

    @dataclass
    class Result(shapes.SchedulingResult):
        reason: Any = "prefix_match"
        filtered: Any = 2

    targets = {"default": ProfileRunResult([scored("qwen-0", 1)])}

    decision, _ = decide(bench, Result(targets))
    assert (decision.reason, decision.filtered) == ("prefix_match", 2)
    decision, _ = decide(bench, Result(targets, reason=3.5, filtered="two"))
    assert (decision.reason, decision.filtered) == ("", None)


def test_candidates_of_ours(bench: Bench) -> None:
    """A result may have `Candidate` values, which are taken as they are."""
    candidates = [Candidate(identity("qwen-1"), 3.0), Candidate(identity("qwen-0"), 1.0)]

    decision, count = decide(bench, result(endpoint("qwen-0"), candidates=candidates))

    assert (count, ids(decision)) == (2, {"leader": ["qwen-1", "qwen-0"]})
    assert decision.picks[0].chosen_rank == 2


class Unreadable:
    """Raises whatever is asked of it."""

    metadata = metadata("qwen-0")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


@pytest.mark.parametrize(
    "targets",
    [
        [endpoint("qwen-0"), endpoint("qwen-1")],
        [scored("qwen-0", None)],
        [scored("qwen-0", "high")],
        [Unreadable()],
    ],
)
def test_without_scores_there_is_no_decision(bench: Bench, targets: list[Any]) -> None:
    """Fallbacks without a score are no candidates; the count stays."""
    decision, count = decide(bench, result(*targets))

    assert (decision, count) == (UNSET, 8)


def test_unusable_targets_are_left_out(bench: Bench) -> None:
    """The scores of the others are kept."""
    decision, _ = decide(bench, result(scored("qwen-0", 1), scored("qwen-1", float("nan")), None))

    (pick,) = decision.picks
    assert [candidate.score for candidate in pick.candidates] == [1.0, None]
