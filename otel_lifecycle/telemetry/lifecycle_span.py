"""The span of a request where the SDK would make it: it says what its request says when it is read.

A span of the SDK checks and copies every value while the request waits. This one keeps the request
instead, and attributes and events are made of its record by whoever reads them first: an exporter,
on its own thread. To everybody else it is the SDK's span, which it inherits from: what others set
on it, its limits, and its end are the SDK's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits, Tracer
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode

from otel_lifecycle.model.record import MAX_REROUTES
from otel_lifecycle.telemetry.attributes import Attributes
from otel_lifecycle.telemetry.setters.count import has_at_most
from otel_lifecycle.telemetry.spans import Recorded
from otel_lifecycle.telemetry.told import Told

_Said = TypeVar("_Said")

_UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)

_MOST_EVENTS = MAX_REROUTES + 3
_MOST_EVENT_ATTRIBUTES = 3
_BY_OTHERS = {"given", "events", "is_changed"}


_offered: dict[tuple[int, int], Told] = {}


def told_by(span: ReadableSpan) -> Told | None:
    """The request that a span tells of; None for one that is read from elsewhere, or no request's.

    A processor and an exporter may ask: its record is cheaper than what is read from attributes,
    and a span that is not sampled has none.
    """
    if isinstance(span, LifecycleSpan):
        return span.told
    context = span.get_span_context()
    return None if context is None else _offered.get((context.trace_id, context.span_id))


@contextmanager
def offered(span: Span, told: Told) -> Generator[None]:
    """While a span of somebody else's making ends, its processors may ask what it tells of."""
    context = span.get_span_context()
    ids = context.trace_id, context.span_id
    _offered[ids] = told
    try:
        yield
    finally:
        _offered.pop(ids, None)


