"""LMDeploy's proxy: the names, signatures and types that the adapter uses."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class EngineRole(enum.Enum):
    """The role of an engine."""

    Hybrid = enum.auto()
    Prefill = enum.auto()
    Decode = enum.auto()


class RoutingStrategy(enum.Enum):
    """How the proxy chooses."""

    RANDOM = enum.auto()
    MIN_EXPECTED_LATENCY = enum.auto()


@dataclass
class Status:
    """The known state of a node."""

    role: EngineRole = EngineRole.Hybrid
    models: list[str] = field(default_factory=list)
    unfinished: int = 0
    latency: list[float] = field(default_factory=list)
    speed: int | None = None


class NodeManager:
    """The nodes by URL."""

    def __init__(self) -> None:
        self.nodes: dict[str, Status] = {}
        self.routing_strategy = RoutingStrategy.MIN_EXPECTED_LATENCY

    def get_node_url(self, model_name: str, role: Any = EngineRole.Hybrid) -> str | None:
        """Return the last node that serves a model."""
        for url, status in reversed(self.nodes.items()):
            if status.role == role and model_name in status.models:
                return url
        return None
