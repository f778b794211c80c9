"""What gauges and counters read from a store when the SDK collects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Protocol, TypeAlias

from opentelemetry.metrics import Observation

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import EndpointMetrics, NPUState, sanitize, semconv
from otel_lifecycle.model.endpoint_state import EndpointState
from otel_lifecycle.model.timestamps import datetime_to_ns
from otel_lifecycle.telemetry.cardinality import OTHER


class Sink(Protocol):
    """Where the records of a store go."""

    @property
    def queued(self) -> int:
        """Records waiting to be written."""
        ...

    @property
    def written(self) -> int:
        """Records written."""
        ...

    @property
    def dropped(self) -> int:
        """Records lost."""
        ...


class Collecting(Protocol):
    """What asks engines and devices for the state of a store's endpoints."""

    def targets(self) -> Mapping[tuple[str, str], int]:
        """How many targets there are by source and state."""
        ...


class LiveState(Protocol):
    """What gauges and counters read of a store; from any thread.

    Attributes:
        ignored: Calls and values that were not used, by reason.
    """

    ignored: Counter[str]

    @property
    def sink(self) -> Sink | None:
        """Where its records go."""
        ...

    @property
    def collector(self) -> Collecting | None:
        """What collects the state of its endpoints."""
        ...

    def endpoints(self) -> list[EndpointState]:
        """The known endpoints."""
        ...


# The last argument: Unix nanoseconds, now and then those before which a value is stale.
Observe: TypeAlias = "Callable[[LiveState, TrackerConfig, int], Iterator[Observation]]"
_PointsOf: TypeAlias = "Callable[[EndpointState, str, int], Iterator[Observation]]"


def observe_load(field: str) -> Observe:
    """What is in flight on each endpoint; those beyond the bound as one."""

    def observe(store: LiveState, config: TrackerConfig, _: int) -> Iterator[Observation]:
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

    def observe(store: LiveState, config: TrackerConfig, now_ns: int) -> Iterator[Observation]:
        oldest_ns = _oldest(config, now_ns)
        for state in store.endpoints()[: config.max_metric_values]:
            metrics = _engine_metrics(state, oldest_ns)
            value = None if metrics is None else getattr(metrics, field)
            if value is not None:
                yield Observation(value, {semconv.ENDPOINT_ID: state.label})

    return observe


def observe_npu(field: str) -> Observe:
    """What NPUs do, by device where devices are known, unless it is stale."""
    return _observe_devices(field, _npu_points)


def observe_gpu(field: str) -> Observe:
    """The same for GPUs, for which OpenTelemetry has names."""
    return _observe_devices(field, _gpu_points)


def _observe_devices(field: str, points_of: _PointsOf) -> Observe:
    def observe(store: LiveState, config: TrackerConfig, now_ns: int) -> Iterator[Observation]:
        points, oldest_ns = 0, _oldest(config, now_ns)
        for state in store.endpoints():
            for observation in points_of(state, field, oldest_ns):
                if points == config.max_metric_values:
                    return
                points += 1
                yield observation

    return observe


def _npu_points(state: EndpointState, field: str, oldest_ns: int) -> Iterator[Observation]:
    npu = state.npu
    if npu is None or not _is_current(npu, npu.observation_time, oldest_ns):
        npu = _collected_devices(state, oldest_ns, gpu=False)
    if npu is None:
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


def _gpu_points(state: EndpointState, field: str, oldest_ns: int) -> Iterator[Observation]:
    gpus = _collected_devices(state, oldest_ns, gpu=True)
    for device in gpus.devices if gpus is not None else ():
        value = getattr(device, field)
        if value is not None:
            attributes = {
                semconv.ENDPOINT_ID: state.label,
                semconv.HW_ID: device.device_id,
                semconv.HW_TYPE: "gpu",
                semconv.DEVICE_TARGET: device.target,
            }
            yield Observation(value / 100, attributes)


def observe_targets(store: LiveState, _: TrackerConfig, __: int) -> Iterator[Observation]:
    """How the collection does, by source and state of its targets."""
    if store.collector is not None:
        for (source, condition), count in store.collector.targets().items():
            attributes = {semconv.COLLECTION_SOURCE: source, semconv.COLLECTION_STATE: condition}
            yield Observation(count, attributes)


def observe_sink(field: str) -> Observe:
    """What has become of the records."""

    def observe(store: LiveState, _: TrackerConfig, __: int) -> Iterator[Observation]:
        if store.sink is not None:
            yield Observation(getattr(store.sink, field))

    return observe


def observe_ignored(store: LiveState, _: TrackerConfig, __: int) -> Iterator[Observation]:
    """Calls and values that were not used, by reason."""
    for reason, count in store.ignored.copy().items():
        yield Observation(count, {semconv.IGNORED_REASON: reason})


def _engine_metrics(state: EndpointState, oldest_ns: int) -> EndpointMetrics | None:
    """The router's own metrics of an endpoint, else what was collected; None when it is stale."""
    metrics = state.metrics
    if metrics is None or _is_old(metrics.update_time, oldest_ns):
        metrics = None if state.collected is None else sanitize.metrics(state.collected.metrics)
    return None if metrics is None or _is_old(metrics.update_time, oldest_ns) else metrics


def _collected_devices(state: EndpointState, oldest_ns: int, *, gpu: bool) -> NPUState | None:
    collected = state.collected
    if collected is None or collected.gpu is not gpu:
        return None
    npu = sanitize.npu(collected.npu)
    judged_at = datetime.fromtimestamp(collected.judged_ns / 1e9, timezone.utc)
    return npu if npu is not None and _is_current(npu, judged_at, oldest_ns) else None


def _is_current(npu: NPUState, moment: datetime | None, oldest_ns: int) -> bool:
    return npu.data_status not in ("stale", "missing") and not _is_old(moment, oldest_ns)


def _oldest(config: TrackerConfig, now_ns: int) -> int:
    """The moment before which a value is stale; 0 where none ever is."""
    limit = round(config.stale_after.total_seconds() * 1e9)
    return now_ns - limit if limit > 0 else 0


def _is_old(moment: datetime | None, oldest_ns: int) -> bool:
    return moment is not None and datetime_to_ns(moment) < oldest_ns
