"""The service of llm-d's latency predictor (`llm-d/llm-d-latency-predictor`), over HTTP.

Its prediction server answers `POST /predict/bulk`; its training server accepts
`POST /add_training_data_bulk`. Both use the features of llm-d's router: ours without those of NPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from otel_lifecycle.model import LatencyPrediction, Outcome
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.runtime.text import without_secrets

_UNPREDICTED = LatencyPrediction()
_HEADERS = {"Content-Type": "application/json", "User-Agent": "otel-lifecycle"}
_MAX_BYTES = 16 * 1024 * 1024


class _Prediction(msgspec.Struct):
    ttft_ms: float | None = None
    tpot_ms: float | None = None


class _Answer(msgspec.Struct):
    predictions: list[_Prediction | None]


class LLMDPredictor:
    """A `Predictor`. An async context manager, used by one event loop; needs the extra `collect`.

    Args:
        url: URL of the prediction server; empty: predict nothing.
        training_url: URL of the training server; empty: send no training data.
        timeout: Time limit of one HTTP request, in seconds.
    """

    def __init__(self, url: str, training_url: str = "", timeout: float = 5.0) -> None:
        self._predict_url = _at(url, "/predict/bulk")
        self._learn_url = _at(training_url, "/add_training_data_bulk")
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> LLMDPredictor:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def predict(self, inputs: Sequence[PredictionInput]) -> Sequence[LatencyPrediction]:
        """Predict for each input; an input with a missing feature is not sent.

        Raises:
            aiohttp.ClientError: The request fails.
            msgspec.MsgspecError: The answer is not a prediction.
        """
        requests = [_features(one) for one in inputs]
        known = [request for request in requests if request is not None]
        if not known or not self._predict_url:
            return [_UNPREDICTED] * len(inputs)
        content = await self._post(self._predict_url, {"requests": known})
        answer = msgspec.json.decode(content, type=_Answer)
        if len(answer.predictions) != len(known):
            raise msgspec.ValidationError(
                f"expected {len(known)} predictions, got {len(answer.predictions)}"
            )
        predictions = iter(answer.predictions)
        return [
            _UNPREDICTED if request is None else _latencies(next(predictions))
            for request in requests
        ]

    async def learn(self, entries: Sequence[dict[str, Any]]) -> None:
        """Send training entries.

        Raises:
            aiohttp.ClientError: The service did not accept them.
        """
        if entries and self._learn_url:
            await self._post(self._learn_url, {"entries": list(entries)})

    async def _post(self, url: str, payload: object) -> bytes:
        assert self._session is not None
        body, shown = msgspec.json.encode(payload), without_secrets(url)
        async with self._session.post(url, data=body, allow_redirects=False) as response:
            if response.status >= 300:
                raise aiohttp.ClientPayloadError(f"status {response.status} from {shown}")
            content = bytearray()
            async for piece in response.content.iter_any():
                content += piece
                if len(content) > _MAX_BYTES:
                    raise aiohttp.ClientPayloadError(
                        f"the answer from {shown} is larger than {_MAX_BYTES} bytes"
                    )
            return bytes(content)


def _at(url: str, path: str) -> str:
    """Append a path to a URL, keeping its query, which may contain credentials."""
    if not url:
        return ""
    parts = urlsplit(url)
    return parts._replace(path=parts.path.rstrip("/") + path).geturl()


def training_entries(record: LifecycleRecord) -> list[dict[str, Any]]:
    """Return the training entries of a finished request: one for its TTFT, one for its TPOT.

    As in llm-d's router, the first entry has the features of the prefill endpoint and a TPOT of 0,
    the second those of the decode endpoint and a TTFT of 0. Only a completed stream has entries. An
    unknown latency or feature makes no entry.

    Args:
        record: The finished request.
    """
    if record.outcome is not Outcome.COMPLETED:
        return []
    entries: list[dict[str, Any]] = []
    for one in record.prediction_inputs:
        features = _features(one)
        if features is None:
            continue
        features["timestamp"] = record.completed_at
        shared = len(record.prediction_inputs) == 1
        ttft, tpot = record.actual.ttft_ms, record.actual.tpot_ms
        if ttft is not None and one.pod_type != "decode":
            entries.append({**features, "actual_ttft_ms": ttft, "actual_tpot_ms": 0.0})
        if tpot is not None and (one.pod_type != "prefill" or shared):
            tokens = {"num_tokens_generated": record.output_length or 0}
            entries.append({**features, **tokens, "actual_ttft_ms": 0.0, "actual_tpot_ms": tpot})
    return entries


def _features(one: PredictionInput) -> dict[str, Any] | None:
    """Return an input in the service's format; None if a feature is missing (never 0)."""
    features: dict[str, Any] = {
        "kv_cache_percentage": one.kv_cache_usage,
        "input_token_length": one.input_token_length,
        "num_request_waiting": one.num_request_waiting,
        "num_request_running": one.num_request_running,
        "num_tokens_generated": 0,
        "prefix_cache_score": one.prefix_cache_score,
        # llm-d counts the tokens of prompts being prefilled, never those being decoded.
        "prefill_tokens_in_flight": 0 if one.pod_type == "decode" else one.inflight_tokens,
        "pod_type": one.pod_type,
    }
    return None if None in features.values() else features


def _latencies(prediction: _Prediction | None) -> LatencyPrediction:
    """Convert a prediction; 0 means a negative value was clipped, so it counts as none."""
    if prediction is None:
        return _UNPREDICTED
    return LatencyPrediction(prediction.ttft_ms or None, prediction.tpot_ms or None)
