"""A predictor trained on records; needs the extra `ml`."""

from otel_lifecycle.prediction.trained.model import ModelError, TrainedModel
from otel_lifecycle.prediction.trained.predictor import TrainedPredictor

__all__ = ["ModelError", "TrainedModel", "TrainedPredictor"]
