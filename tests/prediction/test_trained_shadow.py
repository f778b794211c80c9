"""A trained model that a setting names: its predictions are recorded, off the request's path."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_lifecycle import LatencyPrediction, RequestStart
from otel_lifecycle.config.prediction import PredictionConfig
from otel_lifecycle.prediction import route_prediction
from otel_lifecycle.prediction.trained import TrainedModel, TrainedPredictor
from tests.cli.command import Command
from tests.conftest import Bench
from tests.examples.cluster import Cluster
from tests.instrumentation.exchanges import plain, streamed
from tests.instrumentation.instrumented_process import (
    instrumented,
    served_by_any_fastapi,
)
from tests.matchers import ANY_FLOAT, MEASURED
from tests.observation.entries import whole
from tests.ports import free_port
from tests.records.helpers import run_script
from tests.routes import disaggregated
from tests.waiting import eventually

ROUTER = """
import sys
import uvicorn
from tests.instrumentation.generic_routers import HttpxUpstream, make_router

uvicorn.run(make_router(HttpxUpstream([sys.argv[1]])), port=int(sys.argv[2]), log_level="warning")
"""


def serve(bench: Bench, request_id: str = "request") -> None:
    """Serve one stream through a pair."""
    start = RequestStart(request_id, disaggregated(), "m", 512, prefix_cache_score=0.42)
    with bench.tracker.track(start) as tracked:
        bench.clock.advance(250)
        tracked.chunk()
        bench.clock.advance(40)
        tracked.complete(output_tokens=3)


def test_its_predictions_are_recorded(
    make_bench: Callable[..., Bench], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TTFT of the prefill and TPOT of the decode, as the model predicts from the record.

    The client of a service is not needed.
    """
    monkeypatch.setitem(sys.modules, "otel_lifecycle.prediction.llm_d", None)
    monkeypatch.setenv("HOME", str(trained.parent))
    bench = make_bench(prediction=PredictionConfig(model=f"~/{trained.name}", timeout="60s"))
    start = RequestStart("request", disaggregated(), "m", 512, prefix_cache_score=0.42)

    with bench.tracker.track(start) as tracked:
        lifecycle = bench.tracker.store.find("request")
        assert lifecycle is not None
        eventually(lambda: lifecycle.shadow is not None)
        tracked.complete()

    record = bench.records[0]
    predictor = TrainedPredictor(TrainedModel.load(trained))
    inputs = record.prediction_inputs
    expected = route_prediction(inputs, predictor.predict_now(inputs))
    assert None not in (expected.ttft_ms, expected.tpot_ms)
    assert (record.prediction, record.prediction_mode) == (expected, "shadow")


def test_imports_before_the_first_request() -> None:
    """No request waits for the import, and no thread imports while a server forks its workers."""
    script = """
import sys
import threading
from otel_lifecycle import RequestLifecycleTracker, TrackerConfig
from otel_lifecycle.config.prediction import PredictionConfig

config = TrackerConfig(prediction=PredictionConfig(model="model.json"))
assert "lightgbm" not in sys.modules
RequestLifecycleTracker(config)
assert "lightgbm" in sys.modules
assert "otel-lifecycle-predict" not in {thread.name for thread in threading.enumerate()}
"""
    process = run_script(script)

    assert process.returncode == 0, process.stderr


def garbage(path: Path) -> None:
    """No model."""
    path.write_text("{}")


def of_other_features(path: Path) -> None:
    """A model of another version of the package."""
    model = json.loads(path.read_text())
    path.write_text(json.dumps({**model, "features": ["phase_of_the_moon"]}))


