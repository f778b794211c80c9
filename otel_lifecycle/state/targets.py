"""What there is to scrape: from the settings, from a file, and the endpoints the router uses."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec
from pydantic import TypeAdapter, ValidationError

from otel_lifecycle.config.collection import CollectionConfig, Source, TargetConfig
from otel_lifecycle.config.settings import problems
from otel_lifecycle.model import Endpoint
from otel_lifecycle.runtime.files import read_file
from otel_lifecycle.runtime.logs import get_logger
from otel_lifecycle.runtime.text import without_secrets

_logger = get_logger(__name__)

_MAX_TARGETS = 10_000
_THIS_HOST = ("127.0.0.1", "::1", "localhost")


class Target(msgspec.Struct, frozen=True):
    """One place to scrape.

    Attributes:
        source: What is there.
        url: Where it is; empty for a command on this host.
        endpoints: Which endpoints it tells of, each with the ids of its devices, none for all;
            empty when that is found out by pod, host or address.
        authorization_file: What to show there.
        hosts: Other names of the machine it is on.
    """

    source: Source
    url: str
    endpoints: tuple[tuple[str, tuple[str, ...]], ...] = ()
    authorization_file: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What makes two of them the same."""
        return self.source, self.url

    @property
    def address(self) -> tuple[str, str]:
        """Host and port, as an endpoint has them."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return parts.hostname or "", str(port)

    @property
    def place(self) -> str:
        """Where it is, for the log."""
        return without_secrets(self.url) or "on this host"

    @property
    def name(self) -> str:
        """What readings of it are marked with: `host:port`, or the command."""
        return urlsplit(self.url).netloc or self.source


def configured(targets: Iterable[TargetConfig]) -> list[Target]:
    """Those of the settings or of a file."""
    return [
        Target(
            one.source,
            one.url,
            tuple(one.endpoints.items()),
            one.authorization_file,
            () if one.url else (*_THIS_HOST, socket.gethostname().lower()),
        )
        for one in targets
    ]


def merged(
    explicit: Iterable[Target], endpoints: Iterable[Endpoint], config: CollectionConfig
) -> dict[tuple[str, str], Target]:
    """All targets, each once; what is said explicitly comes first.

    Args:
        explicit: Those that somebody named.
        endpoints: Those the router uses.
        config: Whether and where the endpoints are scraped.
    """
    targets: dict[tuple[str, str], Target] = {}
    told_of: set[str] = set()
    for target in explicit:
        targets.setdefault(target.key, target)
        if target.source == "engine":
            told_of.update(name for name, _ in target.endpoints)
    for endpoint in endpoints if config.endpoints else ():
        address = f"{bracketed(endpoint.address)}:{endpoint.port}"
        if endpoint.address and endpoint.port and told_of.isdisjoint((endpoint.id, address)):
            target = Target("engine", f"http://{address}{config.metrics_path}")
            targets.setdefault(target.key, target)
        if len(targets) >= _MAX_TARGETS:
            break
    return targets


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


class TargetsFile:
    """A JSON list of targets, read again when it changes; a bad one changes nothing.

    Args:
        path: The file; empty is none.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._version: object = None
        self._problem = ""
        self._targets: Sequence[Target] = ()

    def read(self) -> Sequence[Target]:
        """What it says by now."""
        if not self._path:
            return ()
        problem = ""
        try:
            status = os.stat(os.path.expanduser(self._path))
            version = (status.st_ino, status.st_mtime_ns, status.st_size)
            if version == self._version:
                return self._targets
            self._targets = configured(_TARGETS.validate_json(read_file(self._path)))
            self._version = version
        except ValidationError as error:
            problem = problems(error, camel_case=True)
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {error}"
        if problem != self._problem:
            self._problem = problem
            if problem:
                _logger.warning("targets file %s: %s; nothing changes", self._path, problem)
        return self._targets


_TARGETS = TypeAdapter(list[TargetConfig])
