"""Latency prediction: the protocol, llm-d's service, and shadow prediction for the record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_lifecycle.prediction.llm_d_format import training_entries
from otel_lifecycle.prediction.predictor import Predictor, predict_within, route_prediction

if TYPE_CHECKING:
    from otel_lifecycle.prediction.llm_d import LLMDPredictor

__all__ = [
    "LLMDPredictor",
    "Predictor",
    "predict_within",
    "route_prediction",
    "training_entries",
]


def __getattr__(name: str) -> object:
    """Import the client of llm-d's service, which needs an extra, when it is asked for."""
    if name == "LLMDPredictor":
        from otel_lifecycle.prediction.llm_d import LLMDPredictor

        return LLMDPredictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List it all the same, for a prompt and for the documentation."""
    return __all__
