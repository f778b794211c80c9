"""AMD's device-metrics-exporter, port 5000, `/metrics`.

Fields: its `docs/configuration/metricslist.md`. Names may carry the prefix `amd_`
(`MetricsFieldPrefix`). Activities are percentages, reported only for the first partition of a GPU.
Samples have no timestamps. In some releases partitions have their own `gpu_id`; in others they have
that of their GPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from otel_lifecycle.state.accelerators.reading import DeviceReading
from otel_lifecycle.state.accelerators.series import Device, by_device, percent, reading, share
from otel_lifecycle.state.exposition import SampleReader

_PREFIX = "amd_"
_CORE = "gpu_gfx_activity"
_MEMORY_USED = "gpu_used_vram"
_MEMORY_TOTAL = "gpu_total_vram"
_BANDWIDTH = "gpu_umc_activity"
_PARTITION = "gpu_partition_id"
READER = SampleReader(
    prefix + name
    for prefix in ("", _PREFIX)
    for name in (_CORE, _MEMORY_USED, _MEMORY_TOTAL, _BANDWIDTH)
)


def read(exposition: bytes, scraped_at: float) -> Sequence[DeviceReading]:
    """Read each GPU, or each partition of a GPU.

    Args:
        exposition: The body.
        scraped_at: Time of the scrape, in seconds since the epoch.
    """
    samples = [
        sample._replace(name=sample.name.removeprefix(_PREFIX))
        for sample in READER.read(exposition)
    ]
    partitions: defaultdict[str, set[str]] = defaultdict(set)
    for sample in samples:
        partitions[sample.labels.get("gpu_id", "")].add(sample.labels.get(_PARTITION, ""))

    def identify(labels: Mapping[str, str]) -> Device | None:
        device_id = labels.get("gpu_id")
        if not device_id:
            return None
        if len(partitions[device_id]) > 1:
            device_id = f"{device_id}.{labels.get(_PARTITION, '')}"
        return Device(
            device_id,
            labels.get("namespace", ""),
            labels.get("pod", ""),
            labels.get("hostname", ""),
        )

    return [
        reading(
            "gpu",
            device,
            core=percent(series.get(_CORE)),
            memory=share(series.get(_MEMORY_USED), series.get(_MEMORY_TOTAL)),
            memory_bandwidth=percent(series.get(_BANDWIDTH)),
        )
        for device, series in by_device(samples, scraped_at, identify).items()
    ]
