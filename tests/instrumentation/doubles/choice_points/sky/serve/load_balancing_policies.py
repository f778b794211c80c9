"""SkyServe's policies: the names, signatures and kinds of values that are relied on."""

from __future__ import annotations

from typing import Any


class LoadBalancingPolicy:
    """Chooses among the replicas that are ready."""

    def __init__(self) -> None:
        self.ready_replicas: list[str] = []

    def select_replica(self, request: Any) -> str | None:
        """A replica, if there is one."""
        return self._select_replica(request)

    def _select_replica(self, request: Any) -> str | None:
        raise NotImplementedError


class LeastLoadPolicy(LoadBalancingPolicy):
    """Takes the first."""

    def _select_replica(self, request: Any) -> str | None:
        return self.ready_replicas[0] if self.ready_replicas else None
