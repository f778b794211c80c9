"""Where OpenTelemetry's variables send spans and metrics over OTLP, if anywhere, and how."""

from __future__ import annotations

import os
from typing import Any, Literal

from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

GRPC = "grpc"
HTTP_PROTOBUF = "http/protobuf"


def protocol(signal: Literal["TRACES", "METRICS"]) -> str:
    """Return the protocol that OpenTelemetry's variables ask for.

    Raises:
        ValueError: It is unknown; the text names variable, value and what is allowed.
    """
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    name = next(filter(os.environ.get, names), None)
    asked = os.environ[name].strip() if name else GRPC
    if asked not in (GRPC, HTTP_PROTOBUF):
        raise ValueError(f"{name}: must be {GRPC} or {HTTP_PROTOBUF}, got {asked!r}")
    return asked


def is_sdk_disabled() -> bool:
    """Return whether OpenTelemetry's variables turn the SDK off."""
    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


def has_destination(signal: Literal["TRACES", "METRICS"], endpoint: str | None = None) -> bool:
    """Return whether anything is exported: to `endpoint`, or to that of a variable."""
    if is_sdk_disabled():
        return False
    if os.environ.get(f"OTEL_{signal}_EXPORTER", "").strip() == "none":
        return False
    names = (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return bool(endpoint or any(map(os.environ.get, names)))


def span_exporter(endpoint: str | None = None) -> SpanExporter | None:
    """Return what exports spans; None if there is no destination.

    Args:
        endpoint: The collector. Default: the variables' one.

    Raises:
        ValueError: A variable is invalid.
    """
    if not has_destination("TRACES", endpoint):
        return None
    from otel_lifecycle.telemetry.otlp.exporter import LifecycleSpanExporter

    return LifecycleSpanExporter(endpoint)


def metric_exporter(endpoint: str | None = None) -> MetricExporter | None:
    """Return what exports metrics; None if there is no destination.

    Args:
        endpoint: The collector. Default: the variables' one.

    Raises:
        ValueError: A variable is invalid.
    """
    if not has_destination("METRICS", endpoint):
        return None
    spoken = protocol("METRICS")
    # Imported where they are needed: a router uses one of them, and gRPC takes megabytes.
    if spoken == GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    return OTLPMetricExporter(**endpoint_argument(endpoint, "metrics", spoken))


def endpoint_argument(endpoint: str | None, signal: str, spoken: str) -> dict[str, Any]:
    """Return the argument `endpoint` of one of the SDK's exporters; none if there is no endpoint.

    Over HTTP that is the whole URL, with the path of the signal.
    """
    if not endpoint:
        return {}
    return {"endpoint": endpoint if spoken == GRPC else f"{endpoint.rstrip('/')}/v1/{signal}"}
