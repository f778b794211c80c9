"""Predicts latency from the records of finished requests."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Protocol, cast

import anyio

from hermes_router.datastore import Endpoint
from hermes_router.endpoint import AGGREGATED, DECODE, PREFILL
from hermes_router.model import LatencyPredictionInfo
from hermes_router.record_tail import RecordTail
from hermes_router.ridge import Ridge

MIN_SAMPLES = 20
REFRESH_SECONDS = 2.0

TTFT, TPOT = "ttftMillis", "tpotMillis"
_TARGETS = {PREFILL: (TTFT,), DECODE: (TPOT,), AGGREGATED: (TTFT, TPOT)}


@dataclass(frozen=True)
class Prospect:
    """A request as it would meet an endpoint."""

    endpoint: Endpoint
    input_tokens: int
    prefix_score: float


class Predictor(Protocol):
    """Predicts the latencies of a request on each of its candidates."""

    def predict_all(
        self, role: str, prospects: Sequence[Prospect]
    ) -> Sequence[LatencyPredictionInfo]:
        """Return one prediction for each; called on the event loop."""
        ...


@dataclass(frozen=True)
class Features:
    """The features that latency depends on."""

    num_request_waiting: float
    num_request_running: float
    input_token_length: float
    prefix_cache_score: float
    inflight_tokens: float
    kv_cache_usage: float

    def vector(self) -> list[float]:
        """The inputs of the regression, scaled to similar size."""
        input_tokens = self.input_token_length / 1000
        return [
            1.0,
            self.num_request_waiting,
            self.num_request_running,
            input_tokens,
            input_tokens * (1 - self.prefix_cache_score),  # the tokens that prefill has to compute
            self.prefix_cache_score,
            self.inflight_tokens / 1000,
            self.kv_cache_usage,
        ]


FEATURE_COUNT = 8


def _observed_features(prospect: Prospect) -> Features | None:
    """Return the current features of an endpoint; None if a metric is unknown."""
    metrics = prospect.endpoint.metrics
    if (
        metrics is None
        or metrics.waiting_queue_size is None
        or metrics.running_requests_size is None
        or metrics.kv_cache_usage_percent is None
    ):
        return None
    return Features(
        num_request_waiting=metrics.waiting_queue_size,
        num_request_running=metrics.running_requests_size,
        input_token_length=prospect.input_tokens,
        prefix_cache_score=prospect.prefix_score,
        inflight_tokens=prospect.endpoint.inflight_tokens,
        kv_cache_usage=metrics.kv_cache_usage_percent,
    )


class LatencyPredictor:
    """One regression for each role and target, fed from a growing record file.

    A target with fewer than `MIN_SAMPLES` samples is not predicted.
    """

    def __init__(self, records: Path) -> None:
        self._tail = RecordTail(records)
        self._regressions: defaultdict[tuple[str, str], Ridge] = defaultdict(
            lambda: Ridge(FEATURE_COUNT)
        )
        self._coefficients: dict[tuple[str, str], list[float]] = {}

    async def run(self) -> None:
        """Learn until cancelled, off the event loop."""
        while True:
            await asyncio.to_thread(self.refresh)
            await anyio.sleep(REFRESH_SECONDS)

    def refresh(self) -> None:
        """Learn from new records."""
        for record in self._tail.read():
            self._learn(record)
        # Replaced as a whole: the event loop may predict meanwhile.
        self._coefficients = {
            key: regression.solve()
            for key, regression in self._regressions.items()
            if regression.samples >= MIN_SAMPLES
        }

    def predict_all(
        self, role: str, prospects: Sequence[Prospect]
    ) -> Sequence[LatencyPredictionInfo]:
        """Return one prediction for each; nothing is known of an endpoint without metrics."""
        features = [_observed_features(prospect) for prospect in prospects]
        return [self.predict(role, one) for one in features]

    def predict(self, role: str, features: Features | None) -> LatencyPredictionInfo:
        """Return the expected latencies in milliseconds; None where they are unknown."""
        if features is None:
            return LatencyPredictionInfo()
        vector = features.vector()
        return LatencyPredictionInfo(
            self._expect(role, TTFT, vector), self._expect(role, TPOT, vector)
        )

    def _expect(self, role: str, target: str, vector: Sequence[float]) -> float | None:
        coefficients = self._coefficients.get((role, target))
        if coefficients is None:
            return None
        pairs = zip(coefficients, vector, strict=True)
        millis = sum(coefficient * value for coefficient, value in pairs)
        return millis if millis > 0 else None  # outside the learned range

    def _learn(self, record: Mapping[str, Any]) -> None:
        if record.get("outcome") != "completed":
            return
        actual = _mapping(record.get("actual"))
        inputs = record.get("predictionInputs")
        for item in cast("list[object]", inputs) if isinstance(inputs, list) else []:
            pod_inputs = _mapping(item)
            features = _recorded_features(pod_inputs)
            if features is None:
                continue
            pod_type = pod_inputs.get("podType")
            role = pod_type if pod_type in (PREFILL, DECODE) else AGGREGATED
            for target in _TARGETS[role]:
                latency = _number(actual, target)
                if latency is not None:
                    self._regressions[role, target].add(features.vector(), latency)


def _recorded_features(pod_inputs: Mapping[str, Any]) -> Features | None:
    """Return the features in a record; None if one is missing (never 0)."""
    names = (
        "numRequestWaiting",
        "numRequestRunning",
        "inputTokenLength",
        "prefixCacheScore",
        "inflightTokens",
        "kvCacheUsage",
    )
    values = [_number(pod_inputs, name) for name in names]
    known = [value for value in values if value is not None]
    return Features(*known) if len(known) == len(names) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        return None
    return float(value)
