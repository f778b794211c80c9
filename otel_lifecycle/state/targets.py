"""The targets to scrape: from settings, from a file, and the endpoints the router uses."""

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
    """One target.

    Attributes:
        source: The kind of source.
        url: Its URL; empty for a command on this host.
        endpoints: The endpoints it describes, each with the ids of its devices (no ids: all
            devices). Empty: endpoints are matched by pod, host or address.
        authorization_file: See `TargetConfig`.
        hosts: Other names of the target's machine.
    """

    source: Source
    url: str
    endpoints: tuple[tuple[str, tuple[str, ...]], ...] = ()
    authorization_file: str = ""
    hosts: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """Source and URL, which identify a target."""
        return self.source, self.url

    @property
    def address(self) -> tuple[str, str]:
        """Host and port, in the form of an endpoint's."""
        parts = urlsplit(self.url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return parts.hostname or "", str(port)

    @property
    def place(self) -> str:
        """The location for the log, without secrets."""
        return without_secrets(self.url) or "on this host"

    @property
    def name(self) -> str:
        """The `target` of its readings: `host:port`, or the command."""
        return urlsplit(self.url).netloc or self.source


def configured(targets: Iterable[TargetConfig]) -> list[Target]:
    """Return the targets of the settings or of a file."""
    return [
        Target(
            target.source,
            target.url,
            tuple(target.endpoints.items()),
            target.authorization_file,
            () if target.url else (*_THIS_HOST, socket.gethostname().lower()),
        )
        for target in targets
    ]


def merged(
    explicit: Iterable[Target], endpoints: Iterable[Endpoint], config: CollectionConfig
) -> dict[tuple[str, str], Target]:
    """Return all targets by key; explicit targets take precedence.

    Args:
        explicit: Targets from settings, file or Kubernetes.
        endpoints: The endpoints that the router uses.
        config: Whether and where the endpoints are scraped.
    """
    targets: dict[tuple[str, str], Target] = {}
    described: set[str] = set()
    for target in explicit:
        targets.setdefault(target.key, target)
        if target.source == "engine":
            described.update(name for name, _ in target.endpoints)
    for endpoint in endpoints if config.endpoints else ():
        address = f"{bracketed(endpoint.address)}:{endpoint.port}"
        if endpoint.address and endpoint.port and described.isdisjoint((endpoint.id, address)):
            target = Target("engine", f"http://{address}{config.metrics_path}")
            targets.setdefault(target.key, target)
        if len(targets) >= _MAX_TARGETS:
            break
    return targets


def bracketed(host: str) -> str:
    """Return a host as written in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


class TargetsFile:
    """A JSON list of targets, read again when it changes; an invalid one changes nothing.

    Args:
        path: The file; empty if there is none.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._version: object = None
        self._problem = ""
        self._targets: Sequence[Target] = ()

    def read(self) -> Sequence[Target]:
        """Return the current targets."""
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
                _logger.warning(
                    "targets file %s: %s; keeping the previous targets", self._path, problem
                )
        return self._targets


_TARGETS = TypeAdapter(list[TargetConfig])
