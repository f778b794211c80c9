"""Load and NPU gauges, latency histograms and counters.

Gauges are read from the stores when the SDK collects. Everything about a finished request is
recorded by `LifecycleMetrics.record`, which the tracker calls off the request's path: three
histograms cost as much as the span.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeAlias

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otel_lifecycle import semconv
from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import EndpointMetrics, NPUState
from otel_lifecycle.record import EndpointSnapshot, LifecycleRecord
from otel_lifecycle.store import EndpointState, LifecycleStore
from otel_lifecycle.timestamps import datetime_to_ns
from otel_lifecycle.version import __version__

_Attributes: TypeAlias = "dict[str, str | int]"
_Observe: TypeAlias = "Callable[[LifecycleStore, TrackerConfig], Iterator[Observation]]"

OTHER = "_OTHER"

_NPU_GAUGES = (
    (semconv.METRIC_NPU_CORE, "ai_core_utilization"),
    (semconv.METRIC_NPU_MEMORY, "hbm_utilization"),
    (semconv.METRIC_NPU_BANDWIDTH, "hbm_bandwidth_utilization"),
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
    """

    def __init__(
        self,
        store: LifecycleStore,
        config: TrackerConfig,
        meter_provider: MeterProvider,
        before_collect: Callable[[], None],
    ) -> None:
        self.store = store
        self.config = config
        self.before_collect = before_collect
        self._instruments = _Instruments.of(meter_provider)
        self._models = _BoundedValues(config.max_metric_values)
        self._endpoints = _BoundedValues(config.max_metric_values)
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
        if actual.ttft_ms is not None:
            instruments.ttft.record(actual.ttft_ms / 1000, attributes, context)
        if actual.tpot_ms is not None:
            instruments.tpot.record(actual.tpot_ms / 1000, attributes, context)
        self._record_prediction_error(record, context)
        if actual.e2e_ms is not None:
            attributes = {**attributes, semconv.OUTCOME: outcome}
            if record.error is not None:
                attributes[semconv.ERROR_TYPE] = record.error.type
            instruments.duration.record(actual.e2e_ms / 1000, attributes, context)

    def _request_attributes(self, record: LifecycleRecord) -> _Attributes:
        route = record.selected_route
        attributes: _Attributes = {}
        if record.model:
            attributes[semconv.REQUEST_MODEL] = self._models.bound(record.model)
        if record.operation:
            attributes[semconv.OPERATION_NAME] = record.operation
        if record.provider:
            attributes[semconv.PROVIDER_NAME] = record.provider
        if route is not None and route.leader.address:
            leader = route.leader
            if self._endpoints.bound(_label(leader)) is OTHER:
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
                    semconv.ENDPOINT_ID: self._endpoints.bound(_label(snapshot)),
                }
                # The SDK refuses negative values in histograms: the sign is an attribute.
                error = abs(error_ms) / 1000
                self._instruments.prediction_error.record(error, attributes, context)


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
            if instruments is None:
                instruments = cls._by_provider[provider] = cls(
                    provider.get_meter(semconv.SCOPE, __version__, semconv.SCHEMA_URL)
                )
            return instruments

    def __init__(self, meter: Meter) -> None:
        self._sources: list[LifecycleMetrics] = []
        self.duration = meter.create_histogram(
            semconv.METRIC_REQUEST_DURATION,
            unit="s",
            description="Dispatch to end of a request.",
            explicit_bucket_boundaries_advisory=semconv.DURATION_BUCKETS,
        )
        self.ttft = meter.create_histogram(
            semconv.METRIC_TTFT,
            unit="s",
            description="Dispatch to first chunk of a streamed response.",
            explicit_bucket_boundaries_advisory=semconv.TTFT_BUCKETS,
        )
        self.tpot = meter.create_histogram(
            semconv.METRIC_TPOT,
            unit="s",
            description="Time per output token after the first.",
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
            self._gauge(meter, name, unit, description, _observe_load(field))
        for name, unit, field, description in _ENGINE_GAUGES:
            self._gauge(meter, name, unit, description, _observe_engine(field))
        for name, field in _NPU_GAUGES:
            self._gauge(meter, name, "1", "Utilization of an NPU.", _observe_npu(field))
        self._gauge(
            meter,
            semconv.METRIC_RECORDS_QUEUE,
            "{record}",
            "Records waiting to be written.",
            _observe_sink("queued"),
        )
        for name, field, description in (
            (semconv.METRIC_RECORDS_WRITTEN, "written", "Records written to the file."),
            (semconv.METRIC_RECORDS_DROPPED, "dropped", "Records lost."),
        ):
            meter.create_observable_counter(
                name, [self._callback(_observe_sink(field))], "{record}", description
            )
        meter.create_observable_counter(
            semconv.METRIC_IGNORED,
            [self._callback(_observe_ignored)],
            "{call}",
            "Calls and values that were not used, by reason.",
        )

    def add(self, source: LifecycleMetrics) -> None:
        self._sources = [*self._sources, source]

    def remove(self, source: LifecycleMetrics) -> None:
        self._sources = [other for other in self._sources if other is not source]

    def _gauge(
        self, meter: Meter, name: str, unit: str, description: str, observe: _Observe
    ) -> None:
        meter.create_observable_gauge(name, [self._callback(observe)], unit, description)

    def _callback(self, observe: _Observe) -> Callable[[CallbackOptions], Iterator[Observation]]:
        def callback(_: CallbackOptions) -> Iterator[Observation]:
            totals: dict[frozenset[tuple[str, Any]], Observation] = {}
            seen: set[LifecycleStore] = set()
            for source in self._sources:
                source.before_collect()
                if source.store in seen:
                    continue
                seen.add(source.store)
                for observation in observe(source.store, source.config):
                    key = frozenset((observation.attributes or {}).items())
                    other = totals.get(key)
                    value = observation.value + (0 if other is None else other.value)
                    totals[key] = Observation(value, observation.attributes)
            yield from totals.values()

        return callback


class _BoundedValues:
    """Lets a bounded number of values become metric attributes; the rest are `_OTHER`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: set[str] = set()

    def bound(self, value: str) -> str:
        if value in self._values:
            return value
        if len(self._values) >= self._limit:
            return OTHER
        self._values.add(value)
        return value


def _observe_load(field: str) -> _Observe:
    def observe(store: LifecycleStore, config: TrackerConfig) -> Iterator[Observation]:
        others = 0
        states = store.endpoints()
        for state in states[: config.max_metric_values]:
            yield Observation(getattr(state, field), {semconv.ENDPOINT_ID: state.label})
        for state in states[config.max_metric_values :]:
            others += getattr(state, field)
        if len(states) > config.max_metric_values:
            yield Observation(others, {semconv.ENDPOINT_ID: OTHER})

    return observe


def _observe_engine(field: str) -> _Observe:
    def observe(store: LifecycleStore, config: TrackerConfig) -> Iterator[Observation]:
        for state in store.endpoints()[: config.max_metric_values]:
            metrics = state.metrics
            if metrics is None or _is_old(metrics, config):
                continue
            value = getattr(metrics, field)
            if value is not None:
                yield Observation(value, {semconv.ENDPOINT_ID: state.label})

    return observe


def _observe_npu(field: str) -> _Observe:
    def observe(store: LifecycleStore, config: TrackerConfig) -> Iterator[Observation]:
        points = 0
        for state in store.endpoints():
            for observation in _npu_points(state, field, config):
                if points == config.max_metric_values:
                    return
                points += 1
                yield observation

    return observe


def _npu_points(state: EndpointState, field: str, config: TrackerConfig) -> Iterator[Observation]:
    npu = state.npu
    if npu is None or npu.data_status in ("stale", "missing") or _is_old(npu, config):
        return
    for device in npu.devices:
        value = getattr(device, field)
        if value is not None:
            attributes = {
                semconv.ENDPOINT_ID: state.label,
                semconv.DEVICE_ID: device.device_id,
                semconv.DEVICE_TARGET: device.target,
            }
            yield Observation(value / 100, attributes)
    if not npu.devices:
        value = getattr(npu, f"{field}_avg")
        if value is not None:
            yield Observation(value / 100, {semconv.ENDPOINT_ID: state.label})


def _observe_sink(field: str) -> _Observe:
    def observe(store: LifecycleStore, _: TrackerConfig) -> Iterator[Observation]:
        if store.sink is not None:
            yield Observation(getattr(store.sink, field))

    return observe


def _observe_ignored(store: LifecycleStore, _: TrackerConfig) -> Iterator[Observation]:
    for reason, count in store.ignored.copy().items():
        yield Observation(count, {semconv.IGNORED_REASON: reason})


def _is_old(state: EndpointMetrics | NPUState, config: TrackerConfig) -> bool:
    moment = state.update_time if isinstance(state, EndpointMetrics) else state.observation_time
    limit = config.stale_after.total_seconds()
    return moment is not None and 0 < limit < (time.time_ns() - datetime_to_ns(moment)) / 1e9


def _label(snapshot: EndpointSnapshot) -> str:
    return f"{snapshot.id}#{snapshot.name}" if snapshot.name else snapshot.id


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
