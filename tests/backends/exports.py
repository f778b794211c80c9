"""A router's exports, queried like Prometheus: an independent answer to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
)

Labels: TypeAlias = "frozenset[tuple[str, str]]"
Vector: TypeAlias = "dict[Labels, float]"
Point: TypeAlias = "NumberDataPoint | HistogramDataPoint"


class KeepingExporter(MetricExporter):
    """Keeps what it passes on."""

    def __init__(self, exporter: MetricExporter) -> None:
        super().__init__()
        self.kept: list[Export] = []
        self._exporter = exporter

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        self.kept.append(Export(metrics_data))
        return self._exporter.export(metrics_data, timeout_millis, **kwargs)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        self._exporter.shutdown(timeout_millis, **kwargs)


class Export:
    """All points of one export by metric."""

    def __init__(self, data: MetricsData) -> None:
        self.points: dict[str, list[Point]] = {
            metric.name: list(cast("list[Point]", metric.data.data_points))
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        self.unix_nanoseconds = max(
            point.time_unix_nano for points in self.points.values() for point in points
        )

    def gauge(
        self,
        name: str,
        *by: str,
        combine: Callable[[Iterable[float]], float] = sum,
    ) -> Vector:
        """`combine by (...) (name)`."""
        groups: dict[Labels, list[float]] = {}
        for point in self.points.get(name, ()):
            groups.setdefault(labels(point, by), []).append(point.value)  # type: ignore[union-attr]
        return {key: combine(values) for key, values in groups.items()}


@dataclass(frozen=True)
class Exports:
    """Two exports, and the requests between them."""

    before: Export
    after: Export

    @property
    def seconds(self) -> float:
        """Return the time between the exports."""
        return (self.after.unix_nanoseconds - self.before.unix_nanoseconds) / 1e9

    def increase(
        self,
        name: str,
        *by: str,
        read: Callable[[Point], float],
        where: Mapping[str, str] | None = None,
    ) -> Vector:
        """`sum by (...) (increase(name{where}))`, of series that both exports have.

        Args:
            name: The metric.
            by: Attributes.
            read: Reads a point.
            where: Attributes with their required values; `|` between alternatives.
        """
        before = {labels(point): read(point) for point in self.before.points.get(name, ())}
        increases: Vector = {}
        for point in self.after.points.get(name, ()):
            known = before.get(labels(point))
            if known is not None and _matches(point.attributes or {}, where or {}):
                key = labels(point, by)
                increases[key] = increases.get(key, 0.0) + read(point) - known
        return increases

    def rate(self, name: str, *by: str, where: Mapping[str, str] | None = None) -> Vector:
        """`sum by (...) (rate(name))` of a counter."""
        return over(self.increase(name, *by, read=value, where=where), self.seconds)

    def mean(self, name: str, *by: str) -> Vector:
        """`rate(name_sum) / rate(name_count)` of a histogram, where it changed."""
        counts = self.increase(name, *by, read=count)
        sums = self.increase(name, *by, read=total)
        return {key: sums[key] / counts[key] for key in counts if counts[key]}

    def quantile(self, quantile: float, name: str) -> Vector:
        """`histogram_quantile(quantile, sum by (le) (rate(name_bucket)))`, linear in a bucket."""
        points = self.after.points[name]
        bounds = points[0].explicit_bounds  # type: ignore[union-attr]
        counts = [
            sum(self.increase(name, read=lambda point, i=i: bucket(point, i)).values())
            for i in range(len(bounds) + 1)
        ]
        rank, below = quantile * sum(counts), 0.0
        for index, inside in enumerate(counts):
            if below + inside >= rank and inside:
                if index == len(bounds):
                    return {frozenset(): bounds[-1]}
                low = bounds[index - 1] if index else 0.0
                return {frozenset(): low + (bounds[index] - low) * (rank - below) / inside}
            below += inside
        return {frozenset(): math.nan}


def labels(point: Point, names: Iterable[str] | None = None) -> Labels:
    """Return attributes under Prometheus' names: all, or the existing ones among `names`."""
    attributes = point.attributes or {}
    chosen = attributes if names is None else [name for name in names if name in attributes]
    return frozenset((name.replace(".", "_"), str(attributes[name])) for name in chosen)


def value(point: Point) -> float:
    """Return the value of a counter."""
    return point.value  # type: ignore[union-attr]


def count(point: Point) -> float:
    """Return the count of a histogram."""
    return point.count  # type: ignore[union-attr]


def total(point: Point) -> float:
    """Return the sum of a histogram."""
    return point.sum  # type: ignore[union-attr]


def bucket(point: Point, index: int) -> float:
    """Return one bucket of a histogram, without lower ones."""
    return point.bucket_counts[index]  # type: ignore[union-attr]


def over(vector: Vector, divisor: float) -> Vector:
    """`vector / divisor`."""
    return {key: amount / divisor for key, amount in vector.items()}


def _matches(attributes: Mapping[str, Any], where: Mapping[str, str]) -> bool:
    return all(str(attributes.get(name)) in allowed.split("|") for name, allowed in where.items())
