"""Notes what a router considered at each dispatch, and makes the record's decisions of it later.

On the path of a request only the load of each candidate is looked up. Ranking, cleaning and
building wait until the record is made.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from itertools import islice
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias, cast

import msgspec

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import Candidate, Endpoint, LatencyPrediction, RequestStart, sanitize
from otel_lifecycle.model.decision import (
    NOT_A_CANDIDATE,
    ROLES,
    Decision,
    Pick,
    RecordedCandidate,
)
from otel_lifecycle.model.endpoint import EndpointMetrics, Load
from otel_lifecycle.model.endpoint_state import Collected, EndpointState
from otel_lifecycle.model.latency import is_prediction
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import Route
from otel_lifecycle.model.timestamps import datetime_to_ns
from otel_lifecycle.tracking.scheduling import NOBODY, ScoredTarget

# A request in flight holds on to no more candidates of a role than this.
_MAX_HELD: Final = 64
_MAX_SCORES: Final = 16
_MAX_REROUTES: Final = 64
_NO_STATE: Final = (0, 0, None, None)
_NO_SCORE: Final = -math.inf

# A candidate with requests and tokens in flight on it, and what was collected and said of it.
_Candidate: TypeAlias = Candidate | ScoredTarget
_Entry: TypeAlias = tuple[_Candidate, int, int, Collected | None, EndpointMetrics | None]


class _Ranking(NamedTuple):
    """The candidates for one role.

    Attributes:
        role: The role.
        endpoint: The chosen endpoint.
        entries: Different candidates, best first.
        chosen: Index of the chosen one; None if it is not among them.
        rank: As `Pick.chosen_rank`.
        margin: As `Pick.margin`.
        regret_ms: As `Pick.regret_ms`.
    """

    role: str
    endpoint: Endpoint
    entries: Sequence[_Entry]
    chosen: int | None
    rank: int | None
    margin: float | None
    regret_ms: float | None

    def first(self, limit: int) -> _Ranking:
        """The same with the first `limit` entries; the last is the chosen one if need be."""
        entries, chosen = self.entries, self.chosen
        if chosen is None or chosen < limit:
            return self._replace(entries=entries[:limit])
        return self._replace(entries=(*entries[: limit - 1], entries[chosen]), chosen=limit - 1)


class _Round(NamedTuple):
    """What was considered at one dispatch.

    Attributes:
        at_ns: When, Unix nanoseconds.
        route: Where it went.
        reason: The router's reason.
        filtered: How many endpoints it did not rank.
        entries: What it considered.
        rankings: The same, if they were too many to be held.
    """

    at_ns: int
    route: Route
    reason: object
    filtered: object
    entries: Sequence[_Entry]
    rankings: Sequence[_Ranking] = ()

    @property
    def roles(self) -> set[str]:
        """The roles that there are candidates for."""
        return {_role(entry[0]) for entry in self.entries} | {
            ranking.role for ranking in self.rankings
        }


class Considered:
    """What a router considered for one request; takes the place of `RequestStart.candidates`.

    Attributes:
        notes: What noted it.
        count: The number of candidates at the last dispatch that named any.
        rounds: One for each dispatch; None where the router named no candidates.
    """

    __slots__ = ("count", "notes", "rounds")

    def __init__(self, notes: DecisionNotes, count: int, rounds: tuple[_Round | None, ...]) -> None:
        self.notes = notes
        self.count = count
        self.rounds = rounds

    def __len__(self) -> int:
        return self.count


class DecisionNotes:
    """Notes what the routers of one tracker consider; thread-safe.

    Args:
        states: The endpoints that the store knows, by identity.
        config: How many candidates to record, and when engine metrics count as stale.

    Attributes:
        limit: How many candidates of a pick to record.
        stale_after_ns: Age from which engine metrics count as stale; 0 never.
    """

    def __init__(self, states: Mapping[Hashable, EndpointState], config: TrackerConfig) -> None:
        self._states = states
        self.limit = config.decision_candidates
        self.stale_after_ns = round(config.stale_after.total_seconds() * 1e9)

    def take(self, start: RequestStart, at_ns: int) -> RequestStart:
        """Returns a start whose candidates are copied, with their load at this moment.

        Args:
            start: What the router says.
            at_ns: When, Unix nanoseconds.
        """
        given = start.candidates
        if given is None or type(given) is int or isinstance(given, Considered):
            return start
        if not isinstance(given, Sized) or isinstance(given, (str, bytes)):
            return start
        considered = Considered(self, len(given), (self._round(start, given, at_ns),))
        return _with(start, considered if considered.rounds[0] else considered.count)

    def take_again(
        self, old: RequestStart, new: RequestStart, at_ns: int, reason: str | None
    ) -> RequestStart:
        """Returns the start of a request in flight, with what was considered before.

        Args:
            old: What the router said before.
            new: What it says now.
            at_ns: When, Unix nanoseconds.
            reason: Why it is dispatched again; None when its route is known better.
        """
        before = old.candidates if isinstance(old.candidates, Considered) else None
        is_news = new.candidates is not old.candidates
        new = self.take(new, at_ns)
        now = new.candidates if is_news and isinstance(new.candidates, Considered) else None
        if before is None and now is None:
            return new
        rounds = (None,) if before is None else before.rounds
        latest = None if now is None else now.rounds[0]
        if reason is not None:
            first, *later = rounds
            rounds = (first, *[*later, latest][-_MAX_REROUTES:])
        else:
            rounds = (*rounds[:-1], _extended(rounds[-1], latest, new.route))
        counted = new.candidates if is_news else old.candidates
        count = len(counted) if isinstance(counted, Sized) else sanitize.count(counted)
        return _with(new, Considered(self, count or 0, rounds))

    def _round(self, start: RequestStart, given: Sized, at_ns: int) -> _Round | None:
        if start.route is None:
            return None
        try:
            entries = self._look(cast("Iterable[object]", given))
        except Exception:  # a sequence of the router's own, that cannot be read
            return None
        if not entries:
            return None
        noted = _Round(at_ns, start.route, start.decision_reason, start.filtered, entries)
        if len(entries) > _MAX_HELD:
            rankings = [ranking.first(_MAX_HELD) for ranking in _rankings(noted)]
            noted = noted._replace(entries=(), rankings=rankings)
        return noted

    def _look(self, given: Iterable[object]) -> list[_Entry]:
        states, entries = self._states, list[_Entry]()
        for candidate in given:
            if isinstance(candidate, Candidate):
                identity = candidate.endpoint.identity
            elif isinstance(candidate, ScoredTarget):
                identity = candidate.identity
                if identity == NOBODY:
                    continue
            else:
                continue
            state = states.get(identity)
            entries.append(
                (candidate, *_NO_STATE)
                if state is None
                else (candidate, state.requests, state.tokens, state.collected, state.metrics)
            )
        return entries


def decide(record: LifecycleRecord, start: RequestStart) -> None:
    """Sets the decisions of a record, as far as the router named candidates.

    Args:
        record: The record, with its reroutes.
        start: What the router said; `DecisionNotes` has been told.
    """
    considered = start.candidates
    if not isinstance(considered, Considered):
        return
    first, *later = considered.rounds
    notes = considered.notes
    if first is not None:
        record.decision = _decision(first, notes)
    if any(later):
        # Both lists are cut at their beginning.
        changes = list(record.rerouted)
        for place, noted in enumerate(reversed(later), start=1):
            if noted is not None and place <= len(changes):
                decision = _decision(noted, notes)
                changes[-place] = msgspec.structs.replace(changes[-place], decision=decision)
        record.rerouted = changes


def invalid_candidate_values(start: RequestStart) -> int:
    """Returns how many of the router's numbers about candidates could not be used."""
    if not isinstance(start.candidates, Considered):
        return 0
    return sum(
        _invalid(entry[0])
        for noted in start.candidates.rounds
        if noted is not None
        for entry in (
            *noted.entries,
            *(entry for ranking in noted.rankings for entry in ranking.entries),
        )
    )


