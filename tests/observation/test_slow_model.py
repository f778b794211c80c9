"""A trained model that takes long to load, and the log that is observed meanwhile."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from otel_lifecycle.model import LatencyPrediction
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.observation.observatory import Observatory, Options
from otel_lifecycle.prediction.shadow import InFlight, ShadowPrediction
from tests.observation.entries import whole

_SHADOW = "otel_lifecycle.prediction.shadow"


class Model:
    """Predicts the same for every request."""

    async def predict(self, inputs: Sequence[PredictionInput]) -> Sequence[LatencyPrediction]:
        return [LatencyPrediction(ttft_ms=40.0)] * len(inputs)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log of one request."""
    monkeypatch.setenv("OTEL_LIFECYCLE_PREDICTION_MODEL", "slow")
    path = tmp_path / "access.log"
    path.write_bytes(b"".join(line + b"\n" for line in whole()))
    return path


def observed(log: Path) -> tuple[list[str], list[str]]:
    """The prediction mode of each record, and what the user is told."""
    output, told = io.StringIO(), list[str]()
    options = Options(log, "", None, None, None, abandon_after=60.0)
    observatory = Observatory(options, output, told.append)
    try:
        observatory.run(follow=False)
    finally:
        observatory.close()
    return [json.loads(line)["predictionMode"] for line in output.getvalue().splitlines()], told


def test_waits_for_the_model(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked of a model before it is loaded: the first request has its prediction."""
    is_loaded = threading.Event()
    asked: list[bool] = []
    predict = ShadowPrediction.predict

    def load(_: str) -> Model:
        time.sleep(1.0)
        is_loaded.set()
        return Model()

    def ask(shadow: ShadowPrediction, request: InFlight) -> None:
        asked.append(is_loaded.is_set())
        predict(shadow, request)

    monkeypatch.setenv("OTEL_LIFECYCLE_PREDICTION_TIMEOUT", "60s")
    monkeypatch.setattr(f"{_SHADOW}._load", load)
    monkeypatch.setattr(ShadowPrediction, "predict", ask)

    assert observed(log) == (["shadow"], [])
    assert asked == [True]


def test_a_model_that_does_not_load(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so, and the log is read."""
    is_observed = threading.Event()

    def load(_: str) -> Model:
        is_observed.wait(60.0)
        return Model()

    monkeypatch.setenv("OTEL_LIFECYCLE_PREDICTION_TIMEOUT", "200ms")
    monkeypatch.setattr(f"{_SHADOW}._EXCHANGE_SECONDS", 0.0)
    monkeypatch.setattr(f"{_SHADOW}._load", load)
    monkeypatch.setattr("otel_lifecycle.observation.observatory._LOAD_SECONDS", 0.0)
    monkeypatch.setattr("otel_lifecycle.observation.observatory._CLOSE_SECONDS", 0.0)

    try:
        modes, told = observed(log)
    finally:
        is_observed.set()

    assert modes == [""]
    assert told == [
        "prediction.model: slow: not loaded after 0 s; requests are recorded without a prediction "
        "until it is"
    ]
