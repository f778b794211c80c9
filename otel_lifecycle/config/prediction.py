"""Settings of shadow prediction: latencies for the record only, not for the router."""

from __future__ import annotations

from pydantic import Field, model_validator

from otel_lifecycle.config.collection import Url
from otel_lifecycle.config.settings import Duration, FieldError, Settings, duration


class PredictionConfig(Settings):
    """A trained model or llm-d's latency predictor, for requests that the router did not predict.

    Attributes:
        model: A model of `otel-lifecycle train`, read by each process at its first request; empty:
            ask `url`. `~` is expanded.
        url: URL of the prediction server; empty: predict nothing.
        training_url: URL of the training server, which receives the measured latencies; empty:
            send nothing.
        timeout: Time limit of a prediction; later predictions are discarded.
        max_queue: Limit of waiting predictions, and of training samples not sent yet; further ones
            are dropped.
    """

    model: str = ""
    url: Url = ""
    training_url: Url = ""
    timeout: Duration = duration(milliseconds=100)
    max_queue: int = Field(default=1_000, ge=1)

    @model_validator(mode="after")
    def _check_model(self) -> PredictionConfig:
        if self.model and self.url:
            raise FieldError("model", "and url exclude each other: set one of them")
        return self
