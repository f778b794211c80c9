"""The settings of a router at start: its mode and its first endpoints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from hermes_router.endpoint import (
    AGGREGATED,
    DECODE,
    LEADER,
    PD_ROLE_LABEL,
    PREFILL,
    EndpointMetadata,
    NamespacedName,
)
from hermes_router.errors import InvalidFieldError

MODES = ("aggregated", "pd")
ROLES = (AGGREGATED, LEADER, PREFILL, DECODE)

_FIELDS = ("name", "namespace", "pod", "address", "port", "role", "labels")
_ADDRESS = re.compile(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", re.ASCII)


@dataclass(frozen=True)
class RouterConfig:
    """Settings of one router; `__main__` documents them as command line options."""

    mode: str = "aggregated"
    scrape_interval: float = 0.5
    max_attempts: int = 3
    training_records: Path | None = None


def load_endpoints(path: Path) -> list[EndpointMetadata]:
    """Read an endpoints file; raise `InvalidFieldError` or `OSError`."""
    try:
        content: object = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidFieldError("endpoints file", str(path), f"valid JSON ({error})") from error
    if not isinstance(content, list):
        raise InvalidFieldError("endpoints file", content, "a JSON list of endpoints")
    endpoints: list[EndpointMetadata] = []
    for index, item in enumerate(cast("list[object]", content)):
        try:
            endpoints.append(parse_endpoint(item))
        except InvalidFieldError as error:
            field = f"{path}[{index}].{error.field}"
            raise InvalidFieldError(field, error.value, error.allowed) from error
    return endpoints


def parse_endpoint(description: object) -> EndpointMetadata:
    """Read one endpoint: `{"name": "qwen-0", "address": "127.0.0.1", "port": 9001, ...}`."""
    if not isinstance(description, dict):
        raise InvalidFieldError("endpoint", description, "a JSON object")
    fields = cast("dict[str, object]", description)
    for unknown in fields.keys() - set(_FIELDS):
        raise InvalidFieldError(unknown, fields[unknown], f"only the fields {', '.join(_FIELDS)}")
    name = _text(fields, "name")
    labels = _labels(fields)
    role = fields.get("role", labels.pop(PD_ROLE_LABEL, AGGREGATED))
    if role not in ROLES:
        raise InvalidFieldError("role", role, " | ".join(ROLES))
    if role != AGGREGATED:
        labels[PD_ROLE_LABEL] = str(role)
    return EndpointMetadata(
        namespaced_name=NamespacedName(_text(fields, "namespace", "default"), name),
        pod_name=_text(fields, "pod", name),
        address=_address(fields),
        port=str(_port(fields)),
        labels=labels,
    )


def describe_endpoint(metadata: EndpointMetadata) -> dict[str, object]:
    """Return the description from which `parse_endpoint` reads the same endpoint."""
    return {
        "name": metadata.namespaced_name.name,
        "namespace": metadata.namespaced_name.namespace,
        "pod": metadata.pod_name,
        "address": metadata.address,
        "port": int(metadata.port),
        "role": metadata.role,
        "labels": metadata.labels,
    }


def _text(fields: Mapping[str, object], field: str, default: str | None = None) -> str:
    value = fields.get(field, default)
    if not isinstance(value, str) or not value or "/" in value:
        raise InvalidFieldError(field, value, "a non-empty string without a slash")
    return value


def _address(fields: Mapping[str, object]) -> str:
    address = fields.get("address")
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        raise InvalidFieldError("address", address, "a host name or IP address, IPv6 in brackets")
    return address


def _port(fields: Mapping[str, object]) -> int:
    port = fields.get("port")
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise InvalidFieldError("port", port, "a number from 1 to 65535")
    return port


def _labels(fields: Mapping[str, object]) -> dict[str, str]:
    labels = fields.get("labels", {})
    if not isinstance(labels, dict):
        raise InvalidFieldError("labels", labels, "an object of strings")
    for label, value in cast("dict[str, object]", labels).items():
        if not isinstance(value, str):
            raise InvalidFieldError(f"labels.{label}", value, "a string")
    return dict(cast("dict[str, str]", labels))
