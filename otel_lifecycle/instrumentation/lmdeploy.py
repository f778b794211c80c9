"""Instruments LMDeploy's proxy, in the modes Hybrid and DistServe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from otel_lifecycle.instrumentation.base import Wrapper
from otel_lifecycle.instrumentation.enriching import Call, EnrichingInstrumentor
from otel_lifecycle.instrumentation.routing import DECODE, PREFILL, Routing, endpoint_at
from otel_lifecycle.model import Candidate, RouteEndpoint

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
    nodes = {url: node for url, node in manager.nodes.items() if _serves(node, model, role)}
    routing.choose_from(_candidates(nodes, routing.policy, _LEGS.get(role, "")))
    if role in _LEGS:
        routing.plan(_LEGS[role], RouteEndpoint(endpoint_at(call.result)))


def _candidates(nodes: Mapping[str, Any], strategy: str, leg: str) -> Iterator[Candidate]:
    """Return the nodes, with the cost that the strategy takes the lowest of."""
    speeds = [node.speed for node in nodes.values() if getattr(node, "speed", None)]
    average = sum(speeds) / len(speeds) if speeds else 1
    for url, node in nodes.items():
        scores: dict[str, float] = {}
        unfinished, latencies = getattr(node, "unfinished", None), getattr(node, "latency", ())
        if unfinished is not None:
            scores["min_expected_latency"] = -unfinished / (node.speed or average)
        if latencies:
            scores["min_observed_latency"] = -sum(latencies) / len(latencies)
        yield Candidate(endpoint_at(url), scores.get(strategy), scores, role=leg)


def _serves(node: Any, model: Any, role: str) -> bool:
    # Older versions have no roles.
    return model in node.models and getattr(getattr(node, "role", None), "name", _BOTH) == role
