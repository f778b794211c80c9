"""The router's own knowledge that its HTTP traffic does not show."""

from __future__ import annotations

from collections.abc import Mapping

from otel_lifecycle.instrumentation.base import Wrapper
from otel_lifecycle.instrumentation.enriching import Call, EnrichingInstrumentor
from otel_lifecycle.instrumentation.routing import Routing, endpoint_at
from otel_lifecycle.model import Candidate, EndpointMetrics, RouteEndpoint


class OwnRouterInstrumentor(EnrichingInstrumentor):
    """Adds policy, candidates with their scores, and the queue of the chosen engine."""

    def wrappers(self) -> Mapping[str, Mapping[str, Wrapper]]:
        """The method that chooses an engine."""
        return {"own_router.router": {"ShortestQueue.pick": self.after(_picked)}}


def _picked(routing: Routing, call: Call) -> None:
    """Observes `pick(engines) -> Engine`."""
    engine = call.result
    routing.policy = type(call.instance).__name__
    routing.choose_from(
        Candidate(endpoint_at(one.url), -one.waiting) for one in call.argument(0, "engines")
    )
    metrics = EndpointMetrics(waiting_requests=engine.waiting)
    routing.know(RouteEndpoint(endpoint_at(engine.url), metrics))
