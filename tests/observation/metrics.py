"""A receiver of metrics over OTLP."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
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


class MetricsReceiver(MetricsServiceServicer):
    """Keeps the last export; a context manager."""

    def __init__(self) -> None:
        self._last = ExportMetricsServiceRequest()
        self._server = grpc.server(ThreadPoolExecutor(1))
        add_MetricsServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> MetricsReceiver:
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop(None).wait()

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
