"""Predictions of llm-d's service: for a router that asks, and only for the record."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from otel_lifecycle import ConfigError, LatencyPrediction, RequestStart, Route
from otel_lifecycle.config.prediction import PredictionConfig
from otel_lifecycle.model.features import PredictionInput, prediction_input
from otel_lifecycle.model.latency import PredictionError
from otel_lifecycle.prediction import (
    LLMDPredictor,
    predict_within,
    route_prediction,
    training_entries,
)
from tests.conftest import Bench
from tests.records.helpers import run_script
from tests.routes import aggregated, disaggregated
from tests.state.servers import Answer, Site, send
from tests.waiting import PATIENCE_SECONDS, eventually

PREFILL = PredictionInput("prefill", 512, 0.42, 1, 3, 0.31, 1024, 71.0, 63.0, 40.0, "10.0.0.7")
DECODE = PredictionInput("decode", 512, 0.42, 0, 5, 0.5, 2048, None, None, None, "10.0.0.8")
INCOMPLETE = PredictionInput("decode", 512, 0.42, None, 5, 0.5, 2048)
ASKED = {
    "prefill": {
        "kv_cache_percentage": 0.31,
        "input_token_length": 512,
        "num_request_waiting": 1,
        "num_request_running": 3,
        "num_tokens_generated": 0,
        "prefix_cache_score": 0.42,
        "prefill_tokens_in_flight": 1024,
        "pod_type": "prefill",
    },
    "decode": {
        "kv_cache_percentage": 0.5,
        "input_token_length": 512,
        "num_request_waiting": 0,
        "num_request_running": 5,
        "num_tokens_generated": 0,
        "prefix_cache_score": 0.42,
        "prefill_tokens_in_flight": 0,
        "pod_type": "decode",
    },
}


class Service(Site):
    """A stand-in for llm-d's prediction and training servers."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[dict[str, Any]] = []
        self.entries: list[dict[str, Any]] = []
        self.answers = {
            "/predict/bulk": self._predict,
            "/add_training_data_bulk": self._learn,
        }

    def _predict(self, handler: BaseHTTPRequestHandler) -> None:
        requests = _body(handler)["requests"]
        self.requests += requests
        predictions = [{"ttft_ms": 200.0 + i, "tpot_ms": 20.0 + i} for i in range(len(requests))]
        answer = {"predictions": predictions, "errors": [], "total_requests": len(requests)}
        send(handler, json.dumps(answer).encode(), content_type="application/json")

    def _learn(self, handler: BaseHTTPRequestHandler) -> None:
        self.entries += _body(handler)["entries"]
        send(handler, b'{"message": "Accepted"}', status=202, content_type="application/json")


def _body(handler: BaseHTTPRequestHandler) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
    return body


@pytest.fixture
def service() -> Iterator[Service]:
    """The service, which answers."""
    service = Service()
    yield service
    service.stop()


def ask(url: str, inputs: Sequence[PredictionInput]) -> Sequence[LatencyPrediction]:
    """Ask as a router would."""

    async def main() -> Sequence[LatencyPrediction]:
        async with LLMDPredictor(url) as predictor:
            return await predict_within(predictor, inputs, PATIENCE_SECONDS)

    return asyncio.run(main())


def test_asks_in_the_words_of_the_service(service: Service) -> None:
    """One request covers all endpoints; one with a missing feature has no prediction."""
    predictions = ask(service.url, [PREFILL, INCOMPLETE, DECODE])

    assert predictions == [
        LatencyPrediction(200.0, 20.0),
        LatencyPrediction(),
        LatencyPrediction(201.0, 21.0),
    ]
    assert service.requests == [ASKED["prefill"], ASKED["decode"]]
    assert route_prediction([PREFILL, DECODE], [predictions[0], predictions[2]]) == (
        LatencyPrediction(200.0, 21.0)
    )