def _invalid(candidate: _Candidate) -> int:
    values = (
        (candidate.score, sanitize.score),
        (candidate.prefix_cache_score, sanitize.fraction),
    )
    lost = sum(given is not None and clean(given) is None for given, clean in values)
    return lost + (not _role(candidate))


def _extended(last: _Round | None, latest: _Round | None, route: Route | None) -> _Round | None:
    """What was considered at a dispatch whose route is known better now."""
    if last is None or route is None:
        return latest or last
    if latest is None:
        return last._replace(route=route)
    new = latest.roles - last.roles
    return last._replace(
        route=route,
        entries=(*last.entries, *(entry for entry in latest.entries if _role(entry[0]) in new)),
        rankings=(*last.rankings, *(one for one in latest.rankings if one.role in new)),
    )


def _with(start: RequestStart, candidates: object) -> RequestStart:
    changes: dict[str, Any] = {"candidates": candidates}
    return msgspec.structs.replace(start, **changes)


def _decision(noted: _Round, notes: DecisionNotes) -> Decision:
    rankings = (*noted.rankings, *_rankings(noted))
    reason = sanitize.text(noted.reason)
    if not reason and any(ranking.chosen is None for ranking in rankings):
        reason = NOT_A_CANDIDATE
    return Decision(
        reason, sanitize.count(noted.filtered), [_pick(one, noted, notes) for one in rankings]
    )