@pytest.mark.parametrize("damage", [Path.unlink, garbage, of_other_features])
def test_a_model_that_cannot_be_used(
    make_bench: Callable[..., Bench],
    trained: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], object],
) -> None:
    """One line says which and why; requests go on without a prediction."""
    path = tmp_path / "model.json"
    path.write_bytes(trained.read_bytes())
    damage(path)
    bench = make_bench(prediction=PredictionConfig(model=str(path)))

    serve(bench, "first")
    eventually(lambda: bool(caplog.messages))
    serve(bench, "second")
    bench.tracker.close()

    (line,) = caplog.messages
    assert line.startswith(f"prediction.model: {path}: ")
    assert line.endswith("; requests are recorded without a prediction")
    told = [(record.prediction, record.prediction_mode) for record in bench.records]
    assert told == [(LatencyPrediction(), "")] * 2


def test_without_the_extra(
    make_bench: Callable[..., Bench],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line says what to install."""
    monkeypatch.setitem(sys.modules, "otel_lifecycle.prediction.trained", None)
    bench = make_bench(prediction=PredictionConfig(model="model.json"))

    serve(bench)
    eventually(lambda: bool(caplog.messages))

    assert "pip install 'otel-lifecycle[ml]'" in caplog.text
    assert bench.records[0].prediction_mode == ""


def test_zero_code(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable is enough for a router that knows nothing of telemetry or predictions."""
    monkeypatch.setenv("OTEL_LIFECYCLE_PREDICTION_MODEL", str(trained))
    monkeypatch.setenv("OTEL_LIFECYCLE_PREDICTION_TIMEOUT", "60s")
    cluster, port = Cluster(), free_port()
    engine = cluster.add_engine("engine").url
    script, path = tmp_path / "router.py", tmp_path / "records.jsonl"
    script.write_text(ROUTER)
    try:
        with instrumented([str(script), engine, str(port)], port, path) as router:
            count = 0

            def predicted() -> bool:
                """A request that comes before the model is loaded ends without a prediction."""
                nonlocal count
                router.post(stream=True, stream_options={"include_usage": True})
                count += 1
                return router.records(count)[-1].prediction_mode == "shadow"

            eventually(predicted, 60.0)
            record = router.records(count)[-1]
    finally:
        cluster.stop()

    errors = ("ttftMillis", "tpotMillis", "ttftRatio", "tpotRatio")
    assert plain(record) == streamed(
        engine,
        cachedTokens=record.cached_tokens,
        prediction={"ttftMillis": MEASURED, "tpotMillis": MEASURED},
        predictionMode="shadow",
        predictionError=dict.fromkeys(errors, ANY_FLOAT),
        **served_by_any_fastapi(record),
    )


def observed(log: Path, model: Path) -> tuple[list[str], str]:
    """The prediction mode of each record of a log that `observe` reads once, and what it says."""
    environment = {
        "OTEL_LIFECYCLE_PREDICTION_MODEL": str(model),
        "OTEL_LIFECYCLE_PREDICTION_TIMEOUT": "60s",  # a busy machine is late
    }
    command = Command("observe", "--envoy-log", log, "--once", environment=environment)
    _, output, error = command.wait()
    return [json.loads(line)["predictionMode"] for line in output.splitlines()], error


def test_a_log_is_read_once_the_model_is_loaded(trained: Path, tmp_path: Path) -> None:
    """Each request that was dispatched has its prediction, however soon its end is read."""
    log = tmp_path / "access.log"
    log.write_bytes(b"".join(line + b"\n" for number in range(500) for line in whole(str(number))))

    modes, error = observed(log, trained)

    assert modes == ["shadow"] * 500, error


def test_a_log_without_the_model(tmp_path: Path) -> None:
    """One line says why there are no predictions."""
    log, missing = tmp_path / "access.log", tmp_path / "missing"
    log.write_bytes(b"".join(line + b"\n" for line in whole()))

    modes, error = observed(log, missing)

    problem, summary = error.splitlines()
    assert modes == [""]
    assert problem.startswith(f"prediction.model: {missing}: ")
    assert problem.endswith("; requests are recorded without a prediction")
    assert "1 record of 4 entries" in summary
