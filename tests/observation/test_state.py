"""What is known of the endpoints, and predicted, when a request is dispatched."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any, cast

import pytest

from otel_lifecycle.config.prediction import PredictionConfig
from otel_lifecycle.model import EndpointMetrics, LatencyPrediction
from otel_lifecycle.model.endpoint_state import Collected
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.prediction.shadow import ShadowPrediction
from otel_lifecycle.tracking.lifecycle import Lifecycle
from tests.observation.entries import ARRIVED_US, Joined, end, ready, start, upstream_end, whole
from tests.waiting import eventually

SECOND_NS = 1_000_000_000


class ClockAt:
    """A clock that stands still, so long after the arrival of the requests."""

    def __init__(self, seconds: float) -> None:
        self._now_ns = ARRIVED_US * 1_000 + round(seconds * SECOND_NS)

    def wall_ns(self) -> int:
        return self._now_ns

    def monotonic_ns(self) -> int:
        return self._now_ns


@pytest.mark.parametrize(("seconds", "known"), [(1.0, True), (3600.0, False)])
def test_collected_state(seconds: float, known: bool) -> None:
    """What was collected is recorded, unless the log is read much later than it was written."""
    joined = Joined(clock=ClockAt(seconds))
    joined.store.collector = cast("Any", object())  # that there is one is all that counts
    joined.take(whole("first"))
    (state,) = joined.store.endpoints()
    at = datetime.fromtimestamp(ARRIVED_US / 1e6, timezone.utc)
    state.collected = Collected(EndpointMetrics(running_requests=7, update_time=at))
    joined.take(whole("second"))
    route = joined.records[1].selected_route

    assert route is not None
    assert (route.leader.metrics is not None) == known
    (inputs,) = joined.records[1].prediction_inputs
    assert inputs.num_request_running == (7 if known else None)


class Shadow:
    """Predicts the same for every request."""

    def __init__(self) -> None:
        self.learned: list[LifecycleRecord] = []

    def predict(self, request: Lifecycle) -> None:
        request.shadow = (request.record, LatencyPrediction(ttft_ms=40.0))

    def learn(self, record: LifecycleRecord) -> None:
        self.learned.append(record)


def test_shadow_prediction() -> None:
    """Latencies are predicted at the dispatch, and the finished record is learnt from."""
    shadow = Shadow()
    joined = Joined(shadow=shadow).take([start(), ready(), upstream_end(), end()])
    (record,) = joined.records

    assert record.prediction_mode == "shadow"
    assert record.prediction_error.ttft_ms == pytest.approx(47.9 - 40.0)
    assert shadow.learned == [record]


class Service:
    """A prediction service that accepts each question, and answers none while it hangs."""

    hangs = True

    def __init__(self, *_: object) -> None:
        """Take what a client is made of."""

    async def __aenter__(self) -> Service:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is open."""

    async def predict(self, inputs: Sequence[PredictionInput]) -> Sequence[LatencyPrediction]:
        if self.hangs:
            await asyncio.Event().wait()
        return [LatencyPrediction(ttft_ms=40.0)] * len(inputs)


def test_service_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for once, and again when it has answered in time."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        time.sleep(seconds)

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=sleep)
    monkeypatch.setattr("otel_lifecycle.prediction.shadow.time", clock)
    monkeypatch.setattr("otel_lifecycle.prediction.shadow._client", lambda _: Service)
    shadow = ShadowPrediction(PredictionConfig(url="http://127.0.0.1:9", timeout="200ms"))
    joined = Joined(shadow=shadow)
    ids = map(str, itertools.count())

    def is_waited_for() -> bool:
        waits.clear()
        joined.take(whole(next(ids)))
        return bool(waits)

    try:
        assert is_waited_for()
        assert not any(is_waited_for() for _ in range(100))
        assert {record.prediction_mode for record in joined.records} == {""}
        monkeypatch.setattr(Service, "hangs", False)
        eventually(lambda: is_waited_for() and joined.records[-1].prediction_mode == "shadow")
    finally:
        shadow.close(5.0)
