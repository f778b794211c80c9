"""Ranks thousands of candidates in one pass, without looking closely at each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from heapq import nlargest
from operator import attrgetter, itemgetter
from typing import Final, cast

from otel_lifecycle.model import Endpoint
from otel_lifecycle.model.fields import MAX_MILLISECONDS
from otel_lifecycle.tracking.decisions.ranking import (
    NO_SCORE,
    Considerable,
    Entry,
    Ranking,
    predicted_ms,
    ranked,
    regret_of,
    score_of,
)

# A request in flight holds on to no more candidates of a role than this.
MOST_HELD: Final = 64

_NUMBERS: Final = frozenset({int, float})
_NAME, _ADDRESS = attrgetter("endpoint.name"), attrgetter("endpoint.address")


def rank_crowd(
    role: str,
    endpoint: Endpoint,
    given: Sequence[Considerable],
    look: Callable[[Sequence[Considerable]], list[Entry]],
) -> Ranking:
    """Ranks the candidates for a role; only the best are looked up and held, and the chosen one.

    Rank, margin and regret are among all of them.

    Args:
        role: The role.
        endpoint: The chosen endpoint.
        given: The candidates, in any order.
        look: Looks candidates up.
    """
    scores = _scores(given)
    ranking = ranked(role, endpoint, look(_best(given, scores)))
    if ranking.chosen is None:
        mine = _at(endpoint, given)
        if not mine:
            return ranking
        chosen = max(mine, key=score_of)
        ranking = ranked(role, endpoint, [*ranking.entries, *look([chosen])])
        score = score_of(chosen)
        if score > NO_SCORE:
            better = [one for one, other in zip(given, scores, strict=True) if other > score]
            ranking = ranking._replace(rank=_different(better) + 1)
    assert ranking.chosen is not None
    chosen = ranking.entries[ranking.chosen][0]
    return ranking._replace(regret_ms=_regret_ms(role, chosen, given)).first(MOST_HELD)


def _scores(given: Sequence[Considerable]) -> Sequence[float]:
    """The score of each, `NO_SCORE` if that is no finite number; most routers have only numbers."""
    scores = [cast("float", one.score) for one in given]
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


def _at(endpoint: Endpoint, given: Sequence[Considerable]) -> list[Considerable]:
    """Those at an endpoint; to make the identity of each would take ten times as long."""
    key = "name" if endpoint.name else "pod_name" if endpoint.pod_name else "address"
    value, identity = getattr(endpoint, key), endpoint.identity
    values = list(map(attrgetter(f"endpoint.{key}"), given))
    alike, place = list[Considerable](), -1
    for _ in range(values.count(value)):
        place = values.index(value, place + 1)
        alike.append(given[place])
    return [one for one in alike if one.endpoint.identity == identity]


def _different(given: Sequence[Considerable]) -> int:
    """How many different endpoints there are; most can be told apart by one attribute."""
    names = set(map(_NAME, given))
    if len(names) == len(given):
        return len(given)
    if names == {""} and len(set(map(_ADDRESS, given))) == len(given):
        return len(given)
    return len({one.endpoint.identity for one in given})


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