@pytest.mark.parametrize(
    "answer",
    [
        lambda handler: send(handler, b"", status=503),
        lambda handler: send(handler, b"no JSON"),
        lambda handler: send(handler, b'{"predictions": []}'),
        lambda handler: send(handler, b'{"predictions": [null]}'),
        lambda handler: send(handler, b'{"predictions": [{"ttft_ms": 0, "tpot_ms": 0}]}'),
        lambda handler: send(handler, b'{"predictions": [{"ttft_ms": "soon"}]}'),
    ],
    ids=["503", "garbage", "too few", "null", "zero", "text"],
)
def test_no_prediction(service: Service, answer: Answer) -> None:
    """An invalid prediction counts as none: never a number, never an error."""
    service.answers["/predict/bulk"] = answer

    assert ask(service.url, [PREFILL]) == [LatencyPrediction()]


def test_time_budget() -> None:
    """A predictor that is late or raises predicts nothing."""

    class Slow:
        async def predict(self, inputs: Sequence[PredictionInput]) -> Sequence[LatencyPrediction]:
            await asyncio.sleep(60)
            raise AssertionError

    class Broken:
        async def predict(self, inputs: Sequence[PredictionInput]) -> Sequence[LatencyPrediction]:
            raise RuntimeError

    for predictor in (Slow(), Broken()):
        found = asyncio.run(predict_within(predictor, [PREFILL, DECODE], 0.01))
        assert found == [LatencyPrediction()] * 2


def track(bench: Bench, service: Service | None, start: RequestStart, tokens: int = 3) -> None:
    """Serve one stream after the service was asked about it."""
    with bench.tracker.track(start) as tracked:
        if service is not None:
            lifecycle: Any = bench.tracker.store.find(start.request_id)
            eventually(lambda: lifecycle.shadow is not None)
        bench.clock.advance(250)
        tracked.chunk()
        bench.clock.advance(40)
        tracked.complete(output_tokens=tokens)


def start(route: Route, **fields: Any) -> RequestStart:
    """A request without a prediction."""
    fields = {"input_tokens": 512, "prefix_cache_score": 0.42, **fields}
    return RequestStart("request", route, "m", **fields)


def test_shadow(make_bench: Callable[..., Bench], service: Service) -> None:
    """If the router predicts nothing, the record has the service's prediction, marked `shadow`."""
    bench = make_bench(prediction=PredictionConfig(url=service.url, timeout="60s"))

    track(bench, service, start(disaggregated()))

    record = bench.records[0]
    assert (record.prediction, record.prediction_mode) == (LatencyPrediction(200.0, 21.0), "shadow")
    assert record.prediction_error == PredictionError(50.0, -1.0, 0.2, -0.05)
    attributes = bench.spans[0]["attributes"]
    assert {name: attributes[name] for name in attributes if "prediction" in name} == {
        "llm_router.prediction.mode": "shadow",
        "llm_router.prediction.time_to_first_token": 0.2,
        "llm_router.prediction.time_per_output_token": 0.021,
        "llm_router.prediction.time_to_first_token.error": 0.05,
        "llm_router.prediction.time_per_output_token.error": -0.001,
    }


@pytest.mark.parametrize(
    ("setting", "config"),
    [
        ("url", PredictionConfig(url="http://127.0.0.1:9")),
        ("training_url", PredictionConfig(training_url="http://127.0.0.1:9")),
    ],
)
def test_without_the_client(
    make_bench: Callable[..., Bench],
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    config: PredictionConfig,
) -> None:
    """A service that cannot be asked is an error of its setting, which says what to install."""
    monkeypatch.setitem(sys.modules, "otel_lifecycle.prediction.llm_d", None)

    with pytest.raises(ConfigError, match=rf"prediction\.{setting}: .*'otel-lifecycle\[collect\]'"):
        make_bench(prediction=config)


def test_only_the_client_needs_aiohttp() -> None:
    """The rest of the package does without it, and so does the export for llm-d.

    The client is listed all the same: the documentation has what is listed.
    """
    script = """
import sys
sys.modules["aiohttp"] = None
from otel_lifecycle import prediction
from otel_lifecycle.analysis.exports.llm_d import write_llm_d
from otel_lifecycle.prediction import predict_within, training_entries
assert "LLMDPredictor" in dir(prediction)
try:
    from otel_lifecycle.prediction import LLMDPredictor
except ModuleNotFoundError as error:
    assert "aiohttp" in str(error)
else:
    raise AssertionError("there is a client")
"""
    process = run_script(script)

    assert process.returncode == 0, process.stderr


