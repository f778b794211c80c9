"""What a picker told of a request, as a router would have said it itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from otel_lifecycle.model import Candidate, Endpoint, EndpointMetrics, LatencyPrediction
from otel_lifecycle.observation.picker.told import Considered, Predicted, ProfileRun, Told

Find: TypeAlias = Callable[[Considered], "Endpoint | None"]
_Value = TypeVar("_Value")

_PREFILL, _DECODE, _ENCODE = "prefill", "decode", "encode"
_NOTHING_PREDICTED = Predicted()


class Deciding(NamedTuple):
    """What is known of a decision; None and empty are unknown.

    Attributes:
        candidates: The candidates for each role of which enough are known to compare them.
        considered: How many candidates there were for all roles.
        policy: The scorers, with their weights if these are known.
        reason: Which kind of route the picker decided for.
        filtered: How many endpoints were dropped before the others were ranked.
        prefix_cache_score: As in the record.
        prediction: As in the record.
    """

    candidates: Sequence[Candidate] = ()
    considered: int | None = None
    policy: str = ""
    reason: str = ""
    filtered: int | None = None
    prefix_cache_score: float | None = None
    prediction: LatencyPrediction | None = None


class _Run(NamedTuple):
    """A run of a profile, with its candidates found; None: nobody knows that name."""

    run: ProfileRun
    endpoints: Sequence[Endpoint | None]

    def has(self, endpoint: Endpoint) -> bool:
        identity = endpoint.identity
        return any(one is not None and one.identity == identity for one in self.endpoints)


def deciding(
    told: Sequence[Told], find: Find, leader: Endpoint, prefill: Endpoint | None
) -> Deciding:
    """Return what is known of the decision for a route.

    Args:
        told: What each source tells, the most detailed first.
        find: Finds an endpoint by what the picker says of it.
        leader: The endpoint that was chosen.
        prefill: The prefill endpoint, of a pair.
    """
    main = "" if prefill is None else _DECODE
    chosen = {main: leader} if prefill is None else {main: leader, _PREFILL: prefill}
    runs: dict[str, list[ProfileRun]] = {role: [] for role in chosen}
    candidates: dict[str, list[Candidate]] = {}
    predictions = {name: one for each in reversed(told) for name, one in each.predictions.items()}
    for each in told:
        waiting = dict(chosen)
        for run in each.runs:
            found = _Run(run, [find(one) for one in run.candidates])
            role = _role(found, waiting)
            if role is None:
                continue
            endpoint = waiting.pop(role)
            runs[role].append(run)
            if role not in candidates and _is_comparable(found, endpoint):
                candidates[role] = _candidates(role, found, predictions)
    first = _chosen(candidates.get(_PREFILL if prefill else main, ()), prefill or leader)
    score = None if first is None else first.prefix_cache_score
    if score is None and prefill is None:
        score = _first(each.prefix_hit for each in told)
    counts = [max(run.count for run in each) for each in runs.values() if each]
    return Deciding(
        [candidate for each in candidates.values() for candidate in each],
        sum(counts) or None,
        _policy(runs[main]),
        _first(each.reason or None for each in told) or "",
        _first(run.filtered for run in runs[main]),
        score,
        _prediction(first, _chosen(candidates.get(main, ()), leader)),
    )


def prefill_of(told: Iterable[Told]) -> str:
    """Return the prefill endpoint that a picker tells of, `host:port`; empty: none."""
    return _first(each.prefill or None for each in told) or ""


def _role(found: _Run, waiting: Mapping[str, Endpoint]) -> str | None:
    """Return the role that a run chose for: by its name, else by whom it had to choose from.

    The main profile runs first, and logs below `-v=3` do not name any.
    """
    profile = found.run.profile
    if profile in (_PREFILL, _ENCODE, _DECODE) and profile in waiting:
        return profile
    if profile in (_PREFILL, _ENCODE):
        return None
    is_known = found.run.is_whole and None not in found.endpoints
    return _first(role for role, endpoint in waiting.items() if not is_known or found.has(endpoint))


def _is_comparable(found: _Run, chosen: Endpoint) -> bool:
    """Return whether the chosen endpoint can be compared with all others, or with the best."""
    if not found.endpoints or None in found.endpoints:
        return False
    return found.run.is_whole or found.has(chosen)


def _candidates(role: str, found: _Run, predictions: Mapping[str, Predicted]) -> list[Candidate]:
    return [
        _candidate(role, endpoint, each, found.run, predictions.get(each.name))
        for endpoint, each in zip(found.endpoints, found.run.candidates, strict=True)
        if endpoint is not None
    ]


def _candidate(
    role: str, endpoint: Endpoint, each: Considered, run: ProfileRun, predicted: Predicted | None
) -> Candidate:
    scores = {
        scorer: found[each.name] for scorer, found in run.scores.items() if each.name in found
    }
    prefix = _first(scores.get(scorer) for scorer in run.prefix_scorers)
    said = predicted or _NOTHING_PREDICTED
    metrics = None
    if each.updated is not None:
        metrics = EndpointMetrics(
            running_requests=each.running,
            waiting_requests=each.waiting,
            kv_cache_usage=each.kv_cache_usage,
            update_time=each.updated,
        )
    return Candidate(
        endpoint,
        each.score,
        scores,
        said.prefix_cache_score if prefix is None else prefix,
        None if predicted is None else LatencyPrediction(said.ttft_ms, said.tpot_ms),
        role,
        metrics,
    )


def _chosen(candidates: Iterable[Candidate], endpoint: Endpoint) -> Candidate | None:
    identity = endpoint.identity
    return _first(one for one in candidates if one.endpoint.identity == identity)


def _prediction(first: Candidate | None, last: Candidate | None) -> LatencyPrediction | None:
    """Return the TTFT of the endpoint that has the first token, and the TPOT of the last."""
    ttft_ms = None if first is None or first.prediction is None else first.prediction.ttft_ms
    tpot_ms = None if last is None or last.prediction is None else last.prediction.tpot_ms
    return None if ttft_ms is tpot_ms is None else LatencyPrediction(ttft_ms, tpot_ms)


def _policy(runs: Sequence[ProfileRun]) -> str:
    weights = _first(run.weights or None for run in runs)
    if weights is not None:
        return "+".join(f"{weights[name]:g}*{name}" for name in sorted(weights))
    return "+".join(sorted(_first(run.scores or None for run in runs) or ()))


def _first(values: Iterable[_Value | None]) -> _Value | None:
    return next((value for value in values if value is not None), None)
