"""NVIDIA's dcgm-exporter, port 9400, `/metrics`.

Fields: `etc/*.csv` of dcgm-exporter and DCGM's field identifiers. Utilizations are percentages in
`DCGM_FI_DEV_*` and ratios in `DCGM_FI_PROF_*`; MIG instances have the latter too. Samples have no
timestamps, although DCGM itself collects only every 30 s by default.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from otel_lifecycle.state.accelerators.reading import DeviceReading
from otel_lifecycle.state.accelerators.series import (
    Device,
    Measured,
    Series,
    by_device,
    first_valid,
    percent,
    reading,
    share,
)
from otel_lifecycle.state.exposition import SampleReader

_CORE_RATIO = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
_CORE_PERCENT = "DCGM_FI_DEV_GPU_UTIL"
_MEMORY_RATIO = "DCGM_FI_DEV_FB_USED_PERCENT"
_MEMORY_USED = "DCGM_FI_DEV_FB_USED"
_MEMORY_FREE = "DCGM_FI_DEV_FB_FREE"
_BANDWIDTH_RATIO = "DCGM_FI_PROF_DRAM_ACTIVE"
_BANDWIDTH_PERCENT = "DCGM_FI_DEV_MEM_COPY_UTIL"
READER = SampleReader(
    [
        _CORE_RATIO,
        _CORE_PERCENT,
        _MEMORY_RATIO,
        _MEMORY_USED,
        _MEMORY_FREE,
        _BANDWIDTH_RATIO,
        _BANDWIDTH_PERCENT,
    ]
)

# The smallest of DCGM's blank values (`DCGM_INT32_BLANK`): no memory has this many MiB.
_BLANK = float(0x7FFFFFF0)


def read(exposition: bytes, scraped_at: float) -> Sequence[DeviceReading]:
    """Read each GPU, or each MIG instance.

    Args:
        exposition: The body.
        scraped_at: Time of the scrape, in seconds since the epoch.
    """
    devices = by_device(READER.read(exposition), scraped_at, _device)
    divided = _divided(devices)
    return [
        reading(
            "gpu",
            device,
            core=first_valid(
                percent(series.get(_CORE_RATIO), full=1.0), percent(series.get(_CORE_PERCENT))
            ),
            memory=first_valid(
                percent(series.get(_MEMORY_RATIO), full=1.0),
                None if (device.host, device.device_id) in divided else _used(series),
            ),
            memory_bandwidth=first_valid(
                percent(series.get(_BANDWIDTH_RATIO), full=1.0),
                percent(series.get(_BANDWIDTH_PERCENT)),
            ),
        )
        for device, series in devices.items()
    ]


def _device(labels: Mapping[str, str]) -> Device | None:
    device_id = labels.get("gpu")
    if not device_id:
        return None
    instance = labels.get("GPU_I_ID")
    return Device(
        f"{device_id}:{instance}" if instance else device_id,
        labels.get("namespace") or labels.get("pod_namespace", ""),
        labels.get("pod") or labels.get("pod_name", ""),
        labels.get("hostname") or labels.get("Hostname", ""),
    )


def _used(series: Series) -> Measured:
    """Return used / (used + free), as DCGM's own `DCGM_FI_DEV_FB_USED_PERCENT`."""
    used, free = (
        sample and (sample if sample.value < _BLANK else sample._replace(value=-1.0))
        for sample in (series.get(_MEMORY_USED), series.get(_MEMORY_FREE))
    )
    return share(used, used, free)


def _divided(devices: Mapping[Device, Series]) -> set[tuple[str, str]]:
    """Return the GPUs with used memory per pod, which cannot be divided by used plus free."""
    used: defaultdict[tuple[str, str], set[float]] = defaultdict(set)
    for device, series in devices.items():
        if _MEMORY_USED in series:
            used[(device.host, device.device_id)].add(series[_MEMORY_USED].value)
    return {device for device, values in used.items() if len(values) > 1}
