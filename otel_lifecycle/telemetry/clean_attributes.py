"""Puts attributes and events on a span without having the SDK clean them again.

The SDK checks and copies every value it is given, one by one: more than half of what a span with 70
attributes costs, and most of what an event with two does (`make bench`). Those of a record were
made safe when they were read from the router (`otel_lifecycle.model.sanitize`), so they can be
taken as they are. There is no public way to say so. Where the SDK's inside is not what it was, or
its limits would change an attribute, the public way is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, SpanLimits
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.trace import Span


def set_clean_attributes(span: Span, attributes: Mapping[str, Any]) -> None:
    """Sets attributes whose values are text, finite numbers, booleans or tuples of these."""
    values = _unlimited(span, len(attributes))
    if values is None:
        span.set_attributes(attributes)
    else:
        values.update(attributes)


def add_clean_event(span: Span, name: str, attributes: Mapping[str, Any], at_ns: int) -> None:
    """Adds an event whose attributes are as clean, and its own: nobody changes them any more."""
    limits = getattr(span, "_limits", None) if isinstance(span, SDKSpan) else None
    add_event = getattr(span, "_add_event", None)
    if (
        add_event is None
        or type(limits) is not SpanLimits
        or limits.max_attribute_length is not None
        or (
            limits.max_event_attributes is not None
            and len(attributes) > limits.max_event_attributes
        )
    ):
        span.add_event(name, attributes, at_ns)
    else:
        add_event(Event(name, attributes, at_ns))


def _unlimited(span: Span, more: int) -> dict[str, Any] | None:
    """The attributes of a live span, where `more` can be added without touching a limit."""
    held = getattr(span, "_attributes", None) if isinstance(span, SDKSpan) else None
    if type(held) is not BoundedAttributes or held.max_value_len is not None:
        return None
    values = cast("object", getattr(held, "_dict", None))
    if not isinstance(values, dict) or not span.is_recording():
        return None
    values = cast("dict[str, Any]", values)
    if held.maxlen is not None and len(values) + more > held.maxlen:
        return None
    return values
