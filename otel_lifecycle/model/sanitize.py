"""Cleans a router's values for the record: text valid and bounded, numbers finite and in range.

An unusable value becomes None (or empty text): unknown, never zero. These functions never raise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from itertools import islice
from typing import cast

from otel_lifecycle.model.endpoint import EndpointMetrics, NPUDevice, NPUState
from otel_lifecycle.model.fields import (
    MAX_COUNT,
    MAX_MILLISECONDS,
    MAX_TEXT_LENGTH,
    Field,
    constructor,
)

MAX_TRACE_STATE_LENGTH = 512
MAX_TRACE_STATE_MEMBERS = 32
_LONG_MEMBER = 128
_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_MAX_MODELS = 256
_MAX_DEVICES = 256
_NO_DEVICE = NPUDevice()


def text(value: object) -> str:
    """Return valid UTF-8 text of at most `MAX_TEXT_LENGTH` characters."""
    if type(value) is not str:
        if isinstance(value, bytes):
            value = value[: 4 * MAX_TEXT_LENGTH].decode("utf-8", "backslashreplace")
        elif isinstance(value, str):
            value = str.__str__(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = str(value) if abs(value) <= MAX_COUNT else ""
        else:
            return ""
    if len(value) > MAX_TEXT_LENGTH:
        value = value[:MAX_TEXT_LENGTH]
    if value.isascii():
        return value
    return value.encode("utf-8", "backslashreplace").decode("utf-8")[:MAX_TEXT_LENGTH]


def trace_state(header: str) -> str:
    """Return a `tracestate` header within the bounds of W3C Trace Context, or empty text.

    As the specification says, members of more than 128 characters are removed first, then the last.
    """
    members = [member for member in map(str.strip, header.split(",")) if member]
    if len(",".join(members)) > MAX_TRACE_STATE_LENGTH:
        members = [member for member in members if len(member) <= _LONG_MEMBER]
    members = members[:MAX_TRACE_STATE_MEMBERS]
    while len(",".join(members)) > MAX_TRACE_STATE_LENGTH:
        members.pop()
    return ",".join(members) if all(map(_MEMBER.fullmatch, members)) else ""


def count(value: object) -> int | None:
    """Return a whole number, 0 to 2^53 - 1; accepts a whole float."""
    if type(value) is int:
        return value if 0 <= value <= MAX_COUNT else None
    number = _finite(value)
    if number is None or not number.is_integer():
        return None
    return int(number) if 0 <= number <= MAX_COUNT else None


def fraction(value: object) -> float | None:
    """Return a number from 0 to 1."""
    number = _finite(value)
    return number if number is not None and 0.0 <= number <= 1.0 else None


def score(value: object) -> float | None:
    """Return a finite number of any size and sign."""
    return _finite(value)


def percent(value: object) -> float | None:
    """Return a number from 0 to 100, rounded to a millionth.

    After a failed read npu-exporter writes -1, and DCGM a huge blank value.
    """
    number = _finite(value)
    return round(number, 6) if number is not None and 0.0 <= number <= 100.0 else None


def milliseconds(value: object) -> float | None:
    """Return a time that is not negative, rounded to a nanosecond."""
    number = _finite(value)
    return round(number, 6) if number is not None and 0.0 <= number <= MAX_MILLISECONDS else None


def is_not_finite(value: object) -> bool:
    """Return whether `value` is a float NaN or infinity."""
    return isinstance(value, float) and not math.isfinite(value)


def moment(value: object) -> datetime | None:
    """Return an aware UTC datetime after the epoch; a naive one is taken as UTC."""
    if not isinstance(value, datetime):
        return None
    try:
        if value.tzinfo is not timezone.utc:
            offset = value.utcoffset()
            value = (
                value.replace(tzinfo=timezone.utc)
                if offset is None
                else value.astimezone(timezone.utc)
            )
        return value if value.year >= 1970 else None
    except (ValueError, OverflowError):
        return None


def metrics(value: object) -> EndpointMetrics | None:
    """Return the metrics with every unusable field unknown."""
    return _clean_metrics(value) if isinstance(value, EndpointMetrics) else None


def npu(value: object) -> NPUState | None:
    """Return the NPU state with every unusable field unknown."""
    return _clean_npu(value) if isinstance(value, NPUState) else None


def _finite(value: object) -> float | None:
    if type(value) is not float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return None
        try:
            value = float(value)
        except OverflowError:
            return None
    return value if math.isfinite(value) else None


def _models(value: object) -> dict[str, int]:
    models: dict[str, int] = {}
    if not isinstance(value, dict):
        return models
    for model, number in islice(cast("dict[object, object]", value).items(), _MAX_MODELS):
        usable = count(number)
        if usable is not None:
            models[text(model)] = usable
    return models


def _devices(value: object) -> tuple[NPUDevice, ...]:
    """Return the devices with at least one known value."""
    if not isinstance(value, tuple):
        return ()
    devices = map(_device, cast("tuple[object, ...]", value)[:_MAX_DEVICES])
    return tuple(device for device in devices if device != _NO_DEVICE)


def _device(device: object) -> NPUDevice:
    return _clean_device(device) if isinstance(device, NPUDevice) else _NO_DEVICE


def _cleaned(field: Field) -> str:
    """Return the call that cleans a field, according to its declared kind."""
    name = "devices" if field.struct is not None else field.kind or "models"
    return f"{name}(o.{field.name})"


_CLEANERS: Mapping[str, Callable[[object], object]] = {
    "text": text,
    "count": count,
    "fraction": fraction,
    "percent": percent,
    "moment": moment,
    "models": _models,
    "devices": _devices,
}
_clean_metrics = constructor(EndpointMetrics, _cleaned, _CLEANERS)
_clean_npu = constructor(NPUState, _cleaned, _CLEANERS)
_clean_device = constructor(NPUDevice, _cleaned, _CLEANERS)
