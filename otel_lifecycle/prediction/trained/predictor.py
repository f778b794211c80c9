"""A trained model as a `Predictor`, for shadow and for active prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence

from otel_lifecycle.model import LatencyPrediction
from otel_lifecycle.model.features import PredictionInput
from otel_lifecycle.prediction.trained.model import TrainedModel
from otel_lifecycle.prediction.trained.rows import Target, matrix


class TrainedPredictor:
    """Predicts medians; a feature that is unknown stays unknown. Thread-safe.

    Args:
        model: The model.
    """

    def __init__(self, model: TrainedModel) -> None:
        self._model = model

    async def predict(self, inputs: Sequence[PredictionInput]) -> Sequence[LatencyPrediction]:
        """Return one prediction for each input; a fraction of a millisecond for a dozen."""
        return self.predict_now(inputs)

    def predict_now(self, inputs: Sequence[PredictionInput]) -> list[LatencyPrediction]:
        """Do the same without an event loop.

        A decode endpoint has no TTFT, and a prefill endpoint no TPOT.
        """
        features = matrix(inputs)
        ttft = self._model.predict(Target.TTFT, features)
        tpot = self._model.predict(Target.TPOT, features)
        return [
            LatencyPrediction(
                _known(ttft[row]) if one.pod_type != "decode" else None,
                _known(tpot[row]) if one.pod_type != "prefill" else None,
            )
            for row, one in enumerate(inputs)
        ]


def _known(milliseconds: float) -> float | None:
    return None if math.isnan(milliseconds) else float(milliseconds)
