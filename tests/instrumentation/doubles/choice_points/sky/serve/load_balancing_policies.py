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
    """Chooses the replica with the fewest requests."""

    def __init__(self) -> None:
        super().__init__()
        self.load_map: dict[str, int] = {}

    def _select_replica(self, request: Any) -> str | None:
        if not self.ready_replicas:
            return None
        return min(self.ready_replicas, key=lambda replica: self.load_map.get(replica, 0))


class InstanceAwareLeastLoadPolicy(LeastLoadPolicy):
    """The same, weighted by the type of the instance."""

    def _get_normalized_load(self, replica_url: str) -> float:
        raise AssertionError
