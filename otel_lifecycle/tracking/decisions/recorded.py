"""Makes the record's decisions of what was considered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Final, cast

import msgspec

from otel_lifecycle.model import Endpoint, LatencyPrediction, RequestStart, sanitize
from otel_lifecycle.model.decision import (
    NOT_A_CANDIDATE,
    ROLES,
    Decision,
    Pick,
    RecordedCandidate,
)
from otel_lifecycle.model.endpoint import EndpointMetrics, Load
from otel_lifecycle.model.latency import is_prediction
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import datetime_to_ns
from otel_lifecycle.tracking.decisions.notes import Considered, DecisionNotes, Known, Round
from otel_lifecycle.tracking.decisions.ranking import Considerable, Ranking, role_of

_MAX_SCORES: Final = 16
_UNKNOWN: Final = (None, 0, 0, None, None)


def decide(record: LifecycleRecord, start: RequestStart) -> None:
    """Sets the decisions of a record, as far as the router named candidates.

    Args:
        record: The record, with its reroutes.
        start: What the router said; `DecisionNotes` has been told.
    """
    considered = start.candidates
    if not isinstance(considered, Considered):
        return
    first, *later = considered.dispatches
    notes = considered.notes
    record.decision = _decision(first, notes)
    if any(later):
        # Both lists are cut at their beginning.
        changes = list(record.rerouted)
        for place, rounds in enumerate(reversed(later), start=1):
            if place <= len(changes):
                decision = _decision(rounds, notes)
                changes[-place] = msgspec.structs.replace(changes[-place], decision=decision)
        record.rerouted = changes


def invalid_candidate_values(start: RequestStart) -> int:
    """Returns how many of the router's numbers about candidates could not be used."""
    if not isinstance(start.candidates, Considered):
        return 0
    return sum(
        _invalid(candidate)
        for rounds in start.candidates.dispatches
        for noted in rounds
        for candidate in noted.candidates
    )


def _invalid(candidate: Considerable) -> int:
    values = (
        (candidate.score, sanitize.score),
        (candidate.prefix_cache_score, sanitize.fraction),
    )
    lost = sum(given is not None and clean(given) is None for given, clean in values)
    return lost + (not role_of(candidate))


def _decision(rounds: Sequence[Round], notes: DecisionNotes) -> Decision | msgspec.UnsetType:
    ranked = [(ranking, noted) for noted in rounds for ranking in noted.ranked()]
    if not ranked:
        return msgspec.UNSET
    reason = sanitize.text(rounds[0].reason)
    if not reason and any(ranking.chosen is None for ranking, _ in ranked):
        reason = NOT_A_CANDIDATE
    ranked.sort(key=lambda each: ROLES.index(each[0].role))
    return Decision(
        reason, sanitize.count(rounds[0].filtered), [_pick(*each, notes) for each in ranked]
    )


def _pick(ranking: Ranking, noted: Round, notes: DecisionNotes) -> Pick:
    limit = notes.limit if ranking.chosen is not None else notes.limit - 1
    oldest_ns = noted.at_ns - notes.stale_after_ns if notes.stale_after_ns else 0
    known = {each[0].endpoint.identity: each for each in noted.known}
    candidates = [
        _recorded(one, known.get(one.endpoint.identity), oldest_ns)
        for one in ranking.first(limit).candidates
    ]
    if ranking.chosen is None:
        candidates.append(_identified(ranking.endpoint))
    return Pick(ranking.role, ranking.rank, ranking.margin, ranking.regret_ms, candidates)


def _identified(endpoint: Endpoint) -> RecordedCandidate:
    name = "" if endpoint.name == endpoint.pod_name else sanitize.text(endpoint.name)
    return RecordedCandidate(sanitize.text(endpoint.id), name)


def _recorded(candidate: Considerable, known: Known | None, oldest_ns: int) -> RecordedCandidate:
    _, requests, tokens, collected, said = known or _UNKNOWN
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
    if type(given) is dict and not given:
        return scores
    if isinstance(given, Mapping):
        for name, value in islice(cast("Mapping[object, object]", given).items(), _MAX_SCORES):
            score = sanitize.score(value)
            if score is not None:
                scores[sanitize.text(name)] = score
    return scores
