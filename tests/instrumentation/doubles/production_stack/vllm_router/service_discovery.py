"""The known engines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class EndpointInfo:
    url: str
    model_names: list[str]
    Id: str
    added_timestamp: float
    model_label: str
    sleep: bool
    healthy: bool = True
    pod_name: str | None = None
    service_name: str | None = None
    namespace: str | None = None
    model_info: dict[str, object] | None = None


class ServiceDiscovery:
    def __init__(self, endpoints: list[EndpointInfo]) -> None:
        self._endpoints = endpoints

    def get_endpoint_info(self) -> list[EndpointInfo]:
        return list(self._endpoints)


_discovery = ServiceDiscovery([])


def initialize_service_discovery(endpoints: list[EndpointInfo]) -> None:
    global _discovery
    _discovery = ServiceDiscovery(endpoints)


def get_service_discovery() -> ServiceDiscovery:
    return _discovery