def _pick(ranking: _Ranking, noted: _Round, notes: DecisionNotes) -> Pick:
    limit = notes.limit if ranking.chosen is not None else notes.limit - 1
    oldest_ns = noted.at_ns - notes.stale_after_ns if notes.stale_after_ns else 0
    candidates = [_recorded(entry, oldest_ns) for entry in ranking.first(limit).entries]
    if ranking.chosen is None:
        candidates.append(_identified(ranking.endpoint))
    return Pick(ranking.role, ranking.rank, ranking.margin, ranking.regret_ms, candidates)


def _rankings(noted: _Round) -> list[_Ranking]:
    by_role: dict[str, list[_Entry]] = {}
    for entry in noted.entries:
        by_role.setdefault(_role(entry[0]), []).append(entry)
    return [_ranking(role, noted.route, by_role[role]) for role in ROLES if role in by_role]


def _ranking(role: str, route: Route, given: list[_Entry]) -> _Ranking:
    """Ranks the candidates for a role; of one that is named twice the better score counts."""
    endpoint = (getattr(route, role) or route.leader).endpoint
    different: dict[Hashable, tuple[float, _Entry]] = {}
    scored = [(_score(entry[0]), entry) for entry in given]
    for pair in sorted(scored, key=itemgetter(0), reverse=True):
        different.setdefault(pair[1][0].endpoint.identity, pair)
    scores = [score for score, _ in different.values()]
    entries = [entry for _, entry in different.values()]
    chosen = rank = margin = regret_ms = None
    if endpoint.identity in different:
        score, mine = different[endpoint.identity]
        chosen = entries.index(mine)
        if score > _NO_SCORE:
            rank = scores.index(score) + 1
            others = [*scores[:chosen][:1], *scores[chosen + 1 :][:1]]
            if others and others[0] > _NO_SCORE:
                margin = round(score - others[0], 9)
        regret_ms = _regret_ms(role, mine, entries)
    return _Ranking(role, endpoint, entries, chosen, rank, margin, regret_ms)


def _regret_ms(role: str, chosen: _Entry, entries: Iterable[_Entry]) -> float | None:
    mine_ms = _predicted_ms(role, chosen[0])
    if mine_ms is None:
        return None
    least_ms = mine_ms
    for entry in entries:
        latency_ms = _predicted_ms(role, entry[0])
        if latency_ms is None:
            return None
        least_ms = min(least_ms, latency_ms)
    return round(mine_ms - least_ms, 6)


def _predicted_ms(role: str, candidate: _Candidate) -> float | None:
    prediction = candidate.prediction
    if not isinstance(prediction, LatencyPrediction):
        return None
    return sanitize.milliseconds(prediction.tpot_ms if role == "decode" else prediction.ttft_ms)


def _score(candidate: _Candidate) -> float:
    score = sanitize.score(candidate.score)
    return _NO_SCORE if score is None else score


def _role(candidate: _Candidate) -> str:
    """The role it was considered for; empty if there is no such role."""
    role = candidate.role or "leader"
    return role if role in ROLES else ""


def _identified(endpoint: Endpoint) -> RecordedCandidate:
    name = "" if endpoint.name == endpoint.pod_name else sanitize.text(endpoint.name)
    return RecordedCandidate(sanitize.text(endpoint.id), name)


def _recorded(entry: _Entry, oldest_ns: int) -> RecordedCandidate:
    candidate, requests, tokens, collected, said = entry
    recorded = _identified(candidate.endpoint)
    recorded.score = sanitize.score(candidate.score)
    recorded.scores = _scores(candidate.scores)
    recorded.prefix_cache_score = sanitize.fraction(candidate.prefix_cache_score)
    prediction = candidate.prediction
    if isinstance(prediction, LatencyPrediction):
        predicted = LatencyPrediction(
            sanitize.milliseconds(prediction.ttft_ms), sanitize.milliseconds(prediction.tpot_ms)
        )
        recorded.prediction = predicted if is_prediction(predicted) else None
    recorded.inflight = Load(tokens, requests)
    metrics = candidate.metrics or (collected and collected.metrics) or said
    if isinstance(metrics, EndpointMetrics):
        updated = sanitize.moment(metrics.update_time)
        if updated is None or datetime_to_ns(updated) >= oldest_ns:
            recorded.waiting = sanitize.count(metrics.waiting_requests)
            recorded.kv_cache_usage = sanitize.fraction(metrics.kv_cache_usage)
    return recorded


def _scores(given: object) -> dict[str, float]:
    scores: dict[str, float] = {}
    if isinstance(given, Mapping):
        for name, value in islice(cast("Mapping[object, object]", given).items(), _MAX_SCORES):
            score = sanitize.score(value)
            if score is not None:
                scores[sanitize.text(name)] = score
    return scores
