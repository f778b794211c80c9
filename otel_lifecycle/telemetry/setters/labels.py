"""A record's labels on its span, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from otel_lifecycle.model import semconv
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.attributes import Receiver


def set_labels(attributes: Receiver, record: LifecycleRecord) -> None:
    """Sets one attribute for each label."""
    labels = record.labels
    if labels is not msgspec.UNSET:
        for name, value in labels.items():
            attributes[semconv.LABEL + name] = value


def read_labels(attributes: Mapping[str, Any]) -> dict[str, str] | msgspec.UnsetType:
    """Returns the labels of a span."""
    labels = {
        name.removeprefix(semconv.LABEL): value
        for name, value in attributes.items()
        if name.startswith(semconv.LABEL)
    }
    return labels or msgspec.UNSET
