"""A model of `otel-lifecycle train` in place of the example router's own predictor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hermes_router.endpoint import AGGREGATED
from hermes_router.model import LatencyPredictionInfo
from hermes_router.predictor import Prospect

from otel_lifecycle.cli.errors import CommandError
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.prediction.trained import ModelError, TrainedModel, TrainedPredictor

_SHORTEST_MS = 1e-3


class TrainedLatency:
    """Predicts what a trained model does; what it learns from are the fields of the records.

    Args:
        model: The model.
    """

    def __init__(self, model: TrainedModel) -> None:
        self._predictor = TrainedPredictor(model)

    def predict_all(
        self, role: str, prospects: Sequence[Prospect]
    ) -> Sequence[LatencyPredictionInfo]:
        """Return one prediction for each."""
        inputs = [prediction_input(role, prospect) for prospect in prospects]
        return [
            LatencyPredictionInfo(_positive(one.ttft_ms), _positive(one.tpot_ms))
            for one in self._predictor.predict_now(inputs)
        ]


def _positive(milliseconds: float | None) -> float | None:
    """The router takes 0 for unknown."""
    return None if milliseconds is None else max(milliseconds, _SHORTEST_MS)


def load(path: Path) -> TrainedLatency:
    """Return the predictor of a model file.

    Raises:
        CommandError: The file is no model that can be used.
    """
    try:
        return TrainedLatency(TrainedModel.load(path))
    except ModelError as error:
        raise CommandError(f"--model {error}") from None


def prediction_input(role: str, prospect: Prospect) -> PredictionInput:
    """Return what the record would tell if the request went there."""
    endpoint = prospect.endpoint
    metrics, npu = endpoint.metrics, endpoint.npu
    return PredictionInput(
        "" if role == AGGREGATED else role,
        prospect.input_tokens,
        prospect.prefix_score,
        None if metrics is None else metrics.waiting_queue_size,
        None if metrics is None else metrics.running_requests_size,
        None if metrics is None else metrics.kv_cache_usage_percent,
        endpoint.inflight_tokens,
        None if npu is None else npu.hbm_utilization_avg,
        None if npu is None else npu.ai_core_utilization_avg,
        None if npu is None else npu.hbm_bandwidth_utilization_avg,
        endpoint.metadata.address,
        endpoint.prefill_tokens,
    )
