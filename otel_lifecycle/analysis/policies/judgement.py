"""Judges other policies by the records of requests that one policy routed.

What a request would have met elsewhere is not recorded. But where chance took part in the choices,
the requests that happened to go where another policy would have sent them stand for all: each
counts by the inverse of the probability of its choice. Without chance there are only bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import msgspec

from otel_lifecycle.analysis.page.facts import Facts
from otel_lifecycle.analysis.policies.choices import (
    Chance,
    Choice,
    Option,
    best_of,
    chance,
    choices,
)
from otel_lifecycle.analysis.policies.intervals import Estimate, ratio

OBSERVED, WEIGHTED, BOUNDED = "observed", "inverse propensity", "bounds"

_FEWEST_EFFECTIVE = 100
_LEAST_REACHABLE = 0.99
_BATCHES = 20  # consecutive, because neighbours share queues; each needs some requests


def _least(name: str) -> Callable[[Option], float | None]:
    def negative(option: Option) -> float | None:
        value = getattr(option, name)
        return None if value is None else -value

    return negative


TARGETS: Mapping[str, Callable[[Option], float | None]] = {
    "least_load": _least("requests"),
    "prediction": _least("predicted_ms"),
    "prefix": lambda option: option.cached,
    "random": lambda option: 0.0,
}
"""The policies that can be judged: what each ranks by; chance decides between equals."""


class Judgement(msgspec.Struct, frozen=True, rename="camel"):
    """What is known of a policy.

    Attributes:
        method: `observed`, `inverse propensity` or `bounds`.
        requests: Requests whose choice could be compared.
        agreement: Share of them that this policy would have sent to the same endpoint.
        effective: How many observed requests would be as precise; None for `bounds`.
        goodput: Share of requests within the targets; of `bounds` only the interval counts.
        ttft_ms: Mean time to first token; None for `bounds`. So is `tpot_ms`.
    """

    method: str
    requests: int
    agreement: float
    effective: float | None
    goodput: Estimate | None
    ttft_ms: Estimate | None
    tpot_ms: Estimate | None


class _Weighed(NamedTuple):
    choice: Choice
    wanted: float  # how probable the choice is under the judged policy
    weight: float
    reachable: float = 1.0  # how probable a choice is that the router could have made, too


def judge(facts: Facts) -> dict[str, Judgement]:
    """Return what the records say about the policy that routed, as `observed`, and about others.

    A policy whose inputs are not recorded is left out.
    """
    made = choices(facts)
    if not made:
        return {}
    by_chance = chance(made)
    has_targets = bool(facts.targets)
    observed = [_Weighed(choice, 1.0, 1.0) for choice in made]
    result = {OBSERVED: _weighted(OBSERVED, observed, has_targets)}
    for name, rank in TARGETS.items():
        weighed = list(filter(None, (_weighed(choice, rank, by_chance) for choice in made)))
        if not weighed:
            continue
        judgement = _weighted(WEIGHTED, weighed, has_targets)
        is_known = (
            by_chance.is_blind
            and fmean(one.reachable for one in weighed) >= _LEAST_REACHABLE
            and (judgement.effective or 0.0) >= _FEWEST_EFFECTIVE
        )
        result[name] = judgement if is_known else _bounded(weighed, has_targets)
    return result


def _weighed(
    choice: Choice, rank: Callable[[Option], float | None], by_chance: Chance
) -> _Weighed | None:
    ranks = [rank(option) for option in choice.options]
    known = [value for value in ranks if value is not None]
    if len(known) < len(ranks):
        return None
    best = best_of(known)
    probabilities = by_chance.probabilities(choice)
    reachable = sum(probabilities[position] > 0 for position in best) / len(best)
    wanted = 1 / len(best) if choice.chosen in best else 0.0
    weight = wanted / probabilities[choice.chosen] if wanted else 0.0
    return _Weighed(choice, wanted, weight, reachable)


def _weighted(method: str, weighed: Sequence[_Weighed], has_targets: bool) -> Judgement:
    def estimate(value: Callable[[Choice], float | None]) -> Estimate | None:
        known = [(one.weight, value(one.choice)) for one in weighed]
        return ratio([(weight * y, weight) for weight, y in known if y is not None], _BATCHES)

    total = sum(one.weight for one in weighed)
    squares = sum(one.weight**2 for one in weighed)
    return Judgement(
        method,
        len(weighed),
        _agreement(weighed),
        total**2 / squares if squares else 0.0,
        estimate(lambda choice: choice.good) if has_targets else None,
        estimate(lambda choice: choice.ttft_ms),
        estimate(lambda choice: choice.tpot_ms),
    )


def _bounded(weighed: Sequence[_Weighed], has_targets: bool) -> Judgement:
    goodput = None
    if has_targets:
        known = [(one.wanted * one.choice.good, 1.0) for one in weighed]
        unknown = [(one.wanted * one.choice.good + 1 - one.wanted, 1.0) for one in weighed]
        worst, best = ratio(known, _BATCHES), ratio(unknown, _BATCHES)
        if worst is not None and best is not None:
            low = worst.value if worst.low is None else worst.low
            high = best.value if best.high is None else best.high
            goodput = Estimate(None, max(0.0, low or 0.0), min(1.0, 1.0 if high is None else high))
    return Judgement(BOUNDED, len(weighed), _agreement(weighed), None, goodput, None, None)


def _agreement(weighed: Sequence[_Weighed]) -> float:
    return sum(one.wanted for one in weighed) / len(weighed)
