"""Settings of shadow prediction: latencies for the record, which the router never sees."""

from __future__ import annotations

from pydantic import Field

from otel_lifecycle.config.collection import Url
from otel_lifecycle.config.settings import Duration, Settings, duration


class PredictionConfig(Settings):
    """The service of llm-d's latency predictor, for requests without a prediction of the router.

    Attributes:
        url: Of its prediction server; empty predicts nothing.
        training_url: Of its training server, which is sent what the requests really took; empty
            sends nothing.
        timeout: How long a prediction may take; a later one is none.
        max_queue: Predict for at most that many requests at once, and keep as many training
            samples until they are sent; further ones are dropped.
    """

    url: Url = ""
    training_url: Url = ""
    timeout: Duration = duration(milliseconds=100)
    max_queue: int = Field(default=1_000, ge=1)
