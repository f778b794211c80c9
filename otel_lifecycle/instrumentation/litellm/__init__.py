"""Instruments LiteLLM."""

from otel_lifecycle.instrumentation.litellm.router import LiteLLMInstrumentor

__all__ = ["LiteLLMInstrumentor"]
