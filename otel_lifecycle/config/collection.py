"""Settings of the collection loop: what is scraped, how often, and how it is let in."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from otel_lifecycle.config.settings import Duration, Settings, duration
from otel_lifecycle.runtime.text import without_secrets

Source: TypeAlias = Literal["engine", "npu_exporter", "dcgm", "amd", "npu_smi"]


_URL_EXPECTED = "must be a URL such as http://10.0.0.7:8000/metrics"


def _url(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be text")
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:  # its text may hold a part of a password
        raise ValueError(_URL_EXPECTED) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise ValueError(_URL_EXPECTED)
    if "@" in parts.netloc:
        raise ValueError("must be a URL without credentials, which go into authorizationFile")
    return value


Url = Annotated[str, BeforeValidator(lambda value: value and _url(value))]


def _path(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError("must be a path that begins with /")
    return value


def _at_least(value: timedelta) -> timedelta:
    if value < timedelta(milliseconds=10):
        raise ValueError("must be >= 10ms")
    return value


class TargetConfig(Settings):
    """One place that tells of engines or devices.

    Attributes:
        source: What is there: `engine`, whose kind is recognised by its metrics; the exporters
            `npu_exporter`, `dcgm` and `amd`; or `npu_smi`, the command on this host.
        url: Where it is; none for `npu_smi`.
        endpoints: Which endpoints it tells of, by `Endpoint.id` or `host:port`, each with the ids
            of its devices, none for all. Without it: an engine's is the endpoint at its host and
            port, and devices go by pod or host.
        authorization_file: A file with a bearer token, or with another `Authorization` such as
            `Basic ...`; read again for every scrape.
    """

    source: Source = "engine"
    url: Url = ""
    endpoints: dict[str, Annotated[tuple[str, ...], Field(strict=False)]] = Field(default={})
    authorization_file: str = ""

    def __str__(self) -> str:
        return f"{self.source}={without_secrets(self.url)}" if self.url else self.source

    @model_validator(mode="after")
    def _needs_url(self) -> TargetConfig:
        if bool(self.url) == (self.source == "npu_smi"):
            raise ValueError("url is required, and only npu_smi has none")
        return self


def _targets(value: object) -> object:
    """Text, as in an environment variable: `npu_exporter=http://10.0.1.3:8082/metrics, ...`."""
    if not isinstance(value, str):
        return value
    targets: list[dict[str, str]] = []
    for text in filter(None, map(str.strip, value.split(","))):
        source, is_named, url = text.partition("=")
        if text == "npu_smi":
            targets.append({"source": text})
        elif is_named and "/" not in source:
            targets.append({"source": source, "url": url})
        else:
            targets.append({"url": text})
    return targets


Targets = Annotated[tuple[TargetConfig, ...], BeforeValidator(_targets)]


class CollectionConfig(Settings):
    """What is scraped for state that the router does not have.

    Off unless it is asked for: it makes requests to every engine, from every process of a router.

    Attributes:
        enabled: Whether to scrape at all.
        endpoints: Scrape the endpoints that the router uses, at `http://address:port` and
            `metrics_path`.
        metrics_path: Where engines have their metrics.
        targets: What else to scrape; in text `source=url, ...`.
        targets_file: A JSON list of targets, read again when it changes.
        engine_pods: Label selector of engine pods, such as `app=vllm`: tells which pod and node
            an address belongs to, so that devices find their endpoint. Asks the Kubernetes API.
        exporter_pods: Label selector of exporter pods, such as `app=npu-exporter`.
        engine_namespace: Where the engine pods are. Default: the router's own namespace.
        exporter_namespace: Where the exporter pods are. Default: the router's own namespace.
        exporter_source: What the exporter pods are.
        exporter_port: Port of the exporter pods.
        interval: How often each target is scraped.
        timeout: How long one scrape may take.
        max_backoff: How long a target that fails again and again is left alone at most.
        forget_after: From then on what was scraped last counts as missing, not as stale.
        concurrency: How many scrapes run at once at most.
        max_response_bytes: Responses beyond it, unpacked, are not read.
        ca_file: Certificates to trust, instead of the system's.
        cert_file: Certificate to show, with its key in `key_file` or in itself.
        key_file: Key of that certificate.
        tls_verify: Whether to check the certificates of targets.
    """

    enabled: bool = False
    endpoints: bool = True
    metrics_path: Annotated[str, BeforeValidator(_path)] = "/metrics"
    targets: Targets = Field(default=(), strict=False)
    targets_file: str = ""
    engine_pods: str = ""
    exporter_pods: str = ""
    engine_namespace: str = ""
    exporter_namespace: str = ""
    exporter_source: Literal["npu_exporter", "dcgm", "amd"] = "npu_exporter"
    exporter_port: int = Field(default=8082, ge=1, le=65535)
    interval: Annotated[Duration, AfterValidator(_at_least)] = duration(seconds=1)
    timeout: Annotated[Duration, AfterValidator(_at_least)] = duration(seconds=1)
    max_backoff: Duration = duration(seconds=30)
    forget_after: Duration = duration(minutes=1)
    concurrency: int = Field(default=32, ge=1)
    max_response_bytes: int = Field(default=4 * 1024 * 1024, ge=1024)
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    tls_verify: bool = True

    def __str__(self) -> str:
        changed = {name: getattr(self, name) for name in self.model_dump(exclude_defaults=True)}
        return " ".join(f"{name}={_shown(value)}" for name, value in changed.items()) or (
            "the defaults"
        )


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
