"""A trained model behind the HTTP API of llm-d's prediction server; needs the extra `collect`."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.prediction.trained.model import TrainedModel
from otel_lifecycle.prediction.trained.predictor import TrainedPredictor

MAX_REQUESTS = 10_000
_MAX_BYTES = 16 * 1024 * 1024


class _Request(msgspec.Struct):
    """What llm-d's router asks for; see `llm_d_format.features_of`."""

    kv_cache_percentage: float | None = None
    input_token_length: int | None = None
    num_request_waiting: int | None = None
    num_request_running: int | None = None
    prefix_cache_score: float | None = None
    prefill_tokens_in_flight: int | None = None
    pod_type: str = ""

    def features(self) -> PredictionInput:
        """Return them under our names; what llm-d does not know is unknown."""
        return PredictionInput(
            pod_type=self.pod_type if self.pod_type in ("prefill", "decode") else "",
            input_token_length=self.input_token_length,
            prefix_cache_score=self.prefix_cache_score,
            num_request_waiting=self.num_request_waiting,
            num_request_running=self.num_request_running,
            kv_cache_usage=self.kv_cache_percentage,
            inflight_tokens=self.prefill_tokens_in_flight,
        )


class _Bulk(msgspec.Struct):
    requests: list[_Request]


def application(model: TrainedModel) -> web.Application:
    """Return the application that answers for a model.

    `POST /predict` takes one request, `POST /predict/bulk` takes `{"requests": [...]}`. `GET
    /healthz` and `/readyz` answer when it serves. An invalid body is refused with 400 and the
    reason.
    """
    predictor = TrainedPredictor(model)

    async def predict(request: web.Request) -> web.Response:
        asked = _decoded(await request.read(), _Request)
        return _answer(_predictions(predictor, [asked])[0])

    async def predict_bulk(request: web.Request) -> web.Response:
        asked = _decoded(await request.read(), _Bulk).requests
        if len(asked) > MAX_REQUESTS:
            raise web.HTTPBadRequest(text=f"requests: at most {MAX_REQUESTS}, got {len(asked)}")
        return _answer({"predictions": _predictions(predictor, asked)})

    async def is_ready(_: web.Request) -> web.Response:
        return _answer({"status": "ready"})

    served = web.Application(client_max_size=_MAX_BYTES)
    served.add_routes(
        [
            web.post("/predict", predict),
            web.post("/predict/bulk", predict_bulk),
            web.get("/healthz", is_ready),
            web.get("/readyz", is_ready),
        ]
    )
    return served


def _predictions(predictor: TrainedPredictor, asked: list[_Request]) -> list[dict[str, float]]:
    """Return the answers; 0 where there is no prediction, as llm-d's server has it."""
    return [
        {"ttft_ms": one.ttft_ms or 0.0, "tpot_ms": one.tpot_ms or 0.0}
        for one in predictor.predict_now([request.features() for request in asked])
    ]


def _decoded(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise web.HTTPBadRequest(text=str(error)) from None


def _answer(content: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")
