"""Records on their way from a tracker to the span processors, while their spans end.

Handing over the record itself is cheaper than reading it back from attributes, and it is there when
the span is not sampled and has none.
"""

from __future__ import annotations

from typing import NamedTuple

from opentelemetry.trace import SpanContext

from otel_lifecycle.model.record import LifecycleRecord


class Handover(NamedTuple):
    """A record, the name of the store it comes from, and the processors that have taken it."""

    record: LifecycleRecord
    store_name: str
    taken_by: list[object]


_offered: dict[tuple[int, int], Handover] = {}


def offer(context: SpanContext, record: LifecycleRecord, store_name: str) -> None:
    """Makes a record available to the processors of its span, until `withdraw`."""
    _offered[context.trace_id, context.span_id] = Handover(record, store_name, [])


def withdraw(context: SpanContext) -> None:
    """The span has ended."""
    _offered.pop((context.trace_id, context.span_id), None)


def offered(context: SpanContext) -> Handover | None:
    """What is offered for a span that is just ending."""
    return _offered.get((context.trace_id, context.span_id))
