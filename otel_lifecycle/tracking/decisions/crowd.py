"""Ranks thousands of candidates in one pass, without looking closely at each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from heapq import nlargest
from operator import attrgetter, itemgetter
from typing import Any, Final, cast

from otel_lifecycle.model import Candidate, Endpoint
from otel_lifecycle.model.fields import MAX_MILLISECONDS
from otel_lifecycle.tracking.decisions.ranking import (
    NO_SCORE,
    Considerable,
    Ranking,
    predicted_ms,
    ranked,
    regret_of,
    score_of,
)

# A request in flight holds on to no more candidates of a role than this.
MOST_HELD: Final = 64

_NUMBERS: Final = frozenset({int, float})


def rank_crowd(role: str, endpoint: Endpoint, given: Sequence[Considerable]) -> Ranking:
    """Ranks the candidates for a role; only the best are held, and the chosen one.

    Rank, margin and regret are among all of them.

    Args:
        role: The role.
        endpoint: The chosen endpoint.
        given: The candidates, in any order.
    """
    scores = _scores(given)
    ranking = ranked(role, endpoint, _best(given, scores))
    if ranking.chosen is None:
        keys = _keys(given)
        mine = _at(endpoint, given, keys)
        if not mine:
            return ranking
        chosen = max(mine, key=score_of)
        ranking = ranked(role, endpoint, [*ranking.candidates, chosen])
        score = score_of(chosen)
        if score > NO_SCORE:
            ranking = ranking._replace(rank=_better(score, given, scores, keys) + 1)
    assert ranking.chosen is not None
    chosen = ranking.candidates[ranking.chosen]
    return ranking._replace(regret_ms=_regret_ms(role, chosen, given)).first(MOST_HELD)


def _scores(given: Sequence[Considerable]) -> Sequence[float]:
    """The score of each, `NO_SCORE` if that is no finite number; most routers have only numbers."""
    scores: list[float] = [one.score for one in cast("Sequence[Any]", given)]
    with suppress(OverflowError):
        if _NUMBERS.issuperset(map(type, scores)) and math.isfinite(sum(scores)):
            return scores
    return [
        NO_SCORE
        if (score := one.score) is None
        else score
        if type(score) is float and score - score == 0  # finite
        else score_of(one)
        for one in given
    ]


def _keys(given: Iterable[Considerable]) -> list[str]:
    """A part of the identity of each; to make the identities would take five times as long."""
    return [
        endpoint.name or endpoint.pod_name or endpoint.address
        for one in given
        for endpoint in (one.endpoint,)
    ]


def _at(
    endpoint: Endpoint, given: Sequence[Considerable], keys: Sequence[str]
) -> list[Considerable]:
    """Those at an endpoint."""
    (key,) = _keys([Candidate(endpoint)])
    alike, place = list[Considerable](), -1
    for _ in range(keys.count(key)):
        place = keys.index(key, place + 1)
        alike.append(given[place])
    return [one for one in alike if one.endpoint.identity == endpoint.identity]


def _better(
    score: float, given: Sequence[Considerable], scores: Sequence[float], keys: Sequence[str]
) -> int:
    """How many different endpoints have a better score; mostly their keys are different too."""
    better = [key for key, other in zip(keys, scores, strict=True) if other > score]
    if len(set(better)) == len(better):
        return len(better)
    return len(
        {one.endpoint.identity for one, other in zip(given, scores, strict=True) if other > score}
    )


def _best(given: Sequence[Considerable], scores: Sequence[float]) -> list[Considerable]:
    """As many of the best as are held; of equal ones the first."""
    least = nlargest(MOST_HELD, scores)[-1]
    best = [(score, one) for score, one in zip(scores, given, strict=True) if score >= least]
    if len(best) > MOST_HELD:
        best.sort(key=itemgetter(0), reverse=True)
    return [one for _, one in best[:MOST_HELD]]


def _regret_ms(role: str, chosen: Considerable, given: Sequence[Considerable]) -> float | None:
    mine_ms = predicted_ms(role, chosen)
    if mine_ms is None:
        return None
    field = "prediction.tpot_ms" if role == "decode" else "prediction.ttft_ms"
    try:
        latencies = cast("list[float]", list(map(attrgetter(field), given)))
        if min(latencies) >= 0 and sum(latencies) < MAX_MILLISECONDS:
            return round(mine_ms - min(latencies), 6)
    except (AttributeError, TypeError):  # some have no prediction
        pass
    return regret_of(role, chosen, given)
