"""Sets up the SDK's global providers where a program has set up none."""

from __future__ import annotations

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_lifecycle.instrumentation.providers import has_meter_provider, has_tracer_provider
from otel_lifecycle.telemetry.otlp.destinations import (
    is_sdk_disabled,
    metric_exporter,
    span_exporter,
)


def set_up(service_name: str | None, endpoint: str | None) -> None:
    """Set up a global provider of tracers and one of meters.

    Args:
        service_name: Default: that of the environment.
        endpoint: Default: that of the environment. Without either nothing is exported.

    Raises:
        ValueError: A variable is invalid; neither provider was set up.
    """
    if is_sdk_disabled():
        return
    resource = Resource.create({SERVICE_NAME: service_name} if service_name else {})
    makes_spans, makes_metrics = not has_tracer_provider(), not has_meter_provider()
    spans = span_exporter(endpoint) if makes_spans else None
    values = metric_exporter(endpoint) if makes_metrics else None
    if makes_spans:
        tracer_provider = TracerProvider(resource=resource)
        if spans is not None:
            tracer_provider.add_span_processor(BatchSpanProcessor(spans))
        trace.set_tracer_provider(tracer_provider)
    if makes_metrics:
        readers = [] if values is None else [PeriodicExportingMetricReader(values)]
        metrics.set_meter_provider(MeterProvider(readers, resource))
