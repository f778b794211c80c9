"""The recorded choices of endpoints, and how random they were."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

from otel_lifecycle.analysis.page.facts import Facts

_CHOICES = """SELECT considered,
    list_position(list_transform(considered, lambda c: c.name), prefilling), {met},
    if(outcome = 'completed', waited_ms, NULL), if(outcome = 'completed', tpot_ms, NULL)
FROM facts WHERE len(considered) > 1 AND recorded_candidates = candidates
    AND outcome <> 'client_disconnect' ORDER BY started, request_id"""
_UNLIKELY = 4.0  # standard errors; chance alone exceeds it once in 16,000 tests


class Option(NamedTuple):
    """An endpoint that was considered.

    Attributes:
        score: What the router ranked it by.
        cached: Cached fraction of the prompt, as the router expected.
        predicted_ms: Predicted TTFT.
        requests: Requests in flight.
    """

    score: float | None
    cached: float | None
    predicted_ms: float | None
    requests: int | None


class Choice(NamedTuple):
    """One choice and what came of it.

    Attributes:
        options: All endpoints that were considered.
        chosen: The position of the chosen one.
        good: Whether the request completed within the targets.
        ttft_ms: Time to first token; None if there was none. So is `tpot_ms`.
    """

    options: Sequence[Option]
    chosen: int
    good: float
    ttft_ms: float | None
    tpot_ms: float | None

    def best(self) -> list[int]:
        """Return the positions of the options with the highest score."""
        return best_of([_score(option) for option in self.options])

    def peers(self) -> list[int]:
        """Return the options that chance decides between, if it does: the best, or the others."""
        best = self.best()
        if self.chosen in best:
            return best
        return [position for position in range(len(self.options)) if position not in best]


def choices(facts: Facts) -> list[Choice]:
    """Return the choices of which every candidate is recorded, in order of time.

    Of a prefill/decode route these are the choices of the prefill endpoint.
    """
    rows = facts.rows(_CHOICES.format(met=facts.targets.met()))
    return [
        Choice([_option(one) for one in considered], position - 1, float(good), ttft_ms, tpot_ms)
        for considered, position, good, ttft_ms, tpot_ms in rows
        if position
    ]


class Chance(NamedTuple):
    """How chance took part: with `explored` any option, else one of those with the best score.

    Attributes:
        explored: The fraction of choices that any option could have won.
        is_blind: Whether those that won by chance look like their peers. If not, something decided
            that is not recorded, and no probability is known.
    """

    explored: float
    is_blind: bool

    def probabilities(self, choice: Choice) -> list[float]:
        """Return how probable the choice of each option was."""
        best = choice.best()
        result = [self.explored / len(choice.options)] * len(choice.options)
        for position in best:
            result[position] += (1 - self.explored) / len(best)
        return result


def chance(made: Sequence[Choice]) -> Chance:
    """Return how chance took part in choices."""
    passed_over = possible = 0.0
    for choice in made:
        best = choice.best()
        passed_over += choice.chosen not in best
        possible += 1 - len(best) / len(choice.options)
    explored = min(1.0, passed_over / possible) if possible else 0.0
    features = ("cached", "predicted_ms", "requests")
    is_blind = all(_is_blind(list(_differences(made, name))) for name in features)
    return Chance(explored, is_blind)


def best_of(values: Sequence[float]) -> list[int]:
    """Return the positions of the highest value."""
    highest = max(values)
    return [position for position, value in enumerate(values) if value == highest]


def _option(candidate: dict[str, Any]) -> Option:
    return Option(
        candidate["score"], candidate["cached"], candidate["predicted"], candidate["requests"]
    )


def _score(option: Option) -> float:
    return -math.inf if option.score is None else option.score


def _differences(made: Sequence[Choice], feature: str) -> Iterator[float]:
    """The chosen option's feature minus the mean of its peers', where there are peers."""
    for choice in made:
        peers = choice.peers()
        values = [getattr(choice.options[position], feature) for position in peers]
        if len(peers) > 1 and None not in values:
            yield getattr(choice.options[choice.chosen], feature) - fmean(values)


def _is_blind(differences: Sequence[float]) -> bool:
    if len(differences) < 2:
        return True
    error = stdev(differences) / math.sqrt(len(differences))
    return abs(fmean(differences)) <= _UNLIKELY * error
