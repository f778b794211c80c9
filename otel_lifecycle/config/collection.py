"""Settings of the collection loop: targets, intervals, and credentials."""

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
    except ValueError:  # its text may contain a part of a password
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


def _at_least_10ms(value: timedelta) -> timedelta:
    if value < timedelta(milliseconds=10):
        raise ValueError("must be >= 10ms")
    return value


class TargetConfig(Settings):
    """One source of engine metrics or device state.

    Attributes:
        source: The kind of source: `engine`, recognised by its metrics; the exporters
            `npu_exporter`, `dcgm` and `amd`; or `npu_smi`, the command on this host.
        url: Its URL; empty for `npu_smi`.
        endpoints: The endpoints it describes, by `Endpoint.id` or `host:port`, each with the ids
            of its devices; no ids mean all devices. Default: an engine describes the endpoint at
            its host and port, and devices are matched by pod or host.
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
    def _check_url(self) -> TargetConfig:
        if bool(self.url) == (self.source == "npu_smi"):
            raise ValueError("url is required, and only npu_smi has none")
        return self


def _targets(value: object) -> object:
    """Parse text from an environment variable: `npu_exporter=http://10.0.1.3:8082/metrics, ...`."""
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
    """Collection of state that the router does not have.

    Off by default, because every process of a router sends requests to every engine.

    Attributes:
        enabled: Whether to scrape.
        endpoints: Scrape the endpoints that the router uses, at `http://address:port` and
            `metrics_path`.
        metrics_path: Path of the engines' metrics.
        targets: Further targets; as text `source=url, ...`.
        targets_file: A JSON list of targets, read again when it changes.
        engine_pods: Label selector of engine pods, such as `app=vllm`. It provides the pod and node
            of an address, to match devices to endpoints. Uses the Kubernetes API.
        exporter_pods: Label selector of exporter pods, such as `app=npu-exporter`.
        engine_namespace: Namespace of the engine pods. Default: the router's own.
        exporter_namespace: Namespace of the exporter pods. Default: the router's own.
        exporter_source: The kind of the exporter pods.
        exporter_port: Port of the exporter pods.
        interval: Time between scrapes of a target.
        timeout: Time limit of one scrape.
        max_backoff: Longest time between attempts for a target that fails repeatedly.
        forget_after: Age after which the last values count as missing, not as stale.
        concurrency: Limit of simultaneous scrapes.
        max_response_bytes: Limit of a response after decompression; larger ones are refused.
        ca_file: Certificates to trust, instead of the system's.
        cert_file: Client certificate, with its key in `key_file` or in the same file.
        key_file: Key of that certificate.
        tls_verify: Whether to verify the certificates of targets.
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
    interval: Annotated[Duration, AfterValidator(_at_least_10ms)] = duration(seconds=1)
    timeout: Annotated[Duration, AfterValidator(_at_least_10ms)] = duration(seconds=1)
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
