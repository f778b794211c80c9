"""Adds many values at once to a counter or histogram of the SDK, which has no public way to do it.

Only this module knows private parts of the SDK. `places_of` names the places where values can be
added; it names none where the SDK is not as known, which a short trial shows, or is another one,
or is asked for anything but its defaults: a view of the instrument, another aggregation, another
exemplar filter. Then each value must be recorded by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple, TypeAlias, cast

from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otel_lifecycle.runtime.logs import get_logger

_logger = get_logger(__name__)

# The type checker shall know nothing of private classes.
_Internal: TypeAlias = Any
Consumer: TypeAlias = _Internal
Place: TypeAlias = _Internal
Aggregation: TypeAlias = _Internal
Key: TypeAlias = "frozenset[tuple[str, Any]]"

_OVERFLOW: Final = frozenset({("otel.metric.overflow", True)})


class Exemplar(NamedTuple):
    """A value as an example of its bucket, and the span on which it was measured."""

    value: float
    unix_ns: int
    context: Context


def real(instrument: Any) -> Any:
    """An instrument itself; of a stand-in the one that it stands for, None while there is none."""
    return getattr(instrument, "_real_instrument", instrument)


def consumer_of(instrument: Any) -> Consumer | None:
    """Where the SDK's instruments send measurements; None if it must not be passed by."""
    consumer = getattr(instrument, "_measurement_consumer", None)
    return consumer if consumer is not None and _is_understood() and _is_usual(consumer) else None


def readers_of(consumer: Consumer) -> Mapping[Any, _Internal]:
    """The readers and what is stored for each; another mapping when they change."""
    return consumer._reader_storages


def keeps_exemplars(consumer: Consumer) -> bool:
    """Whether exemplars are kept of sampled spans; else of none."""
    return type(consumer._sdk_config.exemplar_filter) is sdk.TraceBasedExemplarFilter


def is_enabled(instrument: Any) -> bool:
    """Whether an instrument records; SDKs before 1.40 cannot turn one off."""
    ask = getattr(instrument, "_is_enabled", None)
    return ask is None or ask()


def places_of(
    instrument: Any, bounds: Sequence[float], readers: Mapping[Any, _Internal]
) -> list[Place] | None:
    """Where the series of an instrument are, a place for each reader; None: do not add to them.

    Args:
        instrument: Of the SDK.
        bounds: Of a histogram's buckets.
        readers: As of `readers_of`.
    """
    aggregation = _module("aggregation")
    default_view = _module("metric_reader_storage")._DEFAULT_VIEW
    usual: Any = {
        aggregation._SumAggregation: Counter,
        aggregation._ExplicitBucketHistogramAggregation: Histogram,
    }
    places: list[Place] = []
    for storage in readers.values():
        for place in storage._get_or_init_view_instrument_match(instrument):
            found = place._aggregation
            is_default = place._view is default_view
            if not is_default or not isinstance(instrument, usual.get(type(found), ())):
                return None
            if isinstance(instrument, Histogram) and (
                found._boundaries != tuple(bounds) or not found._record_min_max
            ):
                return None
            places.append(place)
    return places


def series_in(place: Place) -> dict[Key, Aggregation]:
    """The aggregations in a place, by attributes."""
    found = place._attributes_aggregation.values()
    return {frozenset(aggregation._attributes.items()): aggregation for aggregation in found}


def aggregation_in(series: Mapping[Key, Aggregation], key: Key) -> Aggregation:
    """The one of a series that has just been recorded to; beyond a limit series share one."""
    return series.get(key) or series[_OVERFLOW]


def add_count(aggregation: Aggregation, count: int) -> None:
    """Add to a counter."""
    with aggregation._lock:
        aggregation._value = (aggregation._value or 0) + count


