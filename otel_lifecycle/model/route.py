"""Where a request goes, and what latency was predicted for it there."""

from __future__ import annotations

import msgspec

from otel_lifecycle.model.endpoint import Endpoint, EndpointMetrics, NPUState


class RouteEndpoint(msgspec.Struct, frozen=True):
    """An endpoint of a route, with what the router knew of it; the store adds the load."""

    endpoint: Endpoint
    metrics: EndpointMetrics | None = None
    npu: NPUState | None = None


class Route(msgspec.Struct, frozen=True):
    """Where a request goes: a leader alone, or leader, prefill and decode together."""

    leader: RouteEndpoint
    prefill: RouteEndpoint | None = None
    decode: RouteEndpoint | None = None

    @property
    def counted(self) -> tuple[tuple[str, RouteEndpoint], ...]:
        """The endpoints that carry the request's load, each with its role.

        Prefill and decode of a complete PD route (the leader is a proxy), once if they are the
        same; else the selected endpoint alone.
        """
        if self.prefill is None or self.decode is None:
            return (("leader", self.leader),)
        if self.prefill.endpoint.identity == self.decode.endpoint.identity:
            return (("prefill", self.prefill),)
        return (("prefill", self.prefill), ("decode", self.decode))


class LatencyPrediction(
    msgspec.Struct,
    frozen=True,
    rename={"ttft_ms": "ttftMillis", "tpot_ms": "tpotMillis"},
    gc=False,
):
    """What the router expected, in milliseconds; None is no prediction."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
