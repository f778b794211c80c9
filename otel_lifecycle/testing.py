"""For tests of instrumented routers: telemetry in memory as plain values, and a clock to move."""

from __future__ import annotations

# Before any provider: the SDK's has a thread pool work in a forked child, which waits forever there
# if this module's own hook, which frees the pools' lock, was registered after the provider's.
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
    """A clock that stands still until a test moves it: `RequestLifecycleTracker(clock=...)`.

    Args:
        wall_ns: Where the wall clock stands, Unix nanoseconds.
        monotonic_ns: Where the monotonic clock stands.
    """

    def __init__(
        self, wall_ns: int = 1_700_000_000_000_000_000, monotonic_ns: int = 1_000_000_000_000
    ) -> None:
        self._wall_ns = wall_ns
        self._monotonic_ns = monotonic_ns

    def wall_ns(self) -> int:
        """Unix nanoseconds."""
        return self._wall_ns

    def monotonic_ns(self) -> int:
        """Nanoseconds since some moment."""
        return self._monotonic_ns

    def advance(self, milliseconds: float) -> None:
        """Lets time pass, on both clocks."""
        passed_ns = round(milliseconds * 1e6)
        self._wall_ns += passed_ns
        self._monotonic_ns += passed_ns

    def set_wall_ns(self, unix_ns: int) -> None:
        """Corrects the wall clock, as a time server may at any moment."""
        self._wall_ns = unix_ns


class InMemoryTelemetry:
    """A tracer and a meter provider of their own, whose output stays in memory.

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
        """The exported lifecycle spans, without ids and times."""
        return [span_as_dict(span) for span in self.spans]

    def metrics(self) -> dict[str, dict[frozenset[tuple[str, Any]], float]]:
        """Collects: by metric name and attributes, the value, or the count of a histogram."""
        return self._collect("count")

    def histogram_sums(self) -> dict[str, dict[frozenset[tuple[str, Any]], float]]:
        """Collects: the same, with the sum of what a histogram was given instead of the count."""
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
        """Shuts both providers down."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()


def span_as_dict(span: ReadableSpan) -> dict[str, Any]:
    """A span as plain values, without ids and times."""
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
