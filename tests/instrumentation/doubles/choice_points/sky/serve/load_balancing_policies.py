"""SkyServe's policies: the names, signatures and types that the adapter uses."""

from __future__ import annotations

from typing import Any


class LoadBalancingPolicy:
    """Chooses among the ready replicas."""

    def __init__(self) -> None:
        self.ready_replicas: list[str] = []

    def select_replica(self, request: Any) -> str | None:
        """Return a replica, if there is one."""
        return self._select_replica(request)

    def _select_replica(self, request: Any) -> str | None:
        raise NotImplementedError


class LeastLoadPolicy(LoadBalancingPolicy):
    """Chooses the first."""

    def _select_replica(self, request: Any) -> str | None:
        return self.ready_replicas[0] if self.ready_replicas else None
