"""What a predictor learns from: what the router knew at dispatch, and what then happened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import Enum
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_lifecycle.model import Outcome
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.model.fields import fields_of
from otel_lifecycle.model.record import LifecycleRecord

Floats = NDArray[np.float64]

# An address is no feature: a model must not learn endpoints by heart, which come and go.
_NUMBERS = tuple(
    field.name
    for field in fields_of(PredictionInput)
    if field.name not in ("pod_type", "server_ip")
)
_POD_TYPES = {"": 0.0, "prefill": 1.0, "decode": 2.0}

FEATURES = ("pod_type", *_NUMBERS, "uncached_tokens")
"""The columns of a row: the fields of a prediction input, and what they say together."""


class Target(str, Enum):
    """What is predicted, in milliseconds."""

    TTFT = "ttft"
    TPOT = "tpot"


class Rows:
    """Rows of completed requests for one target, by the time of their dispatch.

    Attributes:
        features: One row per request, one column per name in `FEATURES`; NaN is unknown.
        latencies: The measured latencies, in milliseconds.
        predicted: What the router predicted, in milliseconds; NaN where it did not.
        started: The times of dispatch, in seconds.
        ended: The times at which the latencies were known, in seconds.
        endpoints: The endpoint of each row.
    """

    def __init__(self) -> None:
        self._features: list[list[float]] = []
        self._numbers: list[tuple[float, float, float, float]] = []
        self._endpoints: list[str] = []

    def add(
        self, one: PredictionInput, latency: float, record: LifecycleRecord, own: float
    ) -> None:
        """Add a row."""
        self._features.append(vector(one))
        self._numbers.append(
            (_seconds(record.started_at), _seconds(record.completed_at), latency, own)
        )
        self._endpoints.append(one.server_ip or "")

    def finish(self) -> None:
        """Sort the rows, and make columns of them."""
        order = sorted(range(len(self)), key=lambda row: self._numbers[row][0])
        numbers = np.reshape(np.array([self._numbers[row] for row in order], np.float64), (-1, 4))
        self.features = _matrix([self._features[row] for row in order])
        self.started: Floats = numbers[:, 0]
        self.ended: Floats = numbers[:, 1]
        self.latencies: Floats = numbers[:, 2]
        self.predicted: Floats = numbers[:, 3]
        self.endpoints = [self._endpoints[row] for row in order]

    def __len__(self) -> int:
        return len(self._numbers)


def read_rows(records: Iterable[LifecycleRecord]) -> dict[Target, Rows]:
    """Return the rows of records for each target.

    Only completed requests have rows: others show how fast something failed. TTFT has the features
    of the endpoint that did the prefill, TPOT those of the one that decoded.
    """
    rows = {target: Rows() for target in Target}
    for record in records:
        inputs = record.prediction_inputs
        if record.outcome is not Outcome.COMPLETED or not inputs:
            continue
        ttft, tpot = record.actual.ttft_ms, record.actual.tpot_ms
        if ttft is not None and inputs[0].pod_type != "decode":
            rows[Target.TTFT].add(inputs[0], ttft, record, _number(record.prediction.ttft_ms))
        if tpot is not None and (inputs[-1].pod_type != "prefill" or len(inputs) == 1):
            rows[Target.TPOT].add(inputs[-1], tpot, record, _number(record.prediction.tpot_ms))
    for one in rows.values():
        one.finish()
    return rows


def vector(one: PredictionInput) -> list[float]:
    """Return the features of an input in the order of `FEATURES`; NaN is unknown, never 0."""
    numbers = [_number(getattr(one, name)) for name in _NUMBERS]
    length, score = _number(one.input_token_length), _number(one.prefix_cache_score)
    return [_POD_TYPES.get(one.pod_type, nan), *numbers, length * (1.0 - score)]


def matrix(inputs: Sequence[PredictionInput]) -> Floats:
    """Return the features of several inputs, one row each."""
    return _matrix([vector(one) for one in inputs])


def _matrix(rows: Sequence[Sequence[float]]) -> Floats:
    return np.reshape(np.array(rows, np.float64), (-1, len(FEATURES)))


def _number(value: Any) -> float:
    return nan if value is None else float(value)


def _seconds(moment: str | None) -> float:
    if moment is None:
        return nan
    # Nanoseconds and `Z` are more than Python 3.10 reads.
    return datetime.fromisoformat(f"{moment[:26].rstrip('Z')}+00:00").timestamp()