def add_values(
    aggregation: Aggregation, counts: Sequence[int], total: float, least: float, most: float
) -> None:
    """Add values to a histogram: their number by bucket, sum, minimum and maximum."""
    with aggregation._lock:
        so_far = aggregation._value or [0] * len(counts)
        aggregation._value = [a + b for a, b in zip(so_far, counts, strict=True)]
        aggregation._sum += total
        aggregation._min = min(aggregation._min, least)
        aggregation._max = max(aggregation._max, most)


def offer(aggregation: Aggregation, exemplar: Exemplar, attributes: Mapping[str, Any]) -> None:
    """Offer an exemplar, the last of its bucket."""
    value, unix_ns, context = exemplar
    aggregation._reservoir.offer(value, unix_ns, attributes, context)


def _is_usual(consumer: Consumer) -> bool:
    filters = (sdk.TraceBasedExemplarFilter, sdk.AlwaysOffExemplarFilter)
    usual = _module("measurement_consumer").SynchronousMeasurementConsumer
    return type(consumer) is usual and type(consumer._sdk_config.exemplar_filter) in filters


def _module(name: str) -> _Internal:
    return import_module(f"opentelemetry.sdk.metrics._internal.{name}")


@cache
def _is_understood() -> bool:
    """Whether values that are added give the points of values that are recorded."""
    try:
        understood = _trial(in_one=True) == _trial(in_one=False)
    except Exception as error:
        understood = False
        _logger.debug("the SDK's metrics are not as known: %s: %s", type(error).__name__, error)
    if not understood:
        _logger.debug("each value of a metric is recorded by itself, which takes longer")
    return understood


def _trial(*, in_one: bool) -> list[object]:
    """The points of two readers, of values that are added in one or recorded one by one."""
    delta = AggregationTemporality.DELTA
    readers = [
        InMemoryMetricReader(),
        InMemoryMetricReader({sdk.Counter: delta, sdk.Histogram: delta}),
    ]
    provider = sdk.MeterProvider(
        readers, Resource.get_empty(), sdk.TraceBasedExemplarFilter(), shutdown_on_exit=False
    )
    meter = provider.get_meter(__name__)
    counter = meter.create_counter("counter")
    bounds = (1.0, 2.0)
    histogram = meter.create_histogram("histogram", explicit_bucket_boundaries_advisory=bounds)
    attributes = {"key": "value"}
    span = NonRecordingSpan(SpanContext(1, 2, False, TraceFlags(TraceFlags.SAMPLED)))
    context = set_span_in_context(span, Context())
    points: list[object] = []
    for _ in range(2):  # what was collected once is not collected again
        counter.add(1, attributes)
        histogram.record(1.0, attributes)
        if in_one:
            key = frozenset(attributes.items())
            storages = readers_of(cast("_Internal", counter)._measurement_consumer)
            for place in places_of(counter, (), storages) or ():
                add_count(aggregation_in(series_in(place), key), 3)
            for place in places_of(histogram, bounds, storages) or ():
                aggregation = aggregation_in(series_in(place), key)
                add_values(aggregation, (1, 1, 1), 6.5, 0.5, 4.0)
                for value in (0.5, 2.0, 4.0):
                    offer(aggregation, Exemplar(value, 0, context), attributes)
        else:
            for value in (0.5, 2.0, 4.0):
                counter.add(1, attributes)
                histogram.record(value, attributes, context)
        points += map(_points_of, readers)
    return points


def _points_of(reader: InMemoryMetricReader) -> list[object]:
    """What a reader collects, without times."""
    data = reader.get_metrics_data()
    return [
        (
            (point.count, point.sum, point.bucket_counts, point.min, point.max),
            [(exemplar.value, exemplar.trace_id) for exemplar in point.exemplars],
        )
        if isinstance(point, HistogramDataPoint)
        else getattr(point, "value", None)
        for resource in (data.resource_metrics if data is not None else ())
        for scope in resource.scope_metrics
        if scope.scope.name == __name__
        for metric in scope.metrics
        for point in metric.data.data_points
    ]
