"""The instruments of a meter provider, shared by the trackers that use it."""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Protocol, TypeAlias

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

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import semconv
from otel_lifecycle.runtime.clock import Clock
from otel_lifecycle.telemetry.cells import Cells
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

_Combine: TypeAlias = "Callable[[Any, Any], Any]"

_MAX_LEAVING = 16  # where nobody collects, those of closed trackers must not pile up

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


class Source(Protocol):
    """A tracker as its gauges see it.

    Attributes:
        store: Whose state the gauges show.
        config: Bounds.
        clock: What tells the age of what gauges show.
    """

    store: LiveState
    config: TrackerConfig
    clock: Clock

    def before_collect(self) -> None:
        """Record what is still waiting."""
        ...


class _Leaving:
    """A closed tracker's metrics, until each instrument has shown them a last time."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.shown_by: set[object] = set()


class Instruments:
    """The instruments of one meter provider, shared by all trackers that use it.

    An observable callback cannot be unregistered, and an instrument made again under the same name
    silently ignores its new callbacks: so there is one set, and it asks the trackers of the moment.
    """

    _by_provider: ClassVar[weakref.WeakKeyDictionary[MeterProvider, Instruments]] = (
        weakref.WeakKeyDictionary()
    )
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @classmethod
    def of(cls, provider: MeterProvider) -> Instruments:
        """The instruments of a provider."""
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
        self.cells = Cells(meter)
        self._sources: list[Source] = []
        self._leaving: list[_Leaving] = []
        self._callback_count = 0
        self.requests = self.cells.counter(
            semconv.METRIC_REQUESTS, "{request}", "Finished requests by outcome."
        )
        self.slo = self.cells.counter(
            semconv.METRIC_SLO_REQUESTS,
            "{request}",
            "Finished requests by target of a latency, and whether they met it.",
        )
        self.duration = self.cells.histogram(
            semconv.METRIC_REQUEST_DURATION,
            "Arrival of a request, or dispatch if that is unknown, to its end.",
            semconv.DURATION_BUCKETS,
        )
        self.queue = self.cells.histogram(
            semconv.QUEUE_DURATION, "Arrival of a request to its dispatch.", semconv.QUEUE_BUCKETS
        )
        self.ttft = self.cells.histogram(
            semconv.METRIC_TTFT,
            "Arrival, or dispatch if that is unknown, to a stream's first chunk.",
            semconv.TTFT_BUCKETS,
        )
        self.tpot = self.cells.histogram(
            semconv.METRIC_TPOT, "Time per output token after the first.", semconv.TPOT_BUCKETS
        )
        self.predicted_ttft = self.cells.histogram(
            semconv.METRIC_PREDICTED_TTFT,
            "Predicted time to first token of streams that had one.",
            semconv.TTFT_BUCKETS,
        )
        self.predicted_tpot = self.cells.histogram(
            semconv.METRIC_PREDICTED_TPOT,
            "Predicted time per output token of streams where it was measured.",
            semconv.TPOT_BUCKETS,
        )
        self.prediction_error = self.cells.histogram(
            semconv.METRIC_PREDICTION_ERROR,
            "Distance of the predicted from the actual latency.",
            semconv.PREDICTION_ERROR_BUCKETS,
        )
        self.margin = self.cells.histogram(
            semconv.DECISION_MARGIN,
            "Lead in score of the chosen endpoint; 0 if another one had a higher score.",
            semconv.MARGIN_BUCKETS,
            "1",
        )
        self.regret = self.cells.histogram(
            semconv.DECISION_REGRET,
            "Predicted latency of the chosen endpoint minus the lowest of its candidates.",
            semconv.REGRET_BUCKETS,
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
        self.cells.are_read()  # finds out how to record them before there is a request

    def add(self, source: Source) -> None:
        """Shows a tracker from now on."""
        self._sources = [*self._sources, source]

    def remove(self, source: Source) -> None:
        """Shows a source once more, in the last export, and then no longer."""
        self._sources = [other for other in self._sources if other is not source]
        self._leaving = [*self._leaving, _Leaving(source)][-_MAX_LEAVING:]

    def _shown_by(self, callback: object) -> list[Source]:
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
            self.cells.merge()
            yield from totals.values()

        return callback
