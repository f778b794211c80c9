"""An endpoint, and what a router knows of its engine and of its accelerators."""

from __future__ import annotations

from collections.abc import Hashable
from datetime import datetime
from enum import Enum
from typing import Annotated, TypeAlias

import msgspec

# In the record, and so in its schema, every moment is aware (`date-time`).
Moment: TypeAlias = Annotated[datetime, msgspec.Meta(tz=True)]


class Endpoint(msgspec.Struct, frozen=True):
    """One engine instance; a data-parallel rank counts as one.

    Attributes:
        namespace: Kubernetes namespace.
        pod_name: Pod name, shared by all ranks of the pod.
        address: Host or IP address of the inference port.
        port: The inference port, as text.
        name: Tells ranks of one pod apart, e.g. `qwen-0-rank-1`.
        labels: Labels of the pod.
    """

    namespace: str = ""
    pod_name: str = ""
    address: str = ""
    port: str = ""
    name: str = ""
    labels: dict[str, str] = {}

    @property
    def id(self) -> str:
        """`pod://namespace/pod`, else `addr://host:port`, else empty.

        The seed's `endpointID`: ranks of one pod share it.
        """
        if self.pod_name:
            return f"pod://{self.namespace}/{self.pod_name}"
        if self.address and self.port:
            return f"addr://{self.address}:{self.port}"
        return ""

    @property
    def label(self) -> str:
        """The id, with the rank's name behind it where the pod's name does not tell it."""
        if not self.name or self.name == self.pod_name:
            return self.id
        return f"{self.id}#{self.name}" if self.id else f"{self.namespace}/{self.name}"

    @property
    def identity(self) -> Hashable:
        """What load is keyed by: ranks of one pod never share a counter.

        `namespace/name` where there is a name, as in the Gateway API Inference Extension (whose
        names are `pod-rank-index`); else everything that tells two endpoints apart.
        """
        if self.name:
            return (self.namespace, self.name)
        return (self.namespace, self.pod_name, self.address, self.port)


class EndpointMetrics(
    msgspec.Struct,
    frozen=True,
    rename={
        "active_models": "activeModels",
        "waiting_models": "waitingModels",
        "max_active_models": "maxActiveModels",
        "prefix_cache_hit_rate": "prefixCacheHitRate",
        "running_requests": "runningRequestsSize",
        "waiting_requests": "waitingQueueSize",
        "kv_cache_usage": "kvCacheUsagePercent",
        "kv_cache_max_token_capacity": "kvCacheMaxTokenCapacity",
        "cache_block_size": "cacheBlockSize",
        "cache_num_blocks": "cacheNumBlocks",
        "update_time": "updateTime",
    },
):
    """What an engine said of itself when it was last scraped; None is unknown.

    In the record the fields carry the seed's names. `kv_cache_usage` is a fraction, 0 to 1,
    although the seed calls it a percentage.

    Attributes:
        running_requests: Requests being executed.
        waiting_requests: Requests in the engine's queue.
        kv_cache_usage: Used part of the KV cache, 0 to 1.
        kv_cache_max_token_capacity: Size of the KV cache in tokens.
        cache_block_size: Tokens per KV-cache block.
        cache_num_blocks: Number of KV-cache blocks.
        prefix_cache_hit_rate: Part of the prompt tokens the engine found in its prefix cache, 0 to
            1, as far back as it counts: mostly since it started.
        active_models: LoRA adapters in use, with the engine's number for each.
        waiting_models: LoRA adapters waiting to be loaded.
        max_active_models: How many adapters can be active at once.
        update_time: When the engine was scraped; aware, or taken as UTC.
    """

    running_requests: int | None = None
    waiting_requests: int | None = None
    kv_cache_usage: float | None = None
    kv_cache_max_token_capacity: int | None = None
    cache_block_size: int | None = None
    cache_num_blocks: int | None = None
    active_models: dict[str, int] = {}
    waiting_models: dict[str, int] = {}
    max_active_models: int | None = None
    prefix_cache_hit_rate: float | None = None
    update_time: Moment | None = None

    def __post_init__(self) -> None:
        # The seed clones these maps: a router may go on changing its own.
        for field in ("active_models", "waiting_models"):
            models = getattr(self, field)
            if models and type(models) is dict:
                msgspec.structs.force_setattr(self, field, models.copy())


class NPUDevice(
    msgspec.Struct,
    frozen=True,
    rename={
        "device_id": "deviceId",
        "ai_core_utilization": "aiCoreUtilization",
        "hbm_utilization": "hbmUtilization",
        "hbm_bandwidth_utilization": "hbmBandwidthUtilization",
    },
):
    """One chip; utilizations in percent, 0 to 100, as exported.

    Attributes:
        target: The exporter it was read from, `host:port`.
        device_id: The exporter's id of the chip.
        ai_core_utilization: Compute.
        hbm_utilization: Device memory in use.
        hbm_bandwidth_utilization: Device memory bandwidth in use.
    """

    target: str = ""
    device_id: str = ""
    ai_core_utilization: float | None = None
    hbm_utilization: float | None = None
    hbm_bandwidth_utilization: float | None = None


class NPUState(
    msgspec.Struct,
    frozen=True,
    rename={
        "observation_time": "observationTime",
        "data_status": "dataStatus",
        "device_count": "deviceCount",
        "ai_core_utilization_avg": "aiCoreUtilizationAvg",
        "ai_core_utilization_max": "aiCoreUtilizationMax",
        "hbm_utilization_avg": "hbmUtilizationAvg",
        "hbm_utilization_max": "hbmUtilizationMax",
        "hbm_bandwidth_utilization_avg": "hbmBandwidthUtilizationAvg",
        "hbm_bandwidth_utilization_max": "hbmBandwidthUtilizationMax",
    },
):
    """The accelerators of one endpoint; utilizations in percent, 0 to 100, as exported.

    Attributes:
        observation_time: When the values were true; aware, or taken as UTC.
        data_status: `fresh`, `stale`, `partial` or `missing`.
        device_count: Number of chips.
        ai_core_utilization_avg: Compute, averaged over the chips (`_max`: the busiest chip).
        hbm_utilization_avg: Device memory in use.
        hbm_bandwidth_utilization_avg: Device memory bandwidth in use.
        devices: One entry a chip.
    """

    observation_time: Moment | None = None
    data_status: str = ""
    device_count: int | None = None
    ai_core_utilization_avg: float | None = None
    ai_core_utilization_max: float | None = None
    hbm_utilization_avg: float | None = None
    hbm_utilization_max: float | None = None
    hbm_bandwidth_utilization_avg: float | None = None
    hbm_bandwidth_utilization_max: float | None = None
    devices: tuple[NPUDevice, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.devices, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            msgspec.structs.force_setattr(self, "devices", tuple(self.devices or ()))


class Load(msgspec.Struct, frozen=True, gc=False):
    """What is in flight on an endpoint."""

    tokens: int = 0
    requests: int = 0


class EndpointEventType(Enum):
    """What happened to an endpoint; `ADD_OR_UPDATE` never resets its load."""

    ADD_OR_UPDATE = "add_or_update"
    DELETE = "delete"


class EndpointEvent(msgspec.Struct, frozen=True):
    """An endpoint joined (or changed), or left."""

    type: EndpointEventType
    endpoint: Endpoint
