"""Adds up the values of counters and histograms, and hands sums to the SDK when it collects.

The SDK takes about 10 us a value: it checks and hashes the attributes, asks the exemplar filter and
takes locks. A cell adds a value up in a fraction of one. Where sums cannot be handed over
(`sdk_inside`), each value is recorded by itself.

The first value of a series after each collection is always recorded by itself: so a series begins,
and is limited, as the SDK wants it.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final, Generic, TypeAlias, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import Counter, Histogram, Meter, NoOpCounter, NoOpHistogram
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from otel_lifecycle.runtime.forks import repair_in_forked_child
from otel_lifecycle.telemetry import sdk_inside

Attributes: TypeAlias = "Mapping[str, str | int]"
_C = TypeVar("_C", bound="_Cell")

_NO_SPAN: Final = Context()


class Moment:
    """When a request ended and, if it was sampled, its span: what exemplars say.

    Args:
        unix_ns: When.
        trace_id: Hexadecimal.
        span_id: Hexadecimal.
        trace_flags: Of the span.
    """

    __slots__ = ("_context", "_span_id", "_trace_flags", "_trace_id", "is_sampled", "unix_ns")

    def __init__(
        self, unix_ns: int, trace_id: str | None, span_id: str | None, trace_flags: int | None
    ) -> None:
        self.unix_ns = unix_ns
        self.is_sampled = bool(trace_flags and trace_id and span_id)
        self._trace_id = trace_id
        self._span_id = span_id
        self._trace_flags = trace_flags
        self._context: Context | None = None

    @property
    def context(self) -> Context:
        """A context with the span, which is no longer current."""
        if self._context is None:
            self._context = _NO_SPAN if not self.is_sampled else self._span_context()
        return self._context

    def _span_context(self) -> Context:
        span = SpanContext(
            int(self._trace_id or "", 16),
            int(self._span_id or "", 16),
            is_remote=False,
            trace_flags=TraceFlags(self._trace_flags or 0),
        )
        return set_span_in_context(NonRecordingSpan(span), Context())


class _Cell:
    """One series of an instrument, from one collection to the next; under the lock of its `Cells`.

    Attributes:
        attributes: Of the series.
        places: Where it will be added, from the first value on; None: it had none yet, or values
            are recorded by themselves.
        last: The last value of each bucket that has a span.
    """

    __slots__ = ("_held", "_instrument", "attributes", "last", "places")

    def __init__(self, instrument: Batched[Any], attributes: Attributes) -> None:
        self._instrument = instrument
        self.attributes = attributes
        self.places: list[sdk_inside.Place] | None = None
        # The second value: if the SDK drops the series after the first, as it does at a collection
        # of differences, recording this one makes it again.
        self._held: float | None = None
        self.last: dict[int, tuple[float, Moment]] = {}

    @property
    def has_more(self) -> bool:
        """Whether there are values after the first."""
        return self._held is not None

    def record_held(self) -> None:
        """Record the second value by itself."""
        if self._held is not None:
            self._instrument.record(self._held, self.attributes, _NO_SPAN)
            self._held = None

    def add_held(self) -> None:
        """Let the second value be added with the others, unless it was recorded by itself."""
        raise NotImplementedError

    def add_to(self, aggregation: sdk_inside.Aggregation) -> None:
        """Add the values after the first."""
        raise NotImplementedError


class CounterCell(_Cell):
    """One series of a counter."""

    __slots__ = ("_count",)

    def __init__(self, instrument: Batched[Any], attributes: Attributes) -> None:
        super().__init__(instrument, attributes)
        self._count = 0

    def add(self, moment: Moment) -> None:
        """Count one."""
        if self.places is None:
            self._instrument.record_first(self, 1, moment)
            return
        if moment.is_sampled:
            self.last[0] = 1, moment
        if self._held is None:
            self._held = 1
        else:
            self._count += 1

    def add_held(self) -> None:
        """Let the second value be added with the others, unless it was recorded by itself."""
        if self._held is not None:
            self._count += 1

    def add_to(self, aggregation: sdk_inside.Aggregation) -> None:
        """Add the values after the first."""
        sdk_inside.add_count(aggregation, self._count)


class HistogramCell(_Cell):
    """One series of a histogram."""

    __slots__ = ("_bounds", "_counts", "_least", "_most", "_total")

    def __init__(self, instrument: Batched[Any], attributes: Attributes) -> None:
        super().__init__(instrument, attributes)
        self._bounds = instrument.bounds
        self._counts = [0] * (len(self._bounds) + 1)
        self._total = 0.0
        self._least, self._most = inf, -inf

    def record(self, value: float, moment: Moment) -> None:
        """Record a value."""
        if self.places is None:
            self._instrument.record_first(self, value, moment)
            return
        if not 0.0 <= value < inf:  # the SDK says what is wrong with it
            self._instrument.record(value, self.attributes, moment.context)
            return
        bucket = bisect_left(self._bounds, value)
        if moment.is_sampled:
            self.last[bucket] = value, moment
        if self._held is None:
            self._held = value
        else:
            self._add(value, bucket)

    def add_held(self) -> None:
        """Let the second value be added with the others, unless it was recorded by itself."""
        if self._held is not None:
            self._add(self._held, bisect_left(self._bounds, self._held))

    def _add(self, value: float, bucket: int) -> None:
        self._counts[bucket] += 1
        self._total += value
        if value < self._least:
            self._least = value
        if value > self._most:
            self._most = value

    def add_to(self, aggregation: sdk_inside.Aggregation) -> None:
        """Add the values after the first."""
        sdk_inside.add_values(aggregation, self._counts, self._total, self._least, self._most)


class Batched(Generic[_C]):
    """An instrument whose values are added up in cells; under the lock of its `Cells`.

    Args:
        instrument: Of any SDK, or a stand-in for one to come.
        record: Records one value by itself.
        kind: Of its cells.
        bounds: Of a histogram's buckets.
    """

    def __init__(
        self,
        instrument: Counter | Histogram,
        record: Callable[[float, Attributes, Context], None],
        kind: type[_C],
        bounds: tuple[float, ...] = (),
    ) -> None:
        self.instrument = instrument
        self.record = record
        self.bounds = bounds
        self._kind = kind
        self._places: list[sdk_inside.Place] | None = None
        self._cells: dict[sdk_inside.Key, _C] = {}
        self._opened: list[_Cell] = []

    def cell(self, attributes: Attributes) -> _C:
        """The cell of a series, until `Cells.generation` changes."""
        key = frozenset(attributes.items())
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._kind(self, attributes)
        return cell

    def record_first(self, cell: _Cell, value: float, moment: Moment) -> None:
        """Record a value by itself; those that follow may be added up."""
        self.record(value, cell.attributes, moment.context)
        if self._places is not None:
            cell.places = self._places
            self._opened.append(cell)

    def follow(self, readers: Mapping[Any, Any]) -> None:
        """Find the places where values are added from now on."""
        self._cells = {}  # those that have values keep their places until they are merged
        self._places = sdk_inside.places_of(sdk_inside.real(self.instrument), self.bounds, readers)

    def merge(self, *, exemplars: bool) -> bool:
        """Hand over what cells have; return whether any must be looked up anew."""
        opened, self._opened = self._opened, []
        if opened:
            self._cells = {}
        full = [(frozenset(cell.attributes.items()), cell) for cell in opened if cell.has_more]
        found = _series_of(full)
        missing = [
            cell
            for key, cell in full
            if any(key not in found[place] for place in cell.places or ())
        ]
        for cell in missing:
            cell.record_held()
        if missing:
            found = _series_of(full)
        for key, cell in full:
            cell.add_held()
            for place in cell.places or ():
                aggregation = sdk_inside.aggregation_in(found[place], key)
                cell.add_to(aggregation)
                for value, moment in cell.last.values() if exemplars else ():
                    exemplar = sdk_inside.Exemplar(value, moment.unix_ns, moment.context)
                    sdk_inside.offer(aggregation, exemplar, cell.attributes)
        return bool(opened)


def _series_of(
    cells: list[tuple[sdk_inside.Key, _Cell]],
) -> dict[sdk_inside.Place, dict[sdk_inside.Key, sdk_inside.Aggregation]]:
    """What there is in the places of some cells."""
    places = {place for _, cell in cells for place in cell.places or ()}
    return {place: sdk_inside.series_in(place) for place in places}


class Cells:
    """The counters and histograms of one meter. Thread-safe where `lock` is held.

    Attributes:
        lock: To be held from `are_read` until the values of a request are recorded.
        generation: Changes when cells must be looked up anew.

    Args:
        meter: Makes the instruments.
    """

    def __init__(self, meter: Meter) -> None:
        self.lock = threading.RLock()  # a signal handler may record in the middle
        self.generation = 0
        self._meter = meter
        self._instruments: list[Batched[Any]] = []
        self._is_settled = self._is_no_op = False
        self._instrument: Any = None
        self._consumer: sdk_inside.Consumer | None = None
        self._readers: Mapping[Any, Any] | None = None
        repair_in_forked_child(self, Cells._after_fork_in_child)

    def counter(self, name: str, unit: str, description: str) -> Batched[CounterCell]:
        """Make a counter."""
        counter = self._meter.create_counter(name, unit, description)
        batched = Batched(counter, counter.add, CounterCell)
        self._instruments.append(batched)
        return batched

    def histogram(
        self, name: str, description: str, bounds: tuple[float, ...], unit: str = "s"
    ) -> Batched[HistogramCell]:
        """Make a histogram, of seconds unless another unit is given."""
        histogram = self._meter.create_histogram(
            name, unit, description, explicit_bucket_boundaries_advisory=bounds
        )
        batched = Batched(histogram, histogram.record, HistogramCell, bounds)
        self._instruments.append(batched)
        return batched

    def are_read(self) -> bool:
        """Return whether anybody reads what is recorded now, and follow changes of the readers."""
        if not self._is_settled:
            self._settle()
        if self._consumer is None:
            return not self._is_no_op
        readers = sdk_inside.readers_of(self._consumer)
        if readers is not self._readers:
            self._readers = readers
            self.generation += 1
            for instrument in self._instruments:
                instrument.follow(readers)
        return bool(readers) and sdk_inside.is_enabled(self._instrument)

    def merge(self) -> None:
        """Hand everything to the SDK; called while it collects: no other collection runs then."""
        if self._consumer is None:
            return
        exemplars = sdk_inside.keeps_exemplars(self._consumer)
        with self.lock:
            for instrument in self._instruments:
                if instrument.merge(exemplars=exemplars):
                    self.generation += 1

    def _settle(self) -> None:
        """Decide how values are recorded, once there is a real instrument."""
        instrument = sdk_inside.real(self._instruments[-1].instrument)  # set after the others
        if instrument is not None:
            self._instrument = instrument
            self._is_no_op = isinstance(instrument, (NoOpCounter, NoOpHistogram))
            self._consumer = sdk_inside.consumer_of(instrument)
            self._is_settled = True

    def _after_fork_in_child(self) -> None:
        self.lock = threading.RLock()
