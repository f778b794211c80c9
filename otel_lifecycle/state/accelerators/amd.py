"""AMD's device-metrics-exporter, port 5000, `/metrics`.

Fields: its `docs/configuration/metricslist.md`. Names may carry the prefix `amd_`
(`MetricsFieldPrefix`). Activities are percent and told for the first partition of a GPU only;
samples have no timestamps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from otel_lifecycle.state.accelerators.reading import DeviceReading
from otel_lifecycle.state.accelerators.series import Device, by_device, percent, reading, share
from otel_lifecycle.state.exposition import SampleReader

_PREFIX = "amd_"
_CORE = "gpu_gfx_activity"
_MEMORY_USED = "gpu_used_vram"
_MEMORY_TOTAL = "gpu_total_vram"
_BANDWIDTH = "gpu_umc_activity"
READER = SampleReader(
    prefix + name
    for prefix in ("", _PREFIX)
    for name in (_CORE, _MEMORY_USED, _MEMORY_TOTAL, _BANDWIDTH)
)


def read(exposition: bytes, scraped_at: float) -> Sequence[DeviceReading]:
    """What each GPU, or partition of one, does.

    Args:
        exposition: The body.
        scraped_at: When it was fetched, in seconds since the epoch.
    """
    samples = (
        sample._replace(name=sample.name.removeprefix(_PREFIX))
        for sample in READER.read(exposition)
    )
    return [
        reading(
            "gpu",
            device,
            core=percent(series.get(_CORE)),
            memory=share(series.get(_MEMORY_USED), series.get(_MEMORY_TOTAL)),
            memory_bandwidth=percent(series.get(_BANDWIDTH)),
        )
        for device, series in by_device(samples, scraped_at, _device).items()
    ]


def _device(labels: Mapping[str, str]) -> Device | None:
    device_id = labels.get("gpu_id")
    if not device_id:
        return None
    return Device(
        device_id,
        labels.get("namespace", ""),
        labels.get("pod", ""),
        labels.get("hostname", ""),
    )
