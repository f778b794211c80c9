"""What gauges and counters read from a store when the SDK collects."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

from opentelemetry.metrics import Observation

from otel_lifecycle import semconv
from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import EndpointMetrics, NPUState
from otel_lifecycle.store import EndpointState, LifecycleStore
from otel_lifecycle.timestamps import datetime_to_ns

Observe: TypeAlias = "Callable[[LifecycleStore, TrackerConfig], Iterator[Observation]]"

OTHER = "_OTHER"


def observe_load(field: str) -> Observe:
    """What is in flight on each endpoint; those beyond the bound as one."""

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


def observe_engine(field: str) -> Observe:
    """What engines said of themselves, unless it is stale."""

    def observe(store: LifecycleStore, config: TrackerConfig) -> Iterator[Observation]:
        for state in store.endpoints()[: config.max_metric_values]:
            metrics = state.metrics
            if metrics is None or _is_old(metrics, config):
                continue
            value = getattr(metrics, field)
            if value is not None:
                yield Observation(value, {semconv.ENDPOINT_ID: state.label})

    return observe


def observe_npu(field: str) -> Observe:
    """What NPUs do, by device where devices are known, unless it is stale."""

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


def observe_sink(field: str) -> Observe:
    """What has become of the records."""

    def observe(store: LifecycleStore, _: TrackerConfig) -> Iterator[Observation]:
        if store.sink is not None:
            yield Observation(getattr(store.sink, field))

    return observe


def observe_ignored(store: LifecycleStore, _: TrackerConfig) -> Iterator[Observation]:
    """Calls and values that were not used, by reason."""
    for reason, count in store.ignored.copy().items():
        yield Observation(count, {semconv.IGNORED_REASON: reason})


def _is_old(state: EndpointMetrics | NPUState, config: TrackerConfig) -> bool:
    moment = state.update_time if isinstance(state, EndpointMetrics) else state.observation_time
    limit = config.stale_after.total_seconds()
    return moment is not None and 0 < limit < (time.time_ns() - datetime_to_ns(moment)) / 1e9
