"""Load and NPU gauges, latency histograms and counters.

Gauges are read from the stores when the SDK collects. Everything about a finished request is
recorded by `LifecycleMetrics.record`, which the tracker calls off the request's path: three
histograms cost as much as the span.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeAlias

from opentelemetry.context import Context
from opentelemetry.metrics import (
    CallbackOptions,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)
from opentelemetry.metrics._internal import (
    _ProxyMeterProvider,  # pyright: ignore[reportPrivateUsage] - it has no public name
)
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import Outcome, semconv
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.runtime.clock import Clock
from otel_lifecycle.telemetry.cardinality import OTHER, BoundedValues
from otel_lifecycle.telemetry.observations import (
    LiveState,
    Observe,
    observe_engine,
    observe_gpu,
    observe_ignored,
    observe_load,
    observe_npu,
    observe_sink,
    observe_targets,
)
from otel_lifecycle.version import __version__

_Attributes: TypeAlias = "dict[str, str | int]"
_Combine: TypeAlias = "Callable[[Any, Any], Any]"

_MAX_LEAVING = 16  # where nobody collects, those of closed trackers must not pile up

# The attributes whose values a router chooses.
_BOUNDED = (
    semconv.REQUEST_MODEL,
    semconv.OPERATION_NAME,
    semconv.PROVIDER_NAME,
    semconv.ERROR_TYPE,
    semconv.ENDPOINT_ID,
)

_NPU_GAUGES = (
    (semconv.METRIC_NPU_CORE, "ai_core_utilization"),
    (semconv.METRIC_NPU_MEMORY, "hbm_utilization"),
    (semconv.METRIC_NPU_BANDWIDTH, "hbm_bandwidth_utilization"),
)
# OpenTelemetry has no name for the memory bandwidth of a GPU.
_GPU_GAUGES = (
    (semconv.METRIC_GPU_UTILIZATION, "ai_core_utilization"),
    (semconv.METRIC_GPU_MEMORY, "hbm_utilization"),
)
_ENGINE_GAUGES = (
    (semconv.METRIC_ENDPOINT_RUNNING, "{request}", "running_requests", "Running on the engine."),
    (semconv.METRIC_ENDPOINT_WAITING, "{request}", "waiting_requests", "Queued at the engine."),
    (semconv.METRIC_ENDPOINT_KV_CACHE, "1", "kv_cache_usage", "Used part of the KV cache."),
)


class LifecycleMetrics:
    """The metrics of one tracker; thread-safe.

    Args:
        store: Whose state the gauges show.
        config: Bounds.
        meter_provider: Where they go.
        before_collect: Called before gauges are read, to record what is still waiting.
        clock: What tells the age of what gauges show.
    """

    def __init__(
        self,
        store: LiveState,
        config: TrackerConfig,
        meter_provider: MeterProvider,
        before_collect: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.store = store
        self.config = config
        self.before_collect = before_collect
        self.clock = clock
        self._instruments = _Instruments.of(meter_provider)
        self._values = {name: BoundedValues(config.max_metric_values) for name in _BOUNDED}
        self._instruments.add(self)

    def close(self) -> None:
        """Takes the store's gauges away."""
        self._instruments.remove(self)

    def record(self, record: LifecycleRecord) -> None:
        """Records a finished request: one count, and the latencies it has."""
        instruments = self._instruments
        context = _exemplar_context(record)
        outcome = record.outcome.value
        attributes = self._request_attributes(record)
        counted: _Attributes = {semconv.OUTCOME: outcome}
        if semconv.REQUEST_MODEL in attributes:
            counted[semconv.REQUEST_MODEL] = attributes[semconv.REQUEST_MODEL]
        instruments.requests.add(1, counted, context)
        actual = record.actual
        prediction = record.prediction
        if actual.queue_ms is not None:
            instruments.queue.record(actual.queue_ms / 1000, attributes, context)
        ttft_ms = None if actual.ttft_ms is None else actual.since_arrival(actual.ttft_ms)
        for actual_ms, predicted_ms, measured, predicted in (
            (ttft_ms, prediction.ttft_ms, instruments.ttft, instruments.predicted_ttft),
            (actual.tpot_ms, prediction.tpot_ms, instruments.tpot, instruments.predicted_tpot),
        ):
            if actual_ms is not None:
                measured.record(actual_ms / 1000, attributes, context)
                # What was never measured has no counterpart to be compared with.
                if predicted_ms is not None:
                    predicted.record(predicted_ms / 1000, attributes, context)
        self._record_prediction_error(record, context)
        if actual.e2e_ms is not None:
            attributes = {**attributes, semconv.OUTCOME: outcome}
            if record.error is not None:
                attributes[semconv.ERROR_TYPE] = self._bound(semconv.ERROR_TYPE, record.error.type)
            duration = actual.since_arrival(actual.e2e_ms) / 1000
            instruments.duration.record(duration, attributes, context)
        for role in record.endpoint_deleted:
            self.forget(getattr(record.selected_route, role).label)

    def forget(self, endpoint_label: str) -> None:
        """Forgets an endpoint that was deleted; after the records of what has ended on it.

        Args:
            endpoint_label: Its `Endpoint.label`.
        """
        self._values[semconv.ENDPOINT_ID].forget(endpoint_label)

    def _request_attributes(self, record: LifecycleRecord) -> _Attributes:
        route = record.selected_route
        attributes: _Attributes = {}
        for name, value in (
            (semconv.REQUEST_MODEL, record.model),
            (semconv.OPERATION_NAME, record.operation),
            (semconv.PROVIDER_NAME, record.provider),
        ):
            if value:
                # Clients may ask for any model: only what an engine has served is told apart.
                is_known = name != semconv.REQUEST_MODEL or (
                    route is not None and record.outcome is Outcome.COMPLETED
                )
                attributes[name] = self._bound(name, value, let_in=is_known)
        if route is not None and route.leader.address:
            leader = route.leader
            if self._bound(semconv.ENDPOINT_ID, leader.label) is OTHER:
                attributes[semconv.SERVER_ADDRESS] = OTHER
            else:
                attributes[semconv.SERVER_ADDRESS] = leader.address
                if leader.port.isdecimal():
                    attributes[semconv.SERVER_PORT] = int(leader.port)
        return attributes

    def _record_prediction_error(self, record: LifecycleRecord, context: Context | None) -> None:
        route = record.selected_route
        if route is None:
            return
        errors = record.prediction_error
        for target, error_ms, snapshot in (
            ("ttft", errors.ttft_ms, route.prefill or route.leader),
            ("tpot", errors.tpot_ms, route.decode or route.leader),
        ):
            if error_ms is not None:
                attributes = {
                    semconv.PREDICTION_TARGET: target,
                    semconv.PREDICTION_DIRECTION: "too_low" if error_ms > 0 else "too_high",
                    semconv.ENDPOINT_ID: self._bound(semconv.ENDPOINT_ID, snapshot.label),
                }
                # The SDK refuses negative values in histograms: the sign is an attribute.
                error = abs(error_ms) / 1000
                self._instruments.prediction_error.record(error, attributes, context)

    def _bound(self, name: str, value: str, *, let_in: bool = True) -> str:
        return self._values[name].bound(value, self.clock.monotonic_ns(), let_in=let_in)


