"""The endpoints of a record, and their names in a terminal."""

from __future__ import annotations

from otel_lifecycle.analysis.formatting import printable
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import EndpointSnapshot


def counted_endpoints(record: LifecycleRecord) -> list[tuple[str, EndpointSnapshot]]:
    """Return the endpoints that carried the request, with their roles; see `Route.counted`."""
    route = record.selected_route
    if route is None:
        return []
    if route.prefill is None:
        return [("leader", route.leader)]
    if route.decode is None or endpoint_name(route.prefill) == endpoint_name(route.decode):
        return [("prefill", route.prefill)]
    return [("prefill", route.prefill), ("decode", route.decode)]


def endpoint_name(endpoint: EndpointSnapshot) -> str:
    """Return `namespace/pod` or `host:port`, followed by the rank's name if there is one."""
    name = endpoint.id.partition("://")[2] or endpoint.address or "?"
    return printable(f"{name}#{endpoint.name}" if endpoint.name else name)


def name_of_label(label: str) -> str:
    """Return the same name from an endpoint's label, as metrics and decisions have it."""
    return printable(label.partition("://")[2] or label)
