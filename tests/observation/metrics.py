"""A receiver of metrics over OTLP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from otel_lifecycle.model import semconv
from tests.grpc_service import GrpcService


class MetricsReceiver(GrpcService, MetricsServiceServicer):
    """Keeps the last export."""

    def __init__(self) -> None:
        super().__init__(threads=1)
        self._last = ExportMetricsServiceRequest()
        add_MetricsServiceServicer_to_server(self, self.server)

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._last = request
        return ExportMetricsServiceResponse()

    def gauge(self, name: str) -> dict[str, float]:
        """The values of a gauge, by endpoint."""
        return {
            attribute.value.string_value: point.as_double or float(point.as_int)
            for metric in self._metrics(name)
            for point in metric.gauge.data_points
            for attribute in point.attributes
            if attribute.key == semconv.ENDPOINT_ID
        }

    def counts(self, name: str) -> int:
        """How many values a histogram has."""
        return sum(
            point.count for metric in self._metrics(name) for point in metric.histogram.data_points
        )

    def _metrics(self, name: str) -> Iterator[Metric]:
        for resource in self._last.resource_metrics:
            for scope in resource.scope_metrics:
                yield from (metric for metric in scope.metrics if metric.name == name)