class _Leaving:
    """A closed tracker's metrics, until each instrument has shown them a last time."""

    def __init__(self, source: LifecycleMetrics) -> None:
        self.source = source
        self.shown_by: set[object] = set()


class _Instruments:
    """The instruments of one meter provider, shared by all trackers that use it.

    An observable callback cannot be unregistered, and an instrument made again under the same name
    silently ignores its new callbacks: so there is one set, and it asks the trackers of the moment.
    """

    _by_provider: ClassVar[weakref.WeakKeyDictionary[MeterProvider, _Instruments]] = (
        weakref.WeakKeyDictionary()
    )
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def of(cls, provider: MeterProvider) -> _Instruments:
        with cls._lock:
            instruments = cls._by_provider.get(provider)
            if instruments is None and provider is get_meter_provider():
                # Those made before the global provider was set are its own by now.
                instruments = next(
                    (
                        early
                        for stand_in, early in cls._by_provider.items()
                        if isinstance(stand_in, _ProxyMeterProvider)
                    ),
                    None,
                )
            if instruments is None:
                instruments = cls._by_provider[provider] = cls(
                    provider.get_meter(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
                )
            return instruments

    def __init__(self, meter: Meter) -> None:
        self._sources: list[LifecycleMetrics] = []
        self._leaving: list[_Leaving] = []
        self._callback_count = 0
        self.duration = meter.create_histogram(
            semconv.METRIC_REQUEST_DURATION,
            unit="s",
            description="Arrival of a request, or dispatch if that is unknown, to its end.",
            explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
        )
        self.queue = meter.create_histogram(
            semconv.QUEUE_DURATION,
            unit="s",
            description="Arrival of a request to its dispatch.",
            explicit_bucket_boundaries_advisory=semconv.QUEUE_BUCKETS,
        )
        self.ttft = meter.create_histogram(
            semconv.METRIC_TTFT,
            unit="s",
            description="Arrival, or dispatch if that is unknown, to a stream's first chunk.",
            explicit_bucket_boundaries_advisory=semconv.TTFT_BUCKETS,
        )
        self.tpot = meter.create_histogram(
            semconv.METRIC_TPOT,
            unit="s",
            description="Time per output token after the first.",
            explicit_bucket_boundaries_advisory=semconv.TPOT_BUCKETS,
        )
        self.predicted_ttft = meter.create_histogram(
            semconv.METRIC_PREDICTED_TTFT,
            unit="s",
            description="Predicted time to first token of streams that had one.",
            explicit_bucket_boundaries_advisory=semconv.TTFT_BUCKETS,
        )
        self.predicted_tpot = meter.create_histogram(
            semconv.METRIC_PREDICTED_TPOT,
            unit="s",
            description="Predicted time per output token of streams where it was measured.",
            explicit_bucket_boundaries_advisory=semconv.TPOT_BUCKETS,
        )
        self.prediction_error = meter.create_histogram(
            semconv.METRIC_PREDICTION_ERROR,
            unit="s",
            description="Distance of the predicted from the actual latency.",
            explicit_bucket_boundaries_advisory=semconv.PREDICTION_ERROR_BUCKETS,
        )
        self.requests = meter.create_counter(
            semconv.METRIC_REQUESTS, unit="{request}", description="Finished requests by outcome."
        )
        for name, unit, field, description in (
            (semconv.METRIC_INFLIGHT_REQUESTS, "{request}", "requests", "Requests in flight."),
            (semconv.METRIC_INFLIGHT_TOKENS, "{token}", "tokens", "Input tokens in flight."),
        ):
            self._gauge(meter, name, unit, description, observe_load(field), operator.add)
        for name, unit, field, description in _ENGINE_GAUGES:
            self._gauge(meter, name, unit, description, observe_engine(field), max)
        for name, field in _NPU_GAUGES:
            self._gauge(meter, name, "1", "Utilization of an NPU.", observe_npu(field), max)
        for name, field in _GPU_GAUGES:
            self._gauge(meter, name, "1", "Utilization of a GPU.", observe_gpu(field), max)
        self._gauge(
            meter,
            semconv.METRIC_COLLECTION_TARGETS,
            "{target}",
            "Targets whose state is collected, by source and state.",
            observe_targets,
            operator.add,
        )
        self._gauge(
            meter,
            semconv.METRIC_RECORDS_QUEUE,
            "{record}",
            "Records waiting to be written.",
            observe_sink("queued"),
            operator.add,
        )
        for name, field, description in (
            (semconv.METRIC_RECORDS_WRITTEN, "written", "Records written to the file."),
            (semconv.METRIC_RECORDS_DROPPED, "dropped", "Records lost."),
        ):
            meter.create_observable_counter(
                name, [self._callback(observe_sink(field), operator.add)], "{record}", description
            )
        meter.create_observable_counter(
            semconv.METRIC_IGNORED,
            [self._callback(observe_ignored, operator.add)],
            "{call}",
            "Calls and values that were not used, by reason.",
        )

    def add(self, source: LifecycleMetrics) -> None:
        self._sources = [*self._sources, source]

    def remove(self, source: LifecycleMetrics) -> None:
        """Shows a source once more, in the last export, and then no longer."""
        self._sources = [other for other in self._sources if other is not source]
        self._leaving = [*self._leaving, _Leaving(source)][-_MAX_LEAVING:]

    def _shown_by(self, callback: object) -> list[LifecycleMetrics]:
        leaving = [entry for entry in self._leaving if callback not in entry.shown_by]
        for entry in leaving:
            entry.shown_by.add(callback)
        self._leaving = [
            entry for entry in self._leaving if len(entry.shown_by) < self._callback_count
        ]
        return [*self._sources, *(entry.source for entry in leaving)]

    def _gauge(
        self,
        meter: Meter,
        name: str,
        unit: str,
        description: str,
        observe: Observe,
        combine: _Combine,
    ) -> None:
        meter.create_observable_gauge(name, [self._callback(observe, combine)], unit, description)

    def _callback(
        self, observe: Observe, combine: _Combine
    ) -> Callable[[CallbackOptions], Iterator[Observation]]:
        """What reads the stores of all trackers.

        Args:
            observe: Reads one store.
            combine: Makes one value of two with the same attributes. Two stores each have a load,
                but an engine that both know is only once as full.
        """
        self._callback_count += 1

        def callback(_: CallbackOptions) -> Iterator[Observation]:
            totals: dict[frozenset[tuple[str, Any]], Observation] = {}
            seen: set[LiveState] = set()
            for source in self._shown_by(callback):
                source.before_collect()
                if source.store in seen:
                    continue
                seen.add(source.store)
                for observation in observe(source.store, source.config, source.clock.wall_ns()):
                    key = frozenset((observation.attributes or {}).items())
                    other = totals.get(key)
                    if other is not None:
                        value = combine(other.value, observation.value)
                        observation = Observation(value, observation.attributes)
                    totals[key] = observation
            yield from totals.values()

        return callback


def _exemplar_context(record: LifecycleRecord) -> Context | None:
    """The request's own span, for exemplars: it is no longer current when this runs."""
    if not record.trace_flags or record.trace_id is None or record.span_id is None:
        return None
    return set_span_in_context(
        NonRecordingSpan(
            SpanContext(
                int(record.trace_id, 16),
                int(record.span_id, 16),
                is_remote=False,
                trace_flags=TraceFlags(record.trace_flags),
            )
        )
    )
