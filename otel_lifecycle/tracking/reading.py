"""Reads the values of a router's objects; what is absent or raises when it is read is unknown."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final, cast

from otel_lifecycle.model import EndpointMetrics, NPUDevice, NPUState, sanitize
from otel_lifecycle.model.fields import Field, constructor, fields_of

UNUSABLE: Final[Any] = object()
"""Stands for a value that is there and of no use, so that it is counted and not just unknown."""


def attribute(endpoint: object, key: str) -> Any:
    """What a scheduler's endpoint keeps under a key."""
    try:
        return endpoint.get(key)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    except Exception:
        return None


def read(source: object, name: str, unreadable: Any = None) -> Any:
    """An attribute; None where there is none, `unreadable` where it raises."""
    try:
        return getattr(source, name, None)
    except Exception:
        return unreadable


def number(source: object, name: str) -> Any:
    """A number, still to be checked; `UNUSABLE` for anything else."""
    try:
        value = getattr(source, name, None)
    except Exception:
        return UNUSABLE
    return value if value is None or isinstance(value, (int, float)) else UNUSABLE


def plain(value: object) -> Any:
    """The plain value of an enum member; anything else as it is."""
    return value.value if isinstance(value, Enum) else value


def text(source: object, name: str) -> str:
    """A text; empty for anything else."""
    try:
        value = getattr(source, name, "")
    except Exception:
        return ""
    return value if type(value) is str else sanitize.text(plain(value))


def moment(source: object, name: str) -> datetime | None:
    """A point in time."""
    value = read(source, name)
    return value if isinstance(value, datetime) else None


def models(source: object, name: str) -> dict[str, int]:
    """Numbers by the name of a model."""
    value = read(source, name)
    return value if isinstance(value, dict) else {}  # pyright: ignore[reportUnknownVariableType]


def endpoint_metrics(metrics: object) -> EndpointMetrics | None:
    """The metrics of an engine, of an object of the seed's shape or of ours."""
    if metrics is None or isinstance(metrics, EndpointMetrics):
        return metrics
    return _read_metrics(metrics)


def npu_state(state: object) -> NPUState | None:
    """The state of an endpoint's accelerators, likewise."""
    if isinstance(state, NPUState):
        return state
    for name in _NPU_FIELDS:
        if read(state, name, UNUSABLE) is not None:
            return _read_npu(state)
    return None  # of another type


def _device(device: object) -> NPUDevice:
    if isinstance(device, NPUDevice):
        return device
    return _read_device(device)


def _devices(source: object, name: str) -> tuple[NPUDevice, ...]:
    devices = read(source, name)
    if not isinstance(devices, (list, tuple)):
        return ()
    return tuple(map(_device, cast("list[object]", devices)))


def _seed_name(field: Field) -> str:
    """The seed's name of a field, in snake_case."""
    return re.sub("[A-Z]", lambda capital: "_" + capital[0].lower(), field.record_name)


def _field(field: Field) -> str:
    """The call that reads a field, by the kind it is declared to be."""
    name = "devices" if field.struct is not None else field.kind or "models"
    return f"{name if name in _READERS else 'number'}(o, {_seed_name(field)!r})"


_READERS: Mapping[str, Callable[[object, str], object]] = {
    "text": text,
    "moment": moment,
    "models": models,
    "devices": _devices,
    "number": number,
}
_NPU_FIELDS = tuple(map(_seed_name, fields_of(NPUState)))
_read_metrics = constructor(EndpointMetrics, _field, _READERS)
_read_npu = constructor(NPUState, _field, _READERS)
_read_device = constructor(NPUDevice, _field, _READERS)
