"""Makes the record's decisions of what was considered."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final, cast

import msgspec

from otel_lifecycle.model import Endpoint, LatencyPrediction, RequestStart, sanitize
from otel_lifecycle.model.decision import (
    NOT_A_CANDIDATE,
    Decision,
    Pick,
    RecordedCandidate,
)
from otel_lifecycle.model.endpoint import EndpointMetrics, Load
from otel_lifecycle.model.latency import is_prediction
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import datetime_to_ns
from otel_lifecycle.tracking.decisions.notes import Considered, DecisionNotes, Round
from otel_lifecycle.tracking.decisions.ranking import Considerable, Entry, Ranking, role_of

_MAX_SCORES: Final = 16


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


def _invalid(candidate: Considerable) -> int:
    values = (
        (candidate.score, sanitize.score),
        (candidate.prefix_cache_score, sanitize.fraction),
    )
    lost = sum(given is not None and clean(given) is None for given, clean in values)
    return lost + (not role_of(candidate))


def _decision(noted: Round, notes: DecisionNotes) -> Decision:
    rankings = noted.ranked()
    reason = sanitize.text(noted.reason)
    if not reason and any(ranking.chosen is None for ranking in rankings):
        reason = NOT_A_CANDIDATE
    return Decision(
        reason, sanitize.count(noted.filtered), [_pick(one, noted, notes) for one in rankings]
    )


def _pick(ranking: Ranking, noted: Round, notes: DecisionNotes) -> Pick:
    limit = notes.limit if ranking.chosen is not None else notes.limit - 1
    oldest_ns = noted.at_ns - notes.stale_after_ns if notes.stale_after_ns else 0
    candidates = [_recorded(entry, oldest_ns) for entry in ranking.first(limit).entries]
    if ranking.chosen is None:
        candidates.append(_identified(ranking.endpoint))
    return Pick(ranking.role, ranking.rank, ranking.margin, ranking.regret_ms, candidates)


def _identified(endpoint: Endpoint) -> RecordedCandidate:
    name = "" if endpoint.name == endpoint.pod_name else sanitize.text(endpoint.name)
    return RecordedCandidate(sanitize.text(endpoint.id), name)


def _recorded(entry: Entry, oldest_ns: int) -> RecordedCandidate:
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