def test_active_is_left_alone(make_bench: Callable[..., Bench], service: Service) -> None:
    """A prediction of the router stays, and the service is not asked."""
    bench = make_bench(prediction=PredictionConfig(url=service.url))
    used = LatencyPrediction(100.0, None)

    track(bench, None, start(aggregated(), prediction=used))

    record = bench.records[0]
    assert (record.prediction, record.prediction_mode) == (used, "active")
    assert service.requests == []


@pytest.mark.parametrize("answer", ["late", "down"])
def test_service_that_does_not_answer(
    make_bench: Callable[..., Bench], service: Service, answer: str
) -> None:
    """Requests do not wait for the service; without an answer there is no prediction."""
    if answer == "late":
        service.answers["/predict/bulk"] = lambda handler: time.sleep(0.5)
    url = service.url if answer == "late" else "http://127.0.0.1:9"
    bench = make_bench(prediction=PredictionConfig(url=url, timeout="50ms"))

    track(bench, None, start(aggregated()))

    record = bench.records[0]
    assert (record.prediction, record.prediction_mode) == (LatencyPrediction(), "")


@pytest.mark.parametrize("model", ["", "missing.json"])
def test_teaches(make_bench: Callable[..., Bench], service: Service, model: str) -> None:
    """Finished streams are sent as training data: TTFT of the prefill, TPOT of the decode.

    A model that cannot be used changes nothing.
    """
    bench = make_bench(prediction=PredictionConfig(model=model, training_url=service.url))

    track(bench, None, start(disaggregated()))
    with bench.tracker.track(start(aggregated())) as failed:
        failed.fail("http_500")

    eventually(lambda: len(service.entries) == 2)
    common = {
        "kv_cache_percentage": 0.31,
        "input_token_length": 512,
        "num_request_waiting": 1,
        "num_request_running": 3,
        "prefix_cache_score": 0.42,
        "prefill_tokens_in_flight": 0,
        "timestamp": "2023-11-14T22:13:20.290000000Z",
    }
    assert service.entries == [
        {
            **common,
            "pod_type": "prefill",
            "num_tokens_generated": 0,
            "actual_ttft_ms": 250.0,
            "actual_tpot_ms": 0.0,
        },
        {
            **common,
            "pod_type": "decode",
            "num_tokens_generated": 3,
            "actual_ttft_ms": 0.0,
            "actual_tpot_ms": 20.0,
        },
    ]


def test_urls_with_secrets(
    make_bench: Callable[..., Bench], service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    """A URL's query is sent with every request, and never logged."""
    caplog.set_level("DEBUG", "otel_lifecycle")
    asked: list[str] = []

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        _body(handler)
        asked.append(handler.path)
        send(handler, b"no", status=500)

    service.answers = dict.fromkeys(service.answers, refuse)
    url = f"{service.url}/?token=secret"
    bench = make_bench(prediction=PredictionConfig(url=url, training_url=url))
    track(bench, service, start(disaggregated()))
    eventually(lambda: any("training data" in line for line in caplog.messages))

    paths = ["/predict/bulk", "/add_training_data_bulk"]
    told = [line.partition("status ")[2] for line in caplog.messages if "status " in line]
    assert asked == [f"{path}?token=secret" for path in paths]
    assert told == [f"500 from {service.url}{path}?***" for path in paths]


def test_what_teaches_nothing(bench: Bench) -> None:
    """A response that is not a stream, or has a missing feature, makes no training entry."""
    track(bench, None, start(aggregated(), streaming=False))
    track(bench, None, start(aggregated(), prefix_cache_score=None))

    assert [training_entries(record) for record in bench.records] == [[], []]


def test_goes_on(
    make_bench: Callable[..., Bench], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that cannot be predicted does not prevent later predictions."""
    failures = [AttributeError("of a request that has gone elsewhere")]

    def failing_once(*args: Any, **fields: Any) -> PredictionInput:
        if failures:
            raise failures.pop()
        return prediction_input(*args, **fields)

    monkeypatch.setattr("otel_lifecycle.prediction.shadow.prediction_input", failing_once)
    bench = make_bench(prediction=PredictionConfig(url=service.url, timeout="60s"))
    bench.tracker.track(start(disaggregated())).complete()
    eventually(lambda: not failures)

    track(bench, service, start(disaggregated()))

    assert [record.prediction_mode for record in bench.records] == ["", "shadow"]
