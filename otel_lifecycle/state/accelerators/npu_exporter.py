"""Ascend's npu-exporter (mind-cluster), port 8082, `/metrics`.

Series and labels: `component/npu-exporter` of mind-cluster, `collector/metrics`. After a failed
read it writes -1 or nothing. Every sample has the time at which it was collected. Only the 910
family has HBM; for other chips memory and bandwidth stay unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from otel_lifecycle.state.accelerators.reading import DeviceReading
from otel_lifecycle.state.accelerators.series import (
    Device,
    by_device,
    first_valid,
    percent,
    reading,
    share,
)
from otel_lifecycle.state.exposition import SampleReader

_CORE = "npu_chip_info_utilization"
_MEMORY = "npu_chip_info_hbm_utilization"
_MEMORY_USED = "npu_chip_info_hbm_used_memory"
_MEMORY_TOTAL = "npu_chip_info_hbm_total_memory"
_BANDWIDTH = "npu_chip_info_hbm_bandwidth_utilization"
READER = SampleReader([_CORE, _MEMORY, _MEMORY_USED, _MEMORY_TOTAL, _BANDWIDTH])

# The value of all pod labels of a chip that several pods use; the pods are not named.
_SEVERAL_PODS = "not_displayed_for_multi_pod"


def read(exposition: bytes, scraped_at: float) -> Sequence[DeviceReading]:
    """Read each chip.

    Args:
        exposition: The body.
        scraped_at: Time of the scrape, in seconds since the epoch.
    """
    return [
        reading(
            "npu",
            device,
            core=percent(series.get(_CORE)),
            memory=first_valid(
                percent(series.get(_MEMORY)),
                share(series.get(_MEMORY_USED), series.get(_MEMORY_TOTAL)),
            ),
            memory_bandwidth=percent(series.get(_BANDWIDTH)),
        )
        for device, series in by_device(READER.read(exposition), scraped_at, _device).items()
    ]


def _device(labels: Mapping[str, str]) -> Device | None:
    device_id = labels.get("id")
    if not device_id:
        return None
    pod_name = labels.get("pod_name", "")
    if pod_name == _SEVERAL_PODS:
        return Device(device_id)
    return Device(device_id, labels.get("namespace", ""), pod_name)
