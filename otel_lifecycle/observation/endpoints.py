"""The endpoints behind the addresses in a log, and behind the names that a picker gives them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import msgspec

from otel_lifecycle.model import Endpoint, RouteEndpoint
from otel_lifecycle.observation.envoy.entry import known
from otel_lifecycle.runtime.files import read_file

if TYPE_CHECKING:
    from otel_lifecycle.state.matching import Pod

_MOST = 10_000
_NONE: Mapping[str, Endpoint] = MappingProxyType({})
_NO_PODS: Mapping[str, Pod] = MappingProxyType({})
_RANK = re.compile(r"-rank-\d+$")  # what pickers add to the name of a pod


class Endpoints:
    """Turns addresses into endpoints, each always the same object. Not thread-safe.

    Args:
        named: What is known of endpoints beside their address, by `host:port`.
        pods: Returns the current pods, by IP address; the same mapping until they change.
    """

    def __init__(
        self,
        named: Mapping[str, Endpoint] = _NONE,
        pods: Callable[[], Mapping[str, Pod]] | None = None,
    ) -> None:
        self._named = named
        self._list_pods = pods
        self._pods = _NO_PODS
        self._known: dict[str, RouteEndpoint | None] = {}
        self._by_name = {_full(one.namespace, one.name): one for one in named.values() if one.name}
        self._addresses: dict[str, str] = {}  # by name, as the picker said
        self._pod_addresses: dict[str, str] = {}

    def of(self, text: str | None) -> RouteEndpoint | None:
        """Return the endpoint of `host:port`, the first of a list; None for any other text."""
        if self._list_pods is not None:
            self._learn_pods(self._list_pods())
        text = known(text)
        if text in self._known:
            return self._known[text]
        if (
            len(self._known) >= _MOST
        ):  # a client may choose the header where no picker overwrites it
            self._known.clear()
        endpoint = self._known[text] = self._parse(text.partition(",")[0].strip())
        return endpoint

    def named(self, name: str, address: str = "") -> Endpoint | None:
        """Return the endpoint that a picker calls `namespace/name`; None: nobody knows it.

        Args:
            name: The name.
            address: Its `host:port`, if the picker says it as well.
        """
        if address:
            if len(self._addresses) >= _MOST:
                self._addresses.clear()
            self._addresses[name] = address
        address = address or self._addresses.get(name, "") or self._address_of_pod(name)
        if address:
            found = self.of(address)
            return None if found is None else found.endpoint
        return self._by_name.get(name) or self._by_name.get(_full("", name.partition("/")[2]))

    def _address_of_pod(self, name: str) -> str:
        """Return the address of a pod, if all endpoints seen so far have the same port."""
        host = self._pod_addresses.get(_RANK.sub("", name))
        if host is None:
            return ""
        seen = {each.endpoint.port for each in self._known.values() if each is not None}
        return f"{host}:{seen.pop()}" if len(seen) == 1 else ""

    def _learn_pods(self, pods: Mapping[str, Pod]) -> None:
        if pods is self._pods:
            return
        self._pods = pods
        self._known.clear()
        self._pod_addresses = {
            _full(pod.namespace, pod.name): f"[{host}]" if ":" in host else host
            for host, pod in pods.items()
            if pod.name
        }

    def _parse(self, address: str) -> RouteEndpoint | None:
        named = self._named.get(address)
        if named is not None:
            return RouteEndpoint(named)
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (host and port.isdecimal() and len(port) <= 5):
            return None
        pod = self._pods.get(host)
        if pod is None or not pod.name:
            return RouteEndpoint(Endpoint(address=host, port=port))
        return RouteEndpoint(Endpoint(pod.namespace, pod.name, host, port))


def _full(namespace: str, name: str) -> str:
    return f"{namespace}/{name}"


def read_endpoints(path: Path) -> dict[str, Endpoint]:
    """Return the endpoints of a file such as the picker's own, by `host:port`.

    It is JSON, or YAML if the extra `envoy` is installed: `endpoints`, a list of `name`, `address`,
    `port`, and optionally `namespace`, `podName` and `labels`.

    Raises:
        ValueError: The file is none of these; the text names the entry and what is wrong.
        OSError: It cannot be read.
    """
    text = read_file(path)
    try:
        content = msgspec.convert(_parse(path, text), _File, strict=False)
    except ValueError as error:
        raise ValueError(f"{path}: not a file of endpoints: {error}") from error
    return {
        f"{entry.address}:{entry.port}": Endpoint(
            namespace=entry.namespace,
            pod_name=entry.pod_name,
            address=entry.address,
            port=str(entry.port),
            name=entry.name,
            labels=entry.labels,
        )
        for entry in content.endpoints
    }


class _Named(msgspec.Struct, rename="camel"):
    address: str
    port: str | int
    name: str = ""
    namespace: str = ""
    pod_name: str = ""
    labels: dict[str, str] = {}


class _File(msgspec.Struct):
    endpoints: list[_Named]


def _parse(path: Path, text: bytes) -> object:
    if path.suffix == ".json":
        return msgspec.json.decode(text)
    if find_spec("yaml") is None:
        raise ValueError("YAML needs an extra: pip install 'otel-lifecycle[envoy]'")
    return msgspec.yaml.decode(text)
