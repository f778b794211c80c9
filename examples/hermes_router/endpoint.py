"""Endpoints: their identity, and the reports of their engines and chips."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

PD_ROLE_LABEL = "openfuyao.com/pdRole"
AGGREGATED, LEADER, PREFILL, DECODE = "aggregated", "leader", "prefill", "decode"


@dataclass(frozen=True, order=True)
class NamespacedName:
    """The key of an endpoint in the datastore."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class EndpointMetadata:
    """The identity and the address of an endpoint."""

    namespaced_name: NamespacedName
    pod_name: str
    address: str
    port: str
    labels: dict[str, str] = field(default_factory=dict[str, str], hash=False)

    @property
    def host_port(self) -> str:
        """The authority part of its URLs."""
        return f"{self.address}:{self.port}"

    @property
    def role(self) -> str:
        """Its part in serving a request: all of it, unless a label says otherwise."""
        return self.labels.get(PD_ROLE_LABEL, AGGREGATED)


class EndpointEventType(Enum):
    """The kind of an endpoint event."""

    ADD_OR_UPDATE = "add_or_update"
    DELETE = "delete"


@dataclass(frozen=True)
class EndpointEvent:
    """An endpoint joined, changed or left."""

    type: EndpointEventType
    endpoint: EndpointMetadata


@dataclass(frozen=True)
class EndpointMetrics:
    """An engine's own metrics at `update_time`; None is unknown, never 0.

    Attributes:
        kv_cache_usage_percent: A fraction from 0 to 1; upstream chose the name.
    """

    update_time: datetime
    active_models: dict[str, int] = field(default_factory=dict[str, int])
    waiting_models: dict[str, int] = field(default_factory=dict[str, int])
    max_active_models: int | None = None
    running_requests_size: int | None = None
    waiting_queue_size: int | None = None
    kv_cache_usage_percent: float | None = None
    kv_cache_max_token_capacity: int | None = None
    cache_block_size: int | None = None
    cache_num_blocks: int | None = None


@dataclass(frozen=True)
class NPUDevice:
    """One chip, as its exporter (`target`) reports it; percent."""

    target: str
    device_id: str
    ai_core_utilization: float | None
    hbm_utilization: float | None
    hbm_bandwidth_utilization: float | None


@dataclass(frozen=True)
class NPUState:
    """The chips of one endpoint; percent.

    Attributes:
        data_status: `fresh`, `stale` (old), `partial` (a value is missing) or `missing` (no chip).
    """

    observation_time: datetime
    data_status: str
    device_count: int
    ai_core_utilization_avg: float | None
    ai_core_utilization_max: float | None
    hbm_utilization_avg: float | None
    hbm_utilization_max: float | None
    hbm_bandwidth_utilization_avg: float | None
    hbm_bandwidth_utilization_max: float | None
    devices: list[NPUDevice]
