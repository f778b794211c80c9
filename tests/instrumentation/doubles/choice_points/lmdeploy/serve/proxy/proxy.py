"""LMDeploy's proxy: the names, signatures and kinds of values that are relied on."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any


class EngineRole(enum.Enum):
    """What an engine does."""

    Hybrid = enum.auto()
    Prefill = enum.auto()
    Decode = enum.auto()


class RoutingStrategy(enum.Enum):
    """How the proxy chooses."""

    RANDOM = enum.auto()
    MIN_EXPECTED_LATENCY = enum.auto()


@dataclass
class Status:
    """What is known of a node."""

    role: EngineRole = EngineRole.Hybrid
    models: list[str] = field(default_factory=list)


class NodeManager:
    """Knows nodes by URL."""

    def __init__(self) -> None:
        self.nodes: dict[str, Status] = {}
        self.routing_strategy = RoutingStrategy.MIN_EXPECTED_LATENCY

    def get_node_url(self, model_name: str, role: Any = EngineRole.Hybrid) -> str | None:
        """The last one that serves a model."""
        for url, status in reversed(self.nodes.items()):
            if status.role == role and model_name in status.models:
                return url
        return None
