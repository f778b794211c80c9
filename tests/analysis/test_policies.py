"""Judging policies: estimates hold the truth, where it is known."""

from __future__ import annotations

import random
from statistics import fmean

import msgspec
import pytest

from otel_lifecycle import Candidate, LatencyPrediction, Route
from otel_lifecycle.analysis.page.facts import Facts, Targets
from otel_lifecycle.analysis.policies.intervals import Estimate, mean, ratio
from otel_lifecycle.analysis.policies.judgement import Judgement, judge
from otel_lifecycle.analysis.policies.measures import measure
from otel_lifecycle.analysis.tables import Records
from tests.conftest import Bench
from tests.routes import bare, endpoint, start

PODS = ("qwen-0", "qwen-1", "qwen-2")
TARGET_MS = 150.0


def run(
    bench: Bench, explore: float, hidden: bool = False, requests: int = 600
) -> dict[str, float]:
    """Route requests; return the true goodput of policies.

    An endpoint's latency is about the predicted one, and qwen-0 is faster than predicted. The
    router prefers qwen-0, or with `hidden` the fastest, for a reason that no record tells.
    """
    chance = random.Random(7)
    good: dict[str, list[bool]] = {"prediction": [], "prefix": [], "random": []}
    for number in range(requests):
        predicted = [chance.uniform(50, 300) for _ in PODS]
        cached = [chance.choice((0.0, 0.5)) for _ in PODS]
        actual = [
            predicted[pod] * chance.uniform(0.8, 1.2) * (0.7 if pod == 0 else 1.0)
            for pod in range(len(PODS))
        ]
        is_good = [latency <= TARGET_MS for latency in actual]
        fastest = predicted.index(min(predicted))
        most = [pod for pod, share in enumerate(cached) if share == max(cached)]
        good["prediction"].append(is_good[fastest])
        good["prefix"].append(fmean(is_good[pod] for pod in most) >= chance.random())
        good["random"].append(is_good[chance.randrange(len(PODS))])
        preferred = fastest if hidden else 0
        chosen = chance.randrange(len(PODS)) if chance.random() < explore else preferred
        candidates = [
            Candidate(
                endpoint(name),
                score=1.0 if hidden or pod != preferred else 2.0,
                prefix_cache_score=cached[pod],
                prediction=LatencyPrediction(predicted[pod]),
            )
            for pod, name in enumerate(PODS)
        ]
        request = start(f"request-{number}", Route(bare(PODS[chosen])))
        tracked = bench.tracker.track(msgspec.structs.replace(request, candidates=candidates))
        bench.clock.advance(actual[chosen])
        tracked.chunk()
        tracked.complete(output_tokens=2)
    return {name: fmean(values) for name, values in good.items()}


def judged(bench: Bench) -> dict[str, Judgement]:
    assert bench.tracker.flush(timeout=30)
    with Records(bench.path) as records:
        return judge(Facts(records, Targets(TARGET_MS)))


def holds(estimate: Estimate | None, truth: float) -> bool:
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= truth <= estimate.high


def test_estimates_hold_the_truth(bench: Bench) -> None:
    """With some chance in the choices, the intervals hold the goodput of the other policies."""
    truth = run(bench, explore=0.4)

    found = judged(bench)

    assert {name: found[name].method for name in truth} == dict.fromkeys(
        truth, "inverse propensity"
    )
    assert [name for name in truth if not holds(found[name].goodput, truth[name])] == []
    assert not holds(found["observed"].goodput, truth["random"])
    assert (found["prediction"].effective or 0) < found["prediction"].requests == 600


@pytest.mark.parametrize("hidden", [False, True])
def test_bounds_hold_the_truth(bench: Bench, hidden: bool) -> None:
    """Without chance, or if something unrecorded decides, there are only bounds of goodput."""
    truth = run(bench, explore=0.0, hidden=hidden)

    found = judged(bench)

    for name, value in truth.items():
        judgement = found[name]
        assert (judgement.method, judgement.effective, judgement.ttft_ms) == ("bounds", None, None)
        assert judgement.goodput is not None
        assert judgement.goodput.value is None
        assert holds(judgement.goodput, value)


def test_measures(bench: Bench) -> None:
    """An endpoint that was never chosen counts for the balance; regret is of the prefill."""
    run(bench, explore=0.0, requests=60)
    assert bench.tracker.flush(timeout=30)

    with Records(bench.path) as records:
        found = measure(records, Targets(TARGET_MS))

    assert found.busiest == 3.0
    assert found.cached is None
    assert found.regret_ms is not None
    assert found.regret_ms > 0
    assert found.goodput is not None
    assert 0 < found.goodput < 1


def test_the_role_that_most_requests_prefill_in(bench: Bench) -> None:
    """A single fallback from pairs, to one of four endpoints, does not make the balance."""
    decode = bare("qwen-d")
    for number in range(8):
        pair = Route(decode, bare(f"qwen-{number % 2}"), decode)
        bench.tracker.track(start(f"pair-{number}", pair)).complete()
    alone = start("alone", Route(bare(PODS[0])))
    candidates = [Candidate(endpoint(name), score=1.0) for name in (*PODS, "qwen-3")]
    bench.tracker.track(msgspec.structs.replace(alone, candidates=candidates)).complete()
    assert bench.tracker.flush(timeout=30)

    with Records(bench.path) as records:
        assert measure(records, Targets(TARGET_MS)).busiest == 1.0


def test_intervals() -> None:
    """Few values give the wide interval of Student's t; a single one gives none."""
    three = mean([1.0, 2.0, 3.0])

    assert mean([4.0]) == Estimate(4.0)
    assert (three.value, three.low, three.high) == pytest.approx((2.0, -0.4841, 4.4841), abs=1e-3)
    assert ratio([(1.0, 0.0)], 2) is None
    assert ratio([(1.0, 2.0), (3.0, 4.0)], 20) == Estimate(4 / 6)
    same = ratio([(1.0, 2.0)] * 40, 20)
    assert same is not None
    assert (same.value, same.low, same.high) == pytest.approx((0.5, 0.5, 0.5))
