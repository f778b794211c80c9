"""Chooses endpoints by the scores of a policy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from hermes_router.datastore import Datastore, Endpoint
from hermes_router.endpoint import AGGREGATED, DECODE, LEADER, PREFILL, NamespacedName
from hermes_router.model import (
    LATENCY_PREDICTION,
    NPU_STATE,
    PD_GROUP,
    PREFIX_CACHE_MATCH,
    InferenceRequest,
    LatencyPredictionInfo,
    PDGroupInfo,
    PrefixCacheMatchInfo,
    ProfileRunResult,
    Route,
    ScheduledEndpoint,
    SchedulingResult,
    SelectedPod,
)
from hermes_router.policies import DEFAULT_POLICY, LOAD, POLICIES, PREDICTION, PREFIX
from hermes_router.predictor import Predictor, Prospect

PROFILE = "default"
EXPLORED = "explored"
HALVING_LOAD = 8  # number of requests that halves the score of an idle endpoint


@dataclass(frozen=True)
class Candidate:
    """An endpoint with the values that the scores need."""

    endpoint: Endpoint
    prefix: PrefixCacheMatchInfo | None
    prediction: LatencyPredictionInfo
    scores: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def score(self) -> float:
        """What it is ranked by."""
        return sum(self.scores.values(), 0.0)

    @property
    def load(self) -> float:
        """Requests ahead of the next one.

        The engine's metrics include other routers' requests but are late; the router's own count
        is up to date but includes only its own.
        """
        metrics, scraped = self.endpoint.metrics, 0
        if metrics is not None:
            scraped = (metrics.running_requests_size or 0) + (metrics.waiting_queue_size or 0)
        return max(self.endpoint.inflight_requests, scraped)

    def snapshot(self, group: PDGroupInfo | None = None) -> ScheduledEndpoint:
        """Return the current endpoint, for those who read the decision later."""
        attributes: dict[str, object] = {}
        if self.prefix is not None:
            attributes[PREFIX_CACHE_MATCH] = self.prefix
        if self.prediction != LatencyPredictionInfo():
            attributes[LATENCY_PREDICTION] = self.prediction
        if self.endpoint.npu is not None:
            attributes[NPU_STATE] = self.endpoint.npu
        if group is not None:
            attributes[PD_GROUP] = group
        return ScheduledEndpoint(
            self.endpoint.metadata, self.endpoint.metrics, attributes, self.score, self.scores
        )


class Scheduler:
    """Schedules for one mode: a single endpoint, or a leader with a prefill/decode pair.

    Args:
        datastore: The endpoints.
        mode: `aggregated` or `pd`.
        predictor: Predicts latencies; None: nothing is predicted.
        policy: A name in `POLICIES`.
        explore: The fraction of requests that goes to endpoints chosen by chance, so that records
            can tell what other policies would have achieved.
        seed: Seed of all chance.
    """

    def __init__(
        self,
        datastore: Datastore,
        mode: str,
        predictor: Predictor | None,
        policy: str = DEFAULT_POLICY,
        explore: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._datastore = datastore
        self._disaggregated = mode == "pd"
        self._predictor = predictor
        self._name = policy
        self._policy = POLICIES[policy]
        self._explore = explore
        self._chance = random.Random(seed)
        self._turns: Counter[str] = Counter()

    def schedule(
        self, request: InferenceRequest, excluded: Collection[NamespacedName] = ()
    ) -> SchedulingResult | None:
        """Return the decision for one attempt; None if a role has no endpoint left."""
        explored = self._explore > 0.0 and self._chance.random() < self._explore
        if self._disaggregated:
            return self._schedule_pair(request, excluded, explored)
        candidates = self._prefilling(request, self._available(AGGREGATED, excluded), AGGREGATED)
        if not candidates:
            return None
        ranked = self._ranked(candidates, explored)
        return self._result({PROFILE: _snapshots(ranked)}, None, ranked, explored)

    def _schedule_pair(
        self, request: InferenceRequest, excluded: Collection[NamespacedName], explored: bool
    ) -> SchedulingResult | None:
        leaders = [
            Candidate(endpoint, None, LatencyPredictionInfo())
            for endpoint in self._available(LEADER, excluded)
        ]
        prefills = self._prefilling(request, self._available(PREFILL, excluded), PREFILL)
        decode_endpoints = self._available(DECODE, excluded)
        if not (leaders and prefills and decode_endpoints):
            return None
        prefills = self._ranked(prefills, explored)
        prefill = prefills[0]
        decodes = self._decoding(request, decode_endpoints, prefill.prefix)
        decodes, leaders = self._ranked(decodes, explored), self._ranked(leaders, explored)
        decode, leader = decodes[0], leaders[0]
        group = PDGroupInfo(SelectedPod(prefill.snapshot()), SelectedPod(decode.snapshot()))
        route = Route(*(pick.endpoint.metadata for pick in (leader, prefill, decode)))
        profiles = {
            PROFILE: [leader.snapshot(group), *_snapshots(leaders[1:])],
            PREFILL: _snapshots(prefills),
            DECODE: _snapshots(decodes),
        }
        return self._result(profiles, route, [*leaders, *prefills, *decodes], explored)

    def _available(self, role: str, excluded: Collection[NamespacedName]) -> list[Endpoint]:
        endpoints = [
            endpoint
            for endpoint in self._datastore.with_role(role)
            if endpoint.metadata.namespaced_name not in excluded
        ]
        # If all failed recently, trying one is better than rejecting the request.
        return [endpoint for endpoint in endpoints if endpoint.reachable] or endpoints

    def _prefilling(
        self, request: InferenceRequest, endpoints: Sequence[Endpoint], role: str
    ) -> list[Candidate]:
        prefixes = [endpoint.match(request.prompt) for endpoint in endpoints]
        predictions = self._predict(request, endpoints, role, [prefix.score for prefix in prefixes])
        return list(map(Candidate, endpoints, prefixes, predictions))

    def _decoding(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        prefix: PrefixCacheMatchInfo | None,
    ) -> list[Candidate]:
        score = 0.0 if prefix is None else prefix.score
        predictions = self._predict(request, endpoints, DECODE, [score] * len(endpoints))
        return [
            Candidate(endpoint, None, prediction)
            for endpoint, prediction in zip(endpoints, predictions, strict=True)
        ]

    def _predict(
        self,
        request: InferenceRequest,
        endpoints: Sequence[Endpoint],
        role: str,
        prefix_scores: Sequence[float],
    ) -> Sequence[LatencyPredictionInfo]:
        if self._predictor is None:
            return [LatencyPredictionInfo()] * len(endpoints)
        prospects = [
            Prospect(endpoint, request.prompt_length, score)
            for endpoint, score in zip(endpoints, prefix_scores, strict=True)
        ]
        return self._predictor.predict_all(role, prospects)

    def _ranked(self, candidates: Sequence[Candidate], explored: bool) -> list[Candidate]:
        """The candidates with their scores, best first; any of them is first if explored."""
        scored = self._scored(candidates)
        if self._policy.in_turn:
            role = scored[0].endpoint.metadata.role
            first = self._turns[role] % len(scored)
            self._turns[role] += 1
            scored = [*scored[first:], *scored[:first]]
        else:
            self._chance.shuffle(scored)
        ranked = sorted(scored, key=lambda candidate: candidate.score, reverse=True)
        if explored:
            ranked.insert(0, ranked.pop(self._chance.randrange(len(ranked))))
        return ranked

    def _scored(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        ttfts = _relative([candidate.prediction.ttft for candidate in candidates])
        tpots = _relative([candidate.prediction.tpot for candidate in candidates])
        scored: list[Candidate] = []
        for candidate, ttft, tpot in zip(candidates, ttfts, tpots, strict=True):
            parts = {
                PREFIX: 0.0 if candidate.prefix is None else candidate.prefix.score,
                LOAD: 1 / (1 + candidate.load / HALVING_LOAD),
                PREDICTION: (ttft + tpot) / 2,
            }
            scores = {name: weight * parts[name] for name, weight in self._policy.weights.items()}
            scored.append(
                Candidate(candidate.endpoint, candidate.prefix, candidate.prediction, scores)
            )
        return scored

    def _result(
        self,
        profiles: Mapping[str, list[ScheduledEndpoint]],
        route: Route | None,
        candidates: Sequence[Candidate],
        explored: bool,
    ) -> SchedulingResult:
        return SchedulingResult(
            primary_profile_name=PROFILE,
            profile_results={name: ProfileRunResult(targets) for name, targets in profiles.items()},
            primary_route=route,
            candidates=len(candidates),
            policy=self._name,
            reason=EXPLORED if explored else "",
        )


def _relative(latencies: Sequence[float | None]) -> list[float]:
    """Return 1 for the shortest latency, 0.5 for twice as long; 0 for all if one is unknown."""
    known = [latency for latency in latencies if latency is not None]
    if len(known) < len(latencies):
        return [0.0] * len(latencies)
    return [min(known) / latency for latency in known]


def _snapshots(candidates: Sequence[Candidate]) -> list[ScheduledEndpoint]:
    return [candidate.snapshot() for candidate in candidates]
