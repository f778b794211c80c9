"""Ranks the candidates for one role."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from operator import itemgetter
from typing import Final, NamedTuple, TypeAlias

from otel_lifecycle.model import Candidate, Endpoint, LatencyPrediction, sanitize
from otel_lifecycle.model.decision import ROLES
from otel_lifecycle.model.route import Route
from otel_lifecycle.tracking.scheduling import NOBODY, ScoredTarget

NO_SCORE: Final = -math.inf

Considerable: TypeAlias = Candidate | ScoredTarget


class Ranking(NamedTuple):
    """The candidates for one role.

    Attributes:
        role: The role.
        endpoint: The chosen endpoint.
        candidates: Different ones, best first.
        chosen: Index of the chosen one; None if it is not among them.
        rank: As `Pick.chosen_rank`.
        margin: As `Pick.margin`.
        regret_ms: As `Pick.regret_ms`.
    """

    role: str
    endpoint: Endpoint
    candidates: Sequence[Considerable]
    chosen: int | None
    rank: int | None
    margin: float | None
    regret_ms: float | None

    def first(self, limit: int) -> Ranking:
        """The same with the first `limit` of them; the last is the chosen one if need be."""
        candidates, chosen = self.candidates, self.chosen
        if chosen is None or chosen < limit:
            return self._replace(candidates=candidates[:limit])
        return self._replace(
            candidates=(*candidates[: limit - 1], candidates[chosen]), chosen=limit - 1
        )


def ranked(role: str, endpoint: Endpoint, given: Iterable[Considerable]) -> Ranking:
    """Ranks the candidates for a role; of one that is named twice the better score counts.

    Args:
        role: The role.
        endpoint: The chosen endpoint.
        given: The candidates, in any order.
    """
    different: dict[Hashable, tuple[float, Considerable]] = {}
    scored = [(score_of(candidate), candidate) for candidate in given]
    for pair in sorted(scored, key=itemgetter(0), reverse=True):
        identity = pair[1].endpoint.identity
        if identity != NOBODY or isinstance(pair[1], Candidate):
            different.setdefault(identity, pair)
    scores = [score for score, _ in different.values()]
    candidates = [candidate for _, candidate in different.values()]
    chosen = rank = margin = regret_ms = None
    if endpoint.identity in different:
        score, mine = different[endpoint.identity]
        chosen = list(different).index(endpoint.identity)
        if score > NO_SCORE:
            rank = scores.index(score) + 1
            others = [*scores[:chosen][:1], *scores[chosen + 1 :][:1]]
            if others and others[0] > NO_SCORE:
                margin = round(score - others[0], 9)
        regret_ms = regret_of(role, mine, candidates)
    return Ranking(role, endpoint, candidates, chosen, rank, margin, regret_ms)


def regret_of(role: str, chosen: Considerable, candidates: Iterable[Considerable]) -> float | None:
    """As `Pick.regret_ms`."""
    mine_ms = predicted_ms(role, chosen)
    if mine_ms is None:
        return None
    least_ms = mine_ms
    for candidate in candidates:
        latency_ms = predicted_ms(role, candidate)
        if latency_ms is None:
            return None
        least_ms = min(least_ms, latency_ms)
    return round(mine_ms - least_ms, 6)


def predicted_ms(role: str, candidate: Considerable) -> float | None:
    """The predicted latency that matters for a role; None is unknown."""
    prediction = candidate.prediction
    if not isinstance(prediction, LatencyPrediction):
        return None
    return sanitize.milliseconds(prediction.tpot_ms if role == "decode" else prediction.ttft_ms)


def score_of(candidate: Considerable) -> float:
    """What it was ranked by; `NO_SCORE` if that is no finite number."""
    score = sanitize.score(candidate.score)
    return NO_SCORE if score is None else score


def chosen_for(role: str, route: Route) -> Endpoint:
    """The endpoint of a route that was chosen for a role."""
    return (getattr(route, role) or route.leader).endpoint


def role_of(candidate: Considerable) -> str:
    """The role it was considered for; empty if there is no such role."""
    role = candidate.role or "leader"
    return role if role in ROLES else ""