class LifecycleSpan(SDKSpan):
    """Makes attributes and events when they are read; thread-safe.

    Args:
        tracer: Where it belongs.
        told: The request it tells of.
        name: Its name.
        context: Its ids.
        parent: Its parent.
        kind: Its kind.
        started_ns: When it starts, Unix nanoseconds.
    """

    # Slots take the place of the attributes that the SDK's constructor makes. The others are
    # properties below; `__dict__` has what they made, and stays empty on the path of a request.
    __slots__ = (
        "_context",
        "_end_time",
        "_is_reported",
        "_is_whole",
        "_kind",
        "_lock",
        "_name",
        "_parent",
        "_resource",
        "_start_time",
        "_status",
        "_tracer",
        "told",
    )

    _trace_config = None
    _record_exception = True
    _set_status_on_exception = True
    _record_end_metrics = None

    def __init__(  # pyright: ignore[reportMissingSuperCall]
        self,
        tracer: Tracer,
        told: Told,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        started_ns: int,
    ) -> None:
        self._tracer = tracer
        self.told = told
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._start_time = started_ns
        self._end_time: int | None = None
        self._status = _UNSET
        self._resource: Resource = tracer.resource
        self._lock = threading.Lock()
        self._is_whole = False
        self._is_reported = False

    def begin_with(self, attributes: Mapping[str, Any] | None) -> None:
        """Starts with the attributes that a sampler wants, instead of those it was shown."""
        vars(self)["given"] = self._limited(attributes)

    def renamed(self, name: str) -> None:
        """The request tells of another model."""
        self.update_name(name)
        if "given" in vars(self):
            self.set_attributes(self.told.start_attributes())

    def finish(self, ended_ns: int | None, *, is_error: bool, announces: bool) -> None:
        """Ends as the request did; once, however often it is called after an interruption.

        Args:
            ended_ns: Unix nanoseconds.
            is_error: Whether that is an error.
            announces: Whether a processor asks to see a span that is about to end.
        """
        with self._lock:
            if self._end_time is None:
                if self._context.trace_flags.sampled:
                    self._is_whole = True
                    if is_error and self._status.status_code is not StatusCode.OK:
                        self._status = _ERROR
                self._end_time = ended_ns
        if not self._is_reported:
            processor = self._tracer.span_processor
            if announces and hasattr(processor, "_on_ending"):  # since version 1.40
                processor._on_ending(self)  # pyright: ignore[reportPrivateUsage]
            self._is_reported = True
            processor.on_end(self)

    def end(self, end_time: int | None = None) -> None:
        """Ends by somebody else's hand: it tells what it has so far."""
        self._is_reported = True
        super().end(end_time)

    @property
    def recorded(self) -> Recorded | None:
        """What all it says is made of; None if others have a say in it, or limits might cut it.

        An exporter need not read attributes and events then.
        """
        return self._said(self._uncut, None) if self.is_plain else None

    @property
    def dropped_attributes(self) -> int:
        """How many attributes the limits have cost."""
        return 0 if self.recorded is not None else super().dropped_attributes

    @property
    def dropped_events(self) -> int:
        """How many events the limits have cost."""
        return 0 if self.is_plain else super().dropped_events

    @property
    def links(self) -> Sequence[Link]:
        """The links that others have given it."""
        return super().links if "links" in vars(self) else ()

    @property
    def dropped_links(self) -> int:
        """How many of them the limits have cost."""
        return super().dropped_links if "links" in vars(self) else 0

    def _uncut(self) -> Recorded | None:
        """What its attributes are made of; None if there are more than the limit."""
        recorded, most = self.told.recorded(), self._limits.max_span_attributes
        if recorded is None or most is None:
            return recorded
        record, at = recorded.record, recorded.at
        return recorded if has_at_most(most, record, at, recorded.details, recorded.views) else None

    @property
    def is_plain(self) -> bool:
        """Whether it has ended, is sampled, and says what its record says and nothing else."""
        if not self._is_whole or not _BY_OTHERS.isdisjoint(vars(self)):
            return False
        global _last_limits
        last, limits = _last_limits, self._limits
        if last[0] is not limits:
            last = _last_limits = limits, _may_cut(limits)
        return not last[1]

    @property
    def _attributes(self) -> Any:
        if self._is_whole:
            return self._made("whole", self._whole)
        return self._made("given", self._first)

    @_attributes.setter
    def _attributes(self, value: Any) -> None:
        vars(self)["whole" if self._is_whole else "given"] = value
        vars(self)["is_changed"] = True

    @property
    def _events(self) -> Any:
        if self._is_whole:
            return self._made("all_events", self._all_events)
        return self._made("events", self._no_events)

    @_events.setter
    def _events(self, value: Any) -> None:
        vars(self)["all_events" if self._is_whole else "events"] = value
        vars(self)["is_changed"] = True

    @property
    def _links(self) -> Any:
        return self._made("links", self._no_links)

    @property
    def _limits(self) -> Any:
        return self._tracer._span_limits  # pyright: ignore[reportPrivateUsage]

    @property
    def _span_processor(self) -> Any:
        return self._tracer.span_processor

    @property
    def _sampler(self) -> Any:
        return self._tracer.sampler

    @property
    def _instrumentation_info(self) -> Any:
        return self._tracer.instrumentation_info

    @property
    def _instrumentation_scope(self) -> Any:
        return self._tracer._instrumentation_scope  # pyright: ignore[reportPrivateUsage]

    def _made(self, name: str, make: Callable[[], Any]) -> Any:
        """What was made before, or is now."""
        made: dict[str, Any] = vars(self)
        value = made.get(name)
        # In one step: two threads may be here.
        return made.setdefault(name, make()) if value is None else value

    def _no_events(self) -> BoundedList[Event]:
        return BoundedList(self._limits.max_events)

    def _no_links(self) -> BoundedList[Link]:
        return BoundedList(self._limits.max_links)

    def _first(self) -> BoundedAttributes:
        return self._limited(self._said(self.told.start_attributes, {}))

    def _whole(self) -> Mapping[str, Any]:
        """All attributes of an ended span: what others gave it, and what its request says."""
        given = vars(self).get("given")
        limits = self._limits
        rest = self._said(self.told.end_attributes, {})
        if given is None:
            first = self._said(self.told.start_attributes, {})
            most = limits.max_span_attributes
            if limits.max_span_attribute_length is None and (
                most is None or len(first) + len(rest) <= most
            ):
                # They were made safe when they were read from the router: the SDK need not.
                return MappingProxyType({**first, **rest})
            given = first
        whole = self._limited(given)
        whole.dropped += getattr(given, "dropped", 0)
        for name, value in rest.items():
            whole[name] = value
        whole._immutable = True  # pyright: ignore[reportPrivateUsage]
        return whole

    def _all_events(self) -> Sequence[Event]:
        given = vars(self).get("events", ())
        limits = self._limits
        own = self._said(self.told.events, [])
        events = [*given, *(self._event(*event) for event in own)]
        if limits.max_events is None or len(events) <= limits.max_events:
            return events
        bounded = self._no_events()
        bounded.extend(events)
        bounded.dropped += getattr(given, "dropped", 0)
        return bounded

    def _event(self, name: str, at_ns: int, attributes: Attributes) -> Event:
        limits = self._limits
        most = limits.max_event_attributes
        if limits.max_attribute_length is None and (most is None or len(attributes) <= most):
            return Event(name, attributes, at_ns)
        bounded = BoundedAttributes(most, attributes, max_value_len=limits.max_attribute_length)
        return Event(name, bounded, at_ns)

    def _limited(self, attributes: Mapping[str, Any] | None) -> BoundedAttributes:
        limits = self._limits
        return BoundedAttributes(
            limits.max_span_attributes,
            attributes,
            immutable=False,
            max_value_len=limits.max_span_attribute_length,
        )

    def _said(self, say: Callable[[], _Said], nothing: _Said) -> _Said:
        """What the request says; nothing if that fails: an exporter has other spans to send."""
        try:
            return say()
        except Exception:
            self.told.manner.failed("span")
            return nothing


def _may_cut(limits: SpanLimits) -> bool:
    """Whether limits, but for that of attributes, can cost a span that nobody has touched any."""
    return (
        limits.max_attribute_length is not None
        or limits.max_span_attribute_length is not None
        or any(
            limit is not None and limit < most
            for limit, most in (
                (limits.max_event_attributes, _MOST_EVENT_ATTRIBUTES),
                (limits.max_events, _MOST_EVENTS),
            )
        )
    )


_last_limits: tuple[SpanLimits | None, bool] = None, True
