"""Counts the attributes of a span without making them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from msgspec import UNSET

from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.telemetry.attributes import Details, span_attributes
from otel_lifecycle.telemetry.setters.record import KeptAttributes, Moments, RecordSetters


def has_at_most(
    limit: int,
    record: LifecycleRecord,
    at: Moments,
    details: Details,
    views: Mapping[str, KeptAttributes],
) -> bool:
    """Return whether the span of a finished request has at most `limit` attributes.

    The other arguments are those of `end_attributes`.
    """
    route = record.selected_route
    if route is None or route.prefill is None:
        roles: tuple[str, ...] = ("leader",)
    elif route.decode is None:
        roles = ("prefill",)
    else:
        roles = ("prefill", "decode")
    labels = 0 if record.labels is UNSET else len(record.labels)
    if _most(details, roles) + labels <= limit:
        return True  # to count takes a fifth of the time to encode them
    counted = _Counted()
    _SETTERS.put_all(counted, record, at, details, views)
    return counted.number <= limit


@cache
def _most(details: Details, roles: tuple[str, ...]) -> int:
    """Return how many attributes there are at most, of endpoints in these roles.

    An endpoint in another role is only identified, if it is there at all.
    """
    return sum(
        (not attribute.opt_in or getattr(details, attribute.opt_in))
        and (
            not attribute.field.startswith("selectedRoute.")
            or attribute.field.split(".")[1] in roles
            or attribute.source == "router"
        )
        for attribute in span_attributes()
    )


class _Counted:
    """Takes attributes, and keeps only their number; none is set twice."""

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number = 0

    def __setitem__(self, name: str, value: object) -> None:
        self.number += 1

    def update(self, others: _Counted) -> None:
        """Add the number of others."""
        self.number += others.number


class _Counting:
    """Has setters count attributes, whose values are not made."""

    names: Mapping[str, object] = {}

    def statements(self, name: str, kind: str, value: str) -> Iterator[str]:
        yield "a.number += 1"


_SETTERS = RecordSetters(_Counted, _Counting())
