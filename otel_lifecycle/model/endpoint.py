"""An endpoint, and the known state of its engine and its accelerators."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import Annotated

import msgspec

from otel_lifecycle.model.fields import (
    Count,
    Fraction,
    Moment,
    Percent,
    Text,
    Total,
    declare,
    record_name,
)


class Endpoint(msgspec.Struct, frozen=True):
    """One engine instance; each data-parallel rank is an instance.

    Attributes:
        namespace: Kubernetes namespace.
        pod_name: Pod name, shared by all ranks of the pod.
        address: Host or IP address of the inference port.
        port: The inference port, as text.
        name: Distinguishes the ranks of a pod, for example `qwen-0-rank-1`.
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
        """The id, followed by the rank's name unless that is the pod's name."""
        if not self.name or self.name == self.pod_name:
            return self.id
        return f"{self.id}#{self.name}" if self.id else f"{self.namespace}/{self.name}"

    @property
    def identity(self) -> Hashable:
        """The key of its load counter: ranks of one pod never share a counter.

        It is `namespace/name` if there is a name, as in the Gateway API Inference Extension (whose
        names are `pod-rank-index`); otherwise all fields that distinguish endpoints.
        """
        if self.name:
            return (self.namespace, self.name)
        return (self.namespace, self.pod_name, self.address, self.port)


class EndpointMetrics(msgspec.Struct, frozen=True, rename=record_name):
    """The state of an engine at the last scrape; None is unknown.

    In the record the fields carry the seed's names. `kv_cache_usage` is a fraction, 0 to 1,
    although the seed calls it a percentage.
    """

    running_requests: Annotated[
        Count | None,
        declare("Requests being executed.", "{request}", ".request.running", adds=True),
    ] = msgspec.field(default=None, name="runningRequestsSize")
    waiting_requests: Annotated[
        Count | None,
        declare("Requests in the engine's queue.", "{request}", ".request.waiting", adds=True),
    ] = msgspec.field(default=None, name="waitingQueueSize")
    kv_cache_usage: Annotated[
        Fraction | None,
        declare("Fraction of the KV cache in use.", attribute=".kv_cache.utilization"),
    ] = msgspec.field(default=None, name="kvCacheUsagePercent")
    kv_cache_max_token_capacity: Annotated[
        Count | None, declare("Size of the KV cache.", "{token}", ".kv_cache.capacity", adds=True)
    ] = None
    cache_block_size: Annotated[
        Count | None, declare("Tokens per KV-cache block.", "{token}", ".kv_cache.block_size")
    ] = None
    cache_num_blocks: Annotated[
        Count | None,
        declare("Number of KV-cache blocks.", "{block}", ".kv_cache.block_count", adds=True),
    ] = None
    active_models: Annotated[
        dict[str, Count],
        declare(
            "LoRA adapters in use, each with the number that the engine reports.",
            "{request}",
            (".lora.active.models", ".lora.active.counts"),
        ),
    ] = {}
    waiting_models: Annotated[
        dict[str, Count],
        declare(
            "LoRA adapters waiting to be loaded, each with the number that the engine reports.",
            "{request}",
            (".lora.waiting.models", ".lora.waiting.counts"),
        ),
    ] = {}
    max_active_models: Annotated[
        Count | None,
        declare("Limit of adapters active at once.", "{adapter}", ".lora.max"),
    ] = None
    prefix_cache_hit_rate: Annotated[
        Fraction | None,
        declare(
            "Fraction of the prompt tokens that the engine found in its prefix cache, usually "
            "since it started.",
            attribute=".prefix_cache.hit_rate",
        ),
    ] = None
    update_time: Annotated[
        Moment | None,
        declare(
            "Time of the scrape; a naive time is taken as UTC. On the span: its age at dispatch.",
            "s",
            ".metrics.age",
        ),
    ] = None

    def __post_init__(self) -> None:
        # The seed clones these maps: a router may keep changing its own.
        for field in ("active_models", "waiting_models"):
            models = getattr(self, field)
            if models and type(models) is dict:
                msgspec.structs.force_setattr(self, field, models.copy())


