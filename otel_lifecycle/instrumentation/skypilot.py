"""Instruments the load balancer of SkyPilot's SkyServe."""

from __future__ import annotations

from collections.abc import Mapping

from otel_lifecycle.instrumentation.base import Wrapper
from otel_lifecycle.instrumentation.enriching import Call, EnrichingInstrumentor
from otel_lifecycle.instrumentation.routing import Routing


class SkyPilotInstrumentor(EnrichingInstrumentor):
    """Adds policy and candidates."""

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """Return the only method in which the load balancer chooses, whatever its policy."""
        return {
            "sky.serve.load_balancing_policies": {
                "LoadBalancingPolicy.select_replica": self.after(_selected)
            }
        }


def _selected(routing: Routing, call: Call) -> None:
    """Observe `select_replica(request) -> url`, which returns None if no replica is ready."""
    if call.result:
        routing.policy = type(call.instance).__name__
        routing.candidates = len(call.instance.ready_replicas)
