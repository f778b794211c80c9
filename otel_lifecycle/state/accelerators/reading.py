"""The reading of one device, and the state computed from several readings.

Every source (`npu_exporter`, `npu_smi`, `dcgm`, `amd`) returns `DeviceReading`s, so that matching
to endpoints, staleness and averages are implemented once for NPUs and GPUs.
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

# Three times the slowest default refresh of an exporter: npu-exporter reads everything every 5 s up
# to v26.0.1, and since v26.1.0 utilization every 1 s, memory and its bandwidth every 60 s
# (`metricConfiguration.json` of mind-cluster's npu-exporter).
STALE_AFTER: Mapping[Group, float] = MappingProxyType(
    {"core": 15.0, "memory": 180.0, "memory_bandwidth": 180.0}
)


class DeviceReading(msgspec.Struct, frozen=True):
    """A source's values of one device; utilizations in percent, 0 to 100, None is unknown.

    A device that serves several pods may have one reading for each.

    Attributes:
        kind: `npu` or `gpu`.
        device_id: The source's id of the device, unique on its host.
        target: The source, `host:port`; set by the caller that fetched it.
        namespace: Kubernetes namespace of the pod that uses the device; empty if unknown.
        pod_name: That pod; empty if unknown.
        host: The machine, if the source names it.
        core_utilization: Compute in use.
        memory_utilization: Device memory in use.
        memory_bandwidth_utilization: Device memory bandwidth in use.
        core_observed_at: Time of the group's value, in seconds since the epoch: the source's own
            timestamp if there is one, else the time of the scrape. None: the source has no value of
            the group.
        memory_observed_at: The same for the memory.
        memory_bandwidth_observed_at: The same for its bandwidth.
        invalid: Groups for which the source has an invalid value.
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

    A value is fresh if its time is within the group's limit before or after `now`: an exporter
    whose clock runs further ahead cannot be distinguished from one that hangs. If a device's core
    value is stale, all its values are stale, because its source has stopped. Averages and maxima
    cover the fresh values or, if there are none, the last known values. If a group has only invalid
    values (-1, a blank), its average and maximum are NaN; the record has null with the reason
    `npu_invalid_value`.

    Args:
        readings: Readings of the endpoint's devices; the newest reading of a device counts.
        now: Seconds since the epoch.
        stale_after: Seconds after which a group is stale.

    Returns:
        The state. Its status is `fresh` (every group of every device is fresh), `partial` (some
        are), `stale` (none is, but some were) or `missing` (nothing was ever read). Its observation
        time is the newest time of the device that was updated least recently.
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
        if not abs(now - observed_at) <= stale_after[group]:  # NaN is not fresh either
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
    except (ValueError, OverflowError, OSError):  # a timestamp outside the calendar
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
