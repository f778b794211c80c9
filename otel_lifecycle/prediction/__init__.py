"""Latency prediction: the protocol, llm-d's service, and shadow prediction for the record."""

from otel_lifecycle.prediction.llm_d import LLMDPredictor
from otel_lifecycle.prediction.llm_d_format import training_entries
from otel_lifecycle.prediction.predictor import Predictor, predict_within, route_prediction

__all__ = [
    "LLMDPredictor",
    "Predictor",
    "predict_within",
    "route_prediction",
    "training_entries",
]
