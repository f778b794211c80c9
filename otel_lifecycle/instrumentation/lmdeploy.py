"""Instruments LMDeploy's proxy, in the modes Hybrid and DistServe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from otel_lifecycle.instrumentation.base import Wrapper
from otel_lifecycle.instrumentation.enriching import Call, EnrichingInstrumentor
from otel_lifecycle.instrumentation.routing import DECODE, PREFILL, Routing, endpoint_at
from otel_lifecycle.model import RouteEndpoint

_BOTH = "Hybrid"
_LEGS = {"Prefill": PREFILL, "Decode": DECODE}


class LMDeployInstrumentor(EnrichingInstrumentor):
    """Adds policy and candidates, and distinguishes prefill from decode."""

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Return the only method in which the proxy chooses."""
        return {"lmdeploy.serve.proxy.proxy": {"NodeManager.get_node_url": self.after(_chosen)}}


def _chosen(routing: Routing, call: Call) -> None:
    """Observe `get_node_url(model_name[, role]) -> url`, called once for each leg."""
    if not call.result:
        return
    manager = call.instance
    strategy = getattr(manager, "routing_strategy", None) or manager.strategy
    routing.policy = strategy.name.lower()
    role, model = getattr(call.argument(1, "role"), "name", _BOTH), call.argument(0, "model_name")
    if routing.candidates is None:  # for a pair, those of the prefill
        routing.candidates = sum(_serves(node, model, role) for node in manager.nodes.values())
    if role in _LEGS:
        routing.plan(_LEGS[role], RouteEndpoint(endpoint_at(call.result)))


def _serves(node: Any, model: Any, role: str) -> bool:
    # Older versions have no roles.
    return model in node.models and getattr(getattr(node, "role", None), "name", _BOTH) == role
