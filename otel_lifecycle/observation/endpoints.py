"""The endpoints behind the addresses in a log."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import msgspec

from otel_lifecycle.model import Endpoint, RouteEndpoint
from otel_lifecycle.observation.entry import known
from otel_lifecycle.runtime.files import read_file

_MOST = 10_000
_NONE: Mapping[str, Endpoint] = MappingProxyType({})


class Endpoints:
    """Turns addresses into endpoints, each always the same object. Not thread-safe.

    Args:
        named: What is known of endpoints beside their address, by `host:port`.
    """

    def __init__(self, named: Mapping[str, Endpoint] = _NONE) -> None:
        self._named = named
        self._known: dict[str, RouteEndpoint | None] = {}

    def of(self, text: str | None) -> RouteEndpoint | None:
        """Return the endpoint of `host:port`, the first of a list; None for any other text."""
        text = known(text)
        if text in self._known:
            return self._known[text]
        if (
            len(self._known) >= _MOST
        ):  # a client may choose the header where no picker overwrites it
            self._known.clear()
        endpoint = self._known[text] = self._parse(text.partition(",")[0].strip())
        return endpoint

    def _parse(self, address: str) -> RouteEndpoint | None:
        named = self._named.get(address)
        if named is not None:
            return RouteEndpoint(named)
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (host and port.isdecimal() and len(port) <= 5):
            return None
        return RouteEndpoint(Endpoint(address=host, port=port))


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
