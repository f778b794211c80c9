"""The data of a request's lifecycle, from the router's endpoints to the record.

All values are immutable and may be shared between threads. Nothing here validates: a router's
values are accepted unchanged, and cleaned when they are read (`otel_lifecycle.model.sanitize`).
"""

from otel_lifecycle.model.decision import Candidate
from otel_lifecycle.model.endpoint import (
    Endpoint,
    EndpointEvent,
    EndpointEventType,
    EndpointMetrics,
    Load,
    NPUDevice,
    NPUState,
)
from otel_lifecycle.model.features import MissingReason
from otel_lifecycle.model.finish_reason import FinishReason
from otel_lifecycle.model.record import SCHEMA_VERSION, LifecycleRecord
from otel_lifecycle.model.request import (
    SLO,
    InputTokenSource,
    Leg,
    LegOutcome,
    LegRole,
    Outcome,
    PromptBlocks,
    RequestCompletion,
    RequestStart,
)
from otel_lifecycle.model.route import LatencyPrediction, Route, RouteEndpoint

__all__ = [
    "SCHEMA_VERSION",
    "SLO",
    "Candidate",
    "Endpoint",
    "EndpointEvent",
    "EndpointEventType",
    "EndpointMetrics",
    "FinishReason",
    "InputTokenSource",
    "LatencyPrediction",
    "Leg",
    "LegOutcome",
    "LegRole",
    "LifecycleRecord",
    "Load",
    "MissingReason",
    "NPUDevice",
    "NPUState",
    "Outcome",
    "PromptBlocks",
    "RequestCompletion",
    "RequestStart",
    "Route",
    "RouteEndpoint",
]
