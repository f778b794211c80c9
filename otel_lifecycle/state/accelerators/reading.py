"""What one device was read to do, and the state that many such readings make.

Every source (`npu_exporter`, `npu_smi`, `dcgm`, `amd`) ends in `DeviceReading`s, so that what
follows - matching to endpoints, staleness, averages - is written once for NPUs and GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Literal, TypeAlias

import msgspec

from otel_lifecycle.model import NPUDevice, NPUState

Group: TypeAlias = Literal["core", "memory", "memory_bandwidth"]
Kind: TypeAlias = Literal["npu", "gpu"]

GROUPS: tuple[Group, ...] = ("core", "memory", "memory_bandwidth")

# Thrice the slowest default refresh of an exporter: npu-exporter reads everything once in 5 s until
# v26.0.1, and since v26.1.0 utilization once in 1 s, memory and its bandwidth once in 60 s
# (`metricConfiguration.json` of mind-cluster's npu-exporter).
STALE_AFTER: Mapping[Group, float] = MappingProxyType(
    {"core": 15.0, "memory": 180.0, "memory_bandwidth": 180.0}
)


class DeviceReading(msgspec.Struct, frozen=True):
    """What one source said of one device; utilizations in percent, 0 to 100, None is unknown.

    A device that serves several pods may be read once for each.

    Attributes:
        kind: `npu` or `gpu`.
        device_id: The source's id of the device, unique on its host.
        target: Where it was read, `host:port`; set by whoever fetched it.
        namespace: Kubernetes namespace of the pod that uses the device; empty when unknown.
        pod_name: That pod; empty when unknown.
        host: The machine, where the source names it.
        core_utilization: Compute.
        memory_utilization: Device memory in use.
        memory_bandwidth_utilization: Device memory bandwidth in use.
        core_observed_at: When the group was read, in seconds since the epoch: the source's own
            timestamp where it gives one, else the time of the scrape. None: the source said
            nothing of the group.
        memory_observed_at: The same for the memory.
        memory_bandwidth_observed_at: The same for its bandwidth.
        invalid: Groups of which the source gave a value that cannot be one.
    """

    kind: Kind
    device_id: str
    target: str = ""
    namespace: str = ""
    pod_name: str = ""
    host: str = ""
    core_utilization: float | None = None
    memory_utilization: float | None = None
    memory_bandwidth_utilization: float | None = None
    core_observed_at: float | None = None
    memory_observed_at: float | None = None
    memory_bandwidth_observed_at: float | None = None
    invalid: frozenset[Group] = frozenset()


def npu_state(
    readings: Iterable[DeviceReading],
    *,
    now: float,
    stale_after: Mapping[Group, float] = STALE_AFTER,
) -> NPUState:
    """Combine the readings of one endpoint's devices, from any source, into its state.

    A value is fresh when its time lies within the group's limit of `now`, before or after: an
    exporter whose clock runs further ahead than that cannot be told from one that hangs. A device
    whose core value is stale has no fresh ones: its source has stopped, however long the limit of
    its memory. Averages and maxima are over the fresh values; where nothing is fresh, over the last
    ones known. Where a group has only values that cannot be one (-1, a blank), its average and
    maximum are NaN, which is recorded as null with the reason `npu_invalid_value`.

    Args:
        readings: Of the endpoint's devices; of a device that was read twice the newest counts.
        now: Seconds since the epoch.
        stale_after: Seconds after which a group is stale.

    Returns:
        The state, its status `fresh` (every group of every device is), `partial` (some are),
        `stale` (none is, but some were) or `missing` (nothing was ever read). Its observation time
        is that of the device whose newest value is the oldest.
    """
    devices = _newest(readings)
    values = [_values(device, now, stale_after) for device in devices]
    status = "partial"
    if not any(values):
        values = [_values(device, now, _NEVER) for device in devices]
        status = "stale" if any(values) else "missing"
    elif all(math.isfinite(one.get(group, math.nan)) for one in values for group in GROUPS):
        status = "fresh"
    core, memory, bandwidth = ([one[group] for one in values if group in one] for group in GROUPS)
    return NPUState(
        observation_time=_observation_time(devices, values, now),
        data_status=status,
        device_count=len(devices) or None,
        ai_core_utilization_avg=_average(core),
        ai_core_utilization_max=_maximum(core),
        hbm_utilization_avg=_average(memory),
        hbm_utilization_max=_maximum(memory),
        hbm_bandwidth_utilization_avg=_average(bandwidth),
        hbm_bandwidth_utilization_max=_maximum(bandwidth),
        devices=tuple(
            NPUDevice(device.target, device.device_id, *map(one.get, GROUPS))
            for device, one in zip(devices, values, strict=True)
        ),
    )


_NEVER: Mapping[Group, float] = dict.fromkeys(GROUPS, math.inf)


def _newest(readings: Iterable[DeviceReading]) -> list[DeviceReading]:
    """Keep the newest reading per device: a card shared by pods is read once for each."""
    newest: dict[tuple[str, str, str], DeviceReading] = {}
    for reading in readings:
        key = (reading.target, reading.host, reading.device_id)
        known = newest.get(key)
        if known is None or _last_observed(reading) > _last_observed(known):
            newest[key] = reading
    return list(newest.values())


def _last_observed(reading: DeviceReading, groups: Iterable[Group] = GROUPS) -> float:
    moments: list[float | None] = [getattr(reading, f"{group}_observed_at") for group in groups]
    return max((moment for moment in moments if moment is not None), default=-math.inf)


def _values(
    reading: DeviceReading, now: float, stale_after: Mapping[Group, float]
) -> dict[Group, float]:
    """Return the fresh value of each group; NaN stands for an invalid value."""
    values: dict[Group, float] = {}
    for group in GROUPS:
        observed_at: float | None = getattr(reading, f"{group}_observed_at")
        if observed_at is None:
            continue
        if not abs(now - observed_at) <= stale_after[group]:  # not a number is not fresh either
            if group == "core":
                return {}
            continue
        value: float | None = getattr(reading, f"{group}_utilization")
        if value is not None:
            values[group] = value
        elif group in reading.invalid:
            values[group] = math.nan
    return values


def _observation_time(
    devices: list[DeviceReading], values: list[dict[Group, float]], now: float
) -> datetime | None:
    moments = [
        _last_observed(device, one) for device, one in zip(devices, values, strict=True) if one
    ]
    if not moments:
        return None
    try:
        return datetime.fromtimestamp(min(now, *moments), timezone.utc)
    except (ValueError, OverflowError, OSError):  # a timestamp no calendar has
        return None


def _average(values: list[float]) -> float | None:
    valid = [value for value in values if not math.isnan(value)]
    if valid:
        return sum(valid) / len(valid)
    return math.nan if values else None


def _maximum(values: list[float]) -> float | None:
    valid = [value for value in values if not math.isnan(value)]
    if valid:
        return max(valid)
    return math.nan if values else None
