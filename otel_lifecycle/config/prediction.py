"""Settings of shadow prediction: latencies for the record only, not for the router."""

from __future__ import annotations

from pydantic import Field

from otel_lifecycle.config.collection import Url
from otel_lifecycle.config.settings import Duration, Settings, duration


class PredictionConfig(Settings):
    """The service of llm-d's latency predictor, for requests that the router did not predict.

    Attributes:
        url: URL of the prediction server; empty: predict nothing.
        training_url: URL of the training server, which receives the measured latencies; empty:
            send nothing.
        timeout: Time limit of a prediction; later predictions are discarded.
        max_queue: Limit of waiting predictions, and of training samples not sent yet; further ones
            are dropped.
    """

    url: Url = ""
    training_url: Url = ""
    timeout: Duration = duration(milliseconds=100)
    max_queue: int = Field(default=1_000, ge=1)
