"""Converts the series of an exporter to device readings; shared by the readers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

from otel_lifecycle.state.accelerators.reading import GROUPS, DeviceReading, Group, Kind
from otel_lifecycle.state.exposition import Sample


class Device(NamedTuple):
    """The device a series describes; it may appear once for each pod that uses it."""

    device_id: str
    namespace: str = ""
    pod_name: str = ""
    host: str = ""


class Measurement(NamedTuple):
    """One group of one device.

    Attributes:
        percent: 0 to 100; None: the source's value is invalid.
        observed_at: Seconds since the epoch.
    """

    percent: float | None
    observed_at: float


Series: TypeAlias = dict[str, Sample]
Measured: TypeAlias = "Measurement | None"


def by_device(
    samples: Iterable[Sample],
    scraped_at: float,
    identify: Callable[[Mapping[str, str]], Device | None],
) -> dict[Device, Series]:
    """Group the samples by device and metric name, all with a time.

    If a series has two samples, the first counts, as in Prometheus.

    Args:
        samples: The samples.
        scraped_at: The time of samples without a timestamp.
        identify: Returns the device from the labels; None: they name no device.
    """
    devices: dict[Device, Series] = {}
    for sample in samples:
        device = identify(sample.labels)
        if device is None:
            continue
        if sample.observed_at is None:
            sample = sample._replace(observed_at=scraped_at)
        devices.setdefault(device, {}).setdefault(sample.name, sample)
    return devices


def percent(sample: Sample | None, *, full: float = 100.0) -> Measured:
    """Convert a sample to a utilization in percent.

    Args:
        sample: The sample; None: the series is missing.
        full: The value that means 100 percent: 1 for a ratio.
    """
    if sample is None or sample.observed_at is None:
        return None
    usable = 0.0 <= sample.value <= full
    return Measurement(100.0 * sample.value / full if usable else None, sample.observed_at)


def share(part: Sample | None, *whole: Sample | None) -> Measured:
    """Return `part` in percent of the sum of `whole`; None unless all are present."""
    if part is None or part.observed_at is None:
        return None
    total, observed_at = 0.0, part.observed_at
    for sample in whole:
        if sample is None or sample.observed_at is None:
            return None
        total += sample.value
        observed_at = min(observed_at, sample.observed_at)
    usable = 0.0 <= part.value <= total and 0.0 < total < float("inf")
    return Measurement(100.0 * part.value / total if usable else None, observed_at)


def first_valid(*measured: Measured) -> Measured:
    """Return the first valid measurement; else the first one present."""
    there = [measurement for measurement in measured if measurement is not None]
    valid = [measurement for measurement in there if measurement.percent is not None]
    return next(iter(valid or there), None)


def reading(
    kind: Kind, device: Device, *, core: Measured, memory: Measured, memory_bandwidth: Measured
) -> DeviceReading:
    """Combine the measurements of a device."""
    measured: dict[Group, Measured] = dict(
        zip(GROUPS, (core, memory, memory_bandwidth), strict=True)
    )
    return DeviceReading(
        kind,
        device.device_id,
        namespace=device.namespace,
        pod_name=device.pod_name,
        host=device.host,
        core_utilization=core and core.percent,
        memory_utilization=memory and memory.percent,
        memory_bandwidth_utilization=memory_bandwidth and memory_bandwidth.percent,
        core_observed_at=core and core.observed_at,
        memory_observed_at=memory and memory.observed_at,
        memory_bandwidth_observed_at=memory_bandwidth and memory_bandwidth.observed_at,
        invalid=frozenset(
            group for group, one in measured.items() if one is not None and one.percent is None
        ),
    )
