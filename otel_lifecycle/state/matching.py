"""Matches an engine's metrics and a device's readings to endpoints."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from otel_lifecycle.model import EndpointMetrics
from otel_lifecycle.model.endpoint_state import EndpointState
from otel_lifecycle.model.fields import Field, fields_of
from otel_lifecycle.state.accelerators import DeviceReading
from otel_lifecycle.state.targets import Target, bracketed
from otel_lifecycle.state.watch import Readings

_RANK = re.compile(r"-rank-(\d+)$")


class Pod(msgspec.Struct, frozen=True):
    """The pod of an endpoint's address, and its node."""

    namespace: str
    name: str
    address: str
    node: str = ""
    node_address: str = ""


class Fleet:
    """The current endpoints, indexed by name, address, pod and host.

    If a target names its endpoints, they are found by name. Otherwise an engine is the endpoint at
    its address. A device with a pod belongs to that pod's endpoint and to no other; a device
    without a pod belongs to the endpoint on its host, if that is the only one there.

    Args:
        states: The endpoints in the store.
        pods: Pods by address.
    """

    def __init__(self, states: Iterable[EndpointState], pods: Mapping[str, Pod]) -> None:
        self._by_name: defaultdict[str, list[EndpointState]] = defaultdict(list)
        self._by_address: defaultdict[tuple[str, str], list[EndpointState]] = defaultdict(list)
        self._by_pod: defaultdict[tuple[str, str], list[EndpointState]] = defaultdict(list)
        self._by_host: defaultdict[str, list[EndpointState]] = defaultdict(list)
        for state in states:
            endpoint = state.endpoint
            host = endpoint.address.strip("[]").lower()
            pod = pods.get(host)
            for name in {endpoint.id, endpoint.label, f"{bracketed(host)}:{endpoint.port}"}:
                self._by_name[name].append(state)
            self._by_address[host, endpoint.port].append(state)
            if endpoint.pod_name:
                self._by_pod[endpoint.namespace, endpoint.pod_name].append(state)
            elif pod is not None and pod.name:
                self._by_pod[pod.namespace, pod.name].append(state)
            hosts = {host} if pod is None else {host, pod.node, pod.node_address}
            for name in hosts - {""}:
                self._by_host[name].append(state)

    def metrics(
        self, target: Target, ranks: Mapping[str, EndpointMetrics]
    ) -> dict[EndpointState, EndpointMetrics]:
        """Return an engine's metrics by endpoint."""
        if not ranks:
            return {}
        states = (
            [state for name, _ in target.endpoints for state in self._by_name.get(name, ())]
            if target.endpoints
            else self._by_address.get(target.address, ())
        )
        return {state: _rank_metrics(state.endpoint.name, ranks) for state in states}

    def devices(self, target: Target, readings: Readings) -> dict[EndpointState, Readings]:
        """Return an exporter's readings by endpoint."""
        found: defaultdict[EndpointState, list[DeviceReading]] = defaultdict(list)
        if target.endpoints:
            for name, device_ids in target.endpoints:
                for state in self._by_name.get(name, ()):
                    found[state] += [
                        reading
                        for reading in readings
                        if not device_ids or reading.device_id in device_ids
                    ]
            return dict(found)
        for reading in readings:
            if reading.pod_name:
                states = self._by_pod.get((reading.namespace, reading.pod_name), ())
            else:
                states = self._only_endpoint_on({target.address[0], reading.host, *target.hosts})
            for state in states:
                found[state].append(reading)
        return dict(found)

    def _only_endpoint_on(self, hosts: Iterable[str]) -> list[EndpointState]:
        """Return a host's endpoint with all its ranks; nothing if several share the host."""
        states = {state: None for host in hosts for state in self._by_host.get(host, ())}
        return list(states) if len({state.id for state in states}) == 1 else []


def _rank_metrics(name: str, ranks: Mapping[str, EndpointMetrics]) -> EndpointMetrics:
    """Return the metrics of an endpoint: of its rank, or of all ranks on its port."""
    if len(ranks) == 1:
        return next(iter(ranks.values()))
    rank = _RANK.search(name)
    if rank is not None and rank[1] in ranks:
        return ranks[rank[1]]
    return _combined(list(ranks.values()))


def _combined(ranks: list[EndpointMetrics]) -> EndpointMetrics:
    """Combine the metrics of all ranks on one port."""
    return EndpointMetrics(
        **{
            field.name: _combined_value(field, [getattr(rank, field.name) for rank in ranks])
            for field in fields_of(EndpointMetrics)
        }
    )


def _combined_value(field: Field, values: list[Any]) -> Any:
    """Return the sum, average or common value of a field; None if there is none."""
    if isinstance(field.default, dict):
        return {key: value for mapping in values for key, value in mapping.items()}
    if None in values:
        return None
    if field.declared.adds:
        return sum(values)
    if field.kind == "fraction":  # the caches of ranks have one size
        return sum(values) / len(values)
    return values[0] if values.count(values[0]) == len(values) else None
