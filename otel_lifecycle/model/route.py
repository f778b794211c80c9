"""The route of a request, and its predicted latency."""

from __future__ import annotations

from typing import Annotated

import msgspec

from otel_lifecycle.model.endpoint import Endpoint, EndpointMetrics, Load, NPUState
from otel_lifecycle.model.fields import Milliseconds, Text, Total, declare, record_name


class RouteEndpoint(msgspec.Struct, frozen=True):
    """An endpoint of a route, with its state as the router knew it; the store adds the load."""

    endpoint: Endpoint
    metrics: EndpointMetrics | None = None
    npu: NPUState | None = None


class Route(msgspec.Struct, frozen=True):
    """The route of a request: a leader alone, or leader, prefill and decode together.

    A prefill that is also the leader has no decode yet.
    """

    leader: RouteEndpoint
    prefill: RouteEndpoint | None = None
    decode: RouteEndpoint | None = None

    @property
    def is_prefill_alone(self) -> bool:
        """Whether the decode of a PD route is not chosen yet."""
        prefill = self.prefill
        return (
            self.decode is None
            and prefill is not None
            and prefill.endpoint.identity == self.leader.endpoint.identity
        )

    @property
    def counted(self) -> tuple[str, ...]:
        """The roles of the endpoints that carry the request's load.

        For a complete PD route these are prefill and decode (the leader is a proxy), as one entry
        if they are the same. Otherwise it is only the selected endpoint, as `prefill` if the decode
        is not chosen yet.
        """
        if self.prefill is None or self.decode is None:
            return ("prefill" if self.is_prefill_alone else "leader",)
        if self.prefill.endpoint.identity == self.decode.endpoint.identity:
            return ("prefill",)
        return ("prefill", "decode")


class LatencyPrediction(msgspec.Struct, frozen=True, rename=record_name, gc=False):
    """The predicted latencies, in milliseconds; None is no prediction."""

    ttft_ms: Annotated[
        Milliseconds | None,
        declare("Predicted time to first token.", attribute=".time_to_first_token"),
    ] = None
    tpot_ms: Annotated[
        Milliseconds | None,
        declare("Predicted time per output token.", attribute=".time_per_output_token"),
    ] = None


class EndpointSnapshot(msgspec.Struct, rename=record_name, omit_defaults=True, gc=False):
    """An endpoint of the route as the router saw it at dispatch, without this request."""

    id: Annotated[
        Text,
        declare(
            "`pod://namespace/pod`, else `addr://host:port`.",
            attribute=".id",
            always=True,
        ),
    ] = ""
    address: Annotated[Text, declare("Host or IP address.", attribute=".address")] = ""
    port: Annotated[Text, declare("Port, as text.", attribute=".port")] = ""
    name: Annotated[
        Text, declare("Name that distinguishes the ranks of a pod.", attribute=".name")
    ] = ""
    metrics: Annotated[
        EndpointMetrics | None,
        declare(
            "Metrics of the engine, if known; absent for the leader of a PD route.",
            attribute=".",
            source="engine",
        ),
    ] = None
    inflight: Annotated[
        Load | None,
        declare("Load; absent for the leader of a PD route.", attribute=".inflight", source="load"),
    ] = None
    npu: Annotated[
        NPUState | None,
        declare("State of the accelerators, if known.", attribute=".npu", source="device"),
    ] = None
    prefill_tokens: Annotated[
        Total | None,
        declare(
            "Prompt tokens left to prefill: of requests in flight without a first output, less "
            "what the router believed to be cached.",
            "{token}",
            ".prefill.tokens",
            source="load",
        ),
    ] = None

    @property
    def label(self) -> str:
        """The name in metrics: `Endpoint.label`."""
        return f"{self.id}#{self.name}" if self.name else self.id


class RouteSnapshot(msgspec.Struct, rename=record_name, omit_defaults=True, gc=False):
    """The route: a leader alone, or leader (identity only), prefill and decode."""

    leader: Annotated[
        EndpointSnapshot,
        declare("The selected endpoint, or the proxy of a pair.", attribute=".leader"),
    ]
    prefill: Annotated[
        EndpointSnapshot | None, declare("Computes the prompt.", attribute=".prefill")
    ] = None
    decode: Annotated[
        EndpointSnapshot | None, declare("Generates the answer.", attribute=".decode")
    ] = None
