"""Reads what engines and routers answer as it passes by: streams, lines of JSON, whole bodies."""

from otel_lifecycle.instrumentation.http.answers.reader import AnswerReader
from otel_lifecycle.instrumentation.http.answers.relay import Relay

__all__ = ["AnswerReader", "Relay"]
