"""Helps to test instrumented routers: in-memory telemetry, and a clock that a test moves."""

from __future__ import annotations

# Import it before any provider: its fork hook frees the lock of thread pools, and must run before
# the hook of the SDK's provider, which uses a pool in a forked child and would wait for ever.
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

from otel_lifecycle.telemetry.span_reader import is_lifecycle_span


class ManualClock:
    """A clock that only moves when a test moves it: `RequestLifecycleTracker(clock=...)`.

    Args:
        wall_ns: Start of the wall clock, Unix nanoseconds.
        monotonic_ns: Start of the monotonic clock, nanoseconds.
    """

    def __init__(
        self, wall_ns: int = 1_700_000_000_000_000_000, monotonic_ns: int = 1_000_000_000_000
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns

    def wall_ns(self) -> int:
        """Return Unix nanoseconds."""
        return self._wall_ns

    def monotonic_ns(self) -> int:
        """Return nanoseconds since an arbitrary moment."""
        return self._monotonic_ns

    def advance(self, milliseconds: float) -> None:
        """Move both clocks forward."""
        passed_ns = round(milliseconds * 1e6)
        self._wall_ns += passed_ns
        self._monotonic_ns += passed_ns

    def set_wall_ns(self, unix_ns: int) -> None:
        """Set only the wall clock, as a time server may at any moment."""
        self._wall_ns = unix_ns


class InMemoryTelemetry:
    """A tracer provider and a meter provider that export to memory.

    Args:
        sampler: The tracer provider's sampler.
        resource: Resource attributes.
    """

    def __init__(
        self, sampler: Sampler = ALWAYS_ON, resource: dict[str, Any] | None = None
    ) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        attributes = Resource(resource or {"service.name": "router"})
        self.tracer_provider = TracerProvider(
            sampler=sampler, resource=attributes, shutdown_on_exit=False
        )
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider(
            [self._reader], resource=attributes, shutdown_on_exit=False
        )

    @property
    def spans(self) -> list[ReadableSpan]:
        """The exported lifecycle spans, in the order they ended."""
        return [span for span in self._exporter.get_finished_spans() if is_lifecycle_span(span)]

    def spans_as_dicts(self) -> list[dict[str, Any]]:
        """Return the exported lifecycle spans, without ids and times."""
        return [span_as_dict(span) for span in self.spans]

    def metrics(self) -> dict[str, dict[frozenset[tuple[str, Any]], float]]:
        """Collect; return values, and counts of histograms, by metric name and attributes."""
        return self._collect("count")

    def histogram_sums(self) -> dict[str, dict[frozenset[tuple[str, Any]], float]]:
        """Collect; return the same as `metrics`, with sums of histograms instead of counts."""
        return self._collect("sum")

    def _collect(self, of_histograms: str) -> dict[str, dict[frozenset[tuple[str, Any]], float]]:
        data = self._reader.get_metrics_data()
        points: dict[str, dict[frozenset[tuple[str, Any]], float]] = {}
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    by_attributes = points.setdefault(metric.name, {})
                    for point in metric.data.data_points:
                        key = frozenset((point.attributes or {}).items())
                        by_attributes[key] = (
                            getattr(point, of_histograms)
                            if isinstance(point, HistogramDataPoint)
                            else getattr(point, "value", 0)
                        )
        return points

    def shutdown(self) -> None:
        """Shut down both providers."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def span_as_dict(span: ReadableSpan) -> dict[str, Any]:
    """Return a span as plain values, without ids and times."""
    return {
        "name": span.name,
        "kind": span.kind.name,
        "status": span.status.status_code.name,
        "attributes": {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in (span.attributes or {}).items()
        },
        "events": [(event.name, dict(event.attributes or {})) for event in span.events],
    }
