"""A predictor trained on records: how good it is, what it refuses, and who may ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from otel_lifecycle import Outcome
from otel_lifecycle.cli import main
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.prediction import LLMDPredictor
from otel_lifecycle.prediction.trained import TrainedModel, TrainedPredictor
from otel_lifecycle.prediction.trained.service import application
from tests.cli.records import write
from tests.prediction.learnable import Change, records


def test_is_better_than_the_alternatives(trained: Path) -> None:
    """Held out by time, it beats the median, a linear model and the router; the card says so."""
    judged = TrainedModel.load(trained).card["targets"]["ttft"]
    errors = judged["errors"]

    assert judged["rows"] + judged["held out"] <= 800
    assert errors["trained"] < 0.5 * errors["median"]
    assert errors["trained"] < 0.6 * errors["linear"]
    assert errors["trained where the router predicted"] < 0.6 * errors["router"]
    assert judged["importance"]["prefill_tokens"] > 0.1
    assert judged["importance"]["num_request_waiting"] == 0.0


def test_unknown_is_not_zero(trained: Path) -> None:
    """A feature that is unknown is not taken for 0, and predictions are of the right endpoints."""
    predictor = TrainedPredictor(TrainedModel.load(trained))
    known = PredictionInput(input_token_length=10_000, prefix_cache_score=0.0, prefill_tokens=0)
    busy, blank = PredictionInput("prefill", 10_000, 0.0, prefill_tokens=30_000), PredictionInput()
    idle, ahead, nothing = predictor.predict_now([known, busy, blank])

    assert ahead.ttft_ms is not None
    assert idle.ttft_ms is not None
    assert nothing.ttft_ms is not None
    assert ahead.ttft_ms > 2 * idle.ttft_ms
    assert ahead.tpot_ms is None
    assert nothing.ttft_ms > 20


def test_drift_is_told(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Records like those it knows are fine; engines that became slower are not."""

    def slower(_: int, fields: dict[str, Any]) -> None:
        fields["ttft_ms"] *= 3

    same = write(tmp_path / "same.jsonl", *records(100))
    other = write(tmp_path / "other.jsonl", *records(100, slower))

    assert main(["train", str(same), "--check", str(trained)]) == 0
    assert main(["train", str(other), "--check", str(trained)]) == 1
    assert "ttft: " in capsys.readouterr().out


def knows_the_future(_: int, fields: dict[str, Any]) -> None:
    """The router predicted what was measured."""
    fields["predicted"] = (fields["ttft_ms"], fields["tpot_ms"])


def one_endpoint(_: int, fields: dict[str, Any]) -> None:
    """All requests went to the same endpoint."""
    fields["prediction_inputs"][0].server_ip = "10.0.0.9"


def no_latencies(_: int, fields: dict[str, Any]) -> None:
    """No stream."""
    fields["ttft_ms"] = fields["tpot_ms"] = None


def errors_only(_: int, fields: dict[str, Any]) -> None:
    """Nothing completed."""
    fields["outcome"] = Outcome.ERROR


@pytest.mark.parametrize(
    ("count", "change"),
    [
        (10, lambda _, fields: None),
        (300, knows_the_future),
        (300, one_endpoint),
        (300, no_latencies),
        (300, errors_only),
    ],
)
def test_nothing_to_learn_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], count: int, change: Change
) -> None:
    """Records that nothing can be learnt from: one sentence, exit code 2, no model."""
    path = write(tmp_path / "records.jsonl", *records(count, change))

    assert main(["train", str(path), "-o", str(tmp_path / "m")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"schemaVersion":2,"requestId":"newer"}', "schemaVersion 2 is newer than 1"),
        (b'{"timestamp": 0, "input_length": 600}', "schemaVersion"),
    ],
    ids=["two versions", "no records"],
)
def test_files_that_are_no_training_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, reason: str
) -> None:
    """Records that this version cannot read are never left out in silence."""
    path = write(tmp_path / "records.jsonl", *records(300))
    path.write_bytes(path.read_bytes() + line + b"\n")

    assert main(["train", str(path), "-o", str(tmp_path / "m")]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert f"{path}:301: " in told
    assert reason in told
    assert not (tmp_path / "m").exists()


def other_features(model: dict[str, Any]) -> None:
    """A model of another version of the package."""
    model["features"] = [*model["features"], "phase_of_the_moon"]


def newer(model: dict[str, Any]) -> None:
    """A model of a later version."""
    model["version"] = 2


def broken(model: dict[str, Any]) -> None:
    """Trees that were cut off."""
    model["trees"]["ttft"]["0.5"] = "tree"


@pytest.mark.parametrize("damage", [other_features, newer, broken])
def test_a_model_that_cannot_be_used(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Any], None]
) -> None:
    """It is refused in one sentence, before anything is served."""
    model = json.loads(trained.read_text())
    damage(model)
    path = tmp_path / "m"
    path.write_text(json.dumps(model))

    assert main(["predict", str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_llm_d_can_ask_it(trained: Path) -> None:
    """Over the HTTP API of llm-d's predictor it gives the predictions that it gives in Python."""
    model = TrainedModel.load(trained)
    inputs = [
        PredictionInput("prefill", 5_000, 0.5, 0, 1, 0.1, 9_000),
        PredictionInput("decode", 5_000, 0.5, 0, 1, 0.1, 0),
    ]

    async def ask() -> Any:
        async with TestClient(TestServer(application(model))) as client:
            refused = await client.post("/predict/bulk", data=b'{"requests": 3}')
            ready = await client.get("/readyz")
            async with LLMDPredictor(str(client.make_url(""))) as predictor:
                return refused.status, ready.status, await predictor.predict(inputs)

    refused, ready, predicted = asyncio.run(ask())

    assert (refused, ready) == (400, 200)
    assert list(predicted) == TrainedPredictor(model).predict_now(inputs)