class NPUDevice(msgspec.Struct, frozen=True, rename=record_name):
    """One chip; utilizations in percent, 0 to 100, as exported."""

    target: Annotated[
        Text, declare("Exporter that reported the chip, `host:port`.", attribute=".targets")
    ] = ""
    device_id: Annotated[Text, declare("Id of the chip in the exporter.", attribute=".ids")] = ""
    ai_core_utilization: Annotated[
        Percent | None, declare("Compute in use.", attribute=".core.utilization")
    ] = None
    hbm_utilization: Annotated[
        Percent | None, declare("Device memory in use.", attribute=".memory.utilization")
    ] = None
    hbm_bandwidth_utilization: Annotated[
        Percent | None,
        declare("Device memory bandwidth in use.", attribute=".memory_bandwidth.utilization"),
    ] = None


class NPUState(msgspec.Struct, frozen=True, rename=record_name):
    """The accelerators of one endpoint; utilizations in percent, 0 to 100, as exported."""

    observation_time: Annotated[
        Moment | None,
        declare(
            "Time of the values; a naive time is taken as UTC. On the span: their age at dispatch.",
            "s",
            ".age",
        ),
    ] = None
    data_status: Annotated[
        Text,
        declare("`fresh`, `stale`, `partial` or `missing`.", attribute=".status", always=True),
    ] = ""
    device_count: Annotated[Count | None, declare("Number of chips.", "{chip}", ".count")] = None
    ai_core_utilization_avg: Annotated[
        Percent | None,
        declare("Compute in use, averaged over the chips.", attribute=".core.utilization.avg"),
    ] = None
    ai_core_utilization_max: Annotated[
        Percent | None,
        declare("Compute in use, on the busiest chip.", attribute=".core.utilization.max"),
    ] = None
    hbm_utilization_avg: Annotated[
        Percent | None,
        declare(
            "Device memory in use, averaged over the chips.", attribute=".memory.utilization.avg"
        ),
    ] = None
    hbm_utilization_max: Annotated[
        Percent | None,
        declare("Device memory in use, on the fullest chip.", attribute=".memory.utilization.max"),
    ] = None
    hbm_bandwidth_utilization_avg: Annotated[
        Percent | None,
        declare(
            "Device memory bandwidth in use, averaged over the chips.",
            attribute=".memory_bandwidth.utilization.avg",
        ),
    ] = None
    hbm_bandwidth_utilization_max: Annotated[
        Percent | None,
        declare(
            "Device memory bandwidth in use, on the busiest chip.",
            attribute=".memory_bandwidth.utilization.max",
        ),
    ] = None
    devices: Annotated[
        tuple[NPUDevice, ...],
        declare(
            "One entry per chip. On the span: one array per field, with -1 for unknown.",
            attribute=".device",
            section="chip",
            opt_in="npu_device_attributes",
        ),
    ] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.devices, tuple):  # pyright: ignore[reportUnnecessaryIsInstance]
            msgspec.structs.force_setattr(self, "devices", tuple(self.devices or ()))


class Load(msgspec.Struct, frozen=True, gc=False):
    """The load in flight on an endpoint."""

    tokens: Annotated[
        Total,
        declare("Prompt tokens of the requests in flight.", "{token}", ".tokens", always=True),
    ] = 0
    requests: Annotated[
        Total, declare("Requests in flight.", "{request}", ".requests", always=True)
    ] = 0


class EndpointEventType(Enum):
    """The kind of an endpoint event; `ADD_OR_UPDATE` never resets the load."""

    ADD_OR_UPDATE = "add_or_update"
    DELETE = "delete"


class EndpointEvent(msgspec.Struct, frozen=True):
    """An endpoint was added, changed or deleted."""

    type: EndpointEventType
    endpoint: Endpoint
