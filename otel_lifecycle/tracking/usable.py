"""What a record keeps of what a router says of a request: values of any kind, made safe."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Final

import msgspec

from otel_lifecycle.model import LatencyPrediction, RequestStart, sanitize
from otel_lifecycle.tracking.decisions import Considered

if TYPE_CHECKING:
    from otel_lifecycle.model.record import LifecycleRecord

NO_PREDICTION: Final = LatencyPrediction()


class Usable(msgspec.Struct, frozen=True, gc=False):
    """What a record keeps of what a router says of a request, under the same names."""

    request_id: str
    model: str
    operation: str
    provider: str
    policy: str
    engine_request_id: str | None
    input_token_length: int | None
    candidates: int | None
    attempt: int
    prefix_cache_score: float | None
    prediction: LatencyPrediction


def usable(start: RequestStart) -> Usable:
    """Makes safe what a router says of a request."""
    given = start.candidates
    text, count = sanitize.text, sanitize.count
    return Usable(
        text(start.request_id),
        text(start.model),
        text(start.operation),
        text(start.provider),
        text(start.policy),
        text(start.engine_request_id) or None,
        count(start.input_tokens),
        None if given is None else count(len(given) if isinstance(given, Considered) else given),
        max(1, count(start.attempt) or 1),
        sanitize.fraction(start.prefix_cache_score),
        clean_prediction(start.prediction),
    )


def invalid_values(start: RequestStart, record: LifecycleRecord | Usable) -> int:
    """How many of the router's own values could not be used as they are."""
    given = (
        start.request_id,
        start.model,
        start.operation,
        start.provider,
        start.policy,
        start.input_tokens,
        start.prefix_cache_score,
        start.engine_request_id or None,
    )
    kept = (
        record.request_id,
        record.model,
        record.operation,
        record.provider,
        record.policy,
        record.input_token_length,
        record.prefix_cache_score,
        record.engine_request_id,
    )
    invalid = start.candidates is not None and record.candidates is None
    if not all(map(is_, given, kept)):
        invalid += sum(map(is_lost, given, kept))
    for field in ("ttft_ms", "tpot_ms"):
        if getattr(record.prediction, field) is None:
            invalid += getattr(start.prediction, field, None) is not None
    return invalid


def is_lost(given: object, kept: object) -> bool:
    """Whether a value is not what was given, or a number is unknown."""
    if isinstance(given, str):
        return given != kept
    return given is not None and (kept is None or isinstance(kept, str))


def clean_prediction(given: object) -> LatencyPrediction:
    """Return a prediction of times that are possible."""
    if not isinstance(given, LatencyPrediction) or given == NO_PREDICTION:
        return NO_PREDICTION
    return LatencyPrediction(
        sanitize.milliseconds(given.ttft_ms), sanitize.milliseconds(given.tpot_ms)
    )
