"""Instruments the load balancer of SkyPilot's SkyServe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from otel_lifecycle.instrumentation.base import Wrapper
from otel_lifecycle.instrumentation.enriching import Call, EnrichingInstrumentor
from otel_lifecycle.instrumentation.routing import Routing, endpoint_at
from otel_lifecycle.model import Candidate


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
        routing.choose_from(_candidates(call.instance))


def _candidates(policy: Any) -> Iterator[Candidate]:
    """Return the ready replicas; `LeastLoadPolicy` takes the one with the fewest requests.

    One that weighs instances logs whenever it computes a load, so it is not asked for its scores.
    """
    loads = getattr(policy, "load_map", None)
    is_ranked = loads is not None and not hasattr(policy, "_get_normalized_load")
    for url in policy.ready_replicas:
        load = None if loads is None else loads.get(url, 0)
        yield Candidate(
            endpoint_at(url),
            -load if is_ranked and load is not None else None,
            {} if load is None else {"load": -load},
        )
