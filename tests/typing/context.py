"""Names that the snippets of the pages use without defining them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path as Path
from typing import Any

import otel_lifecycle as otel_lifecycle
from otel_lifecycle import (
    Endpoint,
    EndpointEvent,
    RequestLifecycleTracker,
    RequestStart,
    Route,
    TrackerConfig,
)
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.latency import ActualLatency
from otel_lifecycle.prediction.trained import TrainedModel as TrainedModel
from otel_lifecycle.prediction.trained import TrainedPredictor as TrainedPredictor
from otel_lifecycle.records import PositionedRecord

app: Any
config: TrackerConfig
tracker: RequestLifecycleTracker
start: RequestStart
route: Route
headers: dict[str, str]
upstream_headers: dict[str, str]
upstream: AsyncIterator[str]
usage: Any
parameters: str
request: Any
scheduling_result: Any
response: Any
target_endpoint: Any
event: EndpointEvent
chosen: Endpoint
other: Endpoint
inputs: Sequence[PredictionInput]
saved: bytes


def engine(headers: dict[str, str]) -> AsyncIterator[str]:
    """Ask an engine."""
    raise NotImplementedError


def send(records: Sequence[PositionedRecord]) -> None:
    """Send records somewhere."""


def save(position: bytes) -> None:
    """Store a position."""


def train(features: Sequence[PredictionInput], latency: ActualLatency) -> None:
    """Learn."""
