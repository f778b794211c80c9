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

from otel_lifecycle.model import LatencyPrediction
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.prediction.llm_d_format import features_of
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
        requests = [features_of(one) for one in inputs]
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


def _latencies(prediction: _Prediction | None) -> LatencyPrediction:
    """Convert a prediction; 0 means a negative value was clipped, so it counts as none."""
    if prediction is None:
        return _UNPREDICTED
    return LatencyPrediction(prediction.ttft_ms or None, prediction.tpot_ms or None)
