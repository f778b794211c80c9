"""OpenTelemetry instrumentation for LLM inference routers."""

from otel_lifecycle.config import ConfigError, PersistenceConfig, TrackerConfig
from otel_lifecycle.instrumentation.program import configure, instrument
from otel_lifecycle.model import (
    SLO,
    Candidate,
    Endpoint,
    EndpointEvent,
    EndpointEventType,
    EndpointMetrics,
    FinishReason,
    InputTokenSource,
    LatencyPrediction,
    Leg,
    LegOutcome,
    LegRole,
    Load,
    MissingReason,
    NPUDevice,
    NPUState,
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
    RouteEndpoint,
)
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.records import LifecycleSpanProcessor, RecordError, read_records
from otel_lifecycle.runtime.clock import Clock
from otel_lifecycle.telemetry.sampling import RecordAllSampler
from otel_lifecycle.tracking.handle import TrackedRequest
from otel_lifecycle.tracking.store import LifecycleStore
from otel_lifecycle.tracking.tracker import RequestLifecycleTracker
from otel_lifecycle.version import __version__

__all__ = [
    "SLO",
    "Candidate",
    "Clock",
    "ConfigError",
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
    "LifecycleSpanProcessor",
    "LifecycleStore",
    "Load",
    "MissingReason",
    "NPUDevice",
    "NPUState",
    "Outcome",
    "PersistenceConfig",
    "RecordAllSampler",
    "RecordError",
    "RequestCompletion",
    "RequestLifecycleTracker",
    "RequestStart",
    "Route",
    "RouteEndpoint",
    "TrackedRequest",
    "TrackerConfig",
    "__version__",
    "configure",
    "instrument",
    "read_records",
]
