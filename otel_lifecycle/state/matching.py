"""Which endpoint an engine's metrics and a device's readings belong to."""

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
from otel_lifecycle.state.watch import Ranks, Readings

_RANK = re.compile(r"-rank-(\d+)$")


class Pod(msgspec.Struct, frozen=True):
    """A pod of the cluster: what an endpoint's address alone does not tell."""

    namespace: str
    name: str
    address: str
    node: str = ""
    node_address: str = ""


class Fleet:
    """The endpoints of a moment, to be found by all that can tell them.

    An endpoint is found by its name where a target names it. Else an engine is the one at its
    address; a device with a pod belongs to that pod's endpoint and to no other; a device without
    one to the endpoint of its host, if that is the only one there.

    Args:
        states: The endpoints the store knows.
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

    def metrics(self, target: Target, ranks: Ranks) -> dict[EndpointState, EndpointMetrics]:
        """What an engine said, by endpoint."""
        if not ranks:
            return {}
        states = (
            [state for name, _ in target.endpoints for state in self._by_name.get(name, ())]
            if target.endpoints
            else self._by_address.get(target.address, ())
        )
        return {state: _of_rank(state.endpoint.name, ranks) for state in states}

    def devices(self, target: Target, readings: Readings) -> dict[EndpointState, Readings]:
        """What an exporter said, by endpoint."""
        found: defaultdict[EndpointState, list[DeviceReading]] = defaultdict(list)
        if target.endpoints:
            for name, device_ids in target.endpoints:
                for state in self._by_name.get(name, ()):
                    found[state] += [
                        one for one in readings if not device_ids or one.device_id in device_ids
                    ]
            return dict(found)
        for reading in readings:
            if reading.pod_name:
                states = self._by_pod.get((reading.namespace, reading.pod_name), ())
            else:
                states = self._alone_on({target.address[0], reading.host, *target.hosts})
            for state in states:
                found[state].append(reading)
        return dict(found)

    def _alone_on(self, hosts: Iterable[str]) -> list[EndpointState]:
        """The endpoint of a host, with all its ranks; none where several share the host."""
        states = {state: None for host in hosts for state in self._by_host.get(host, ())}
        return list(states) if len({state.id for state in states}) == 1 else []


def _of_rank(name: str, ranks: Ranks) -> EndpointMetrics:
    """The metrics of one endpoint: those of its rank, or of all ranks behind it."""
    if len(ranks) == 1:
        return next(iter(ranks.values()))
    rank = _RANK.search(name)
    if rank is not None and rank[1] in ranks:
        return ranks[rank[1]]
    return _together(list(ranks.values()))


def _together(ranks: list[EndpointMetrics]) -> EndpointMetrics:
    """Ranks that one port serves."""
    return EndpointMetrics(
        **{
            field.name: _of_all(field, [getattr(rank, field.name) for rank in ranks])
            for field in fields_of(EndpointMetrics)
        }
    )


def _of_all(field: Field, values: list[Any]) -> Any:
    """What ranks have together: a sum, or what is the same for all, or unknown."""
    if isinstance(field.default, dict):
        return {key: value for mapping in values for key, value in mapping.items()}
    if None in values:
        return None
    if field.declared.adds:
        return sum(values)
    if field.kind == "fraction":  # of caches of one size
        return sum(values) / len(values)
    return values[0] if values.count(values[0]) == len(values) else None
