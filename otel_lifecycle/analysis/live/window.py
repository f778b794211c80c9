"""The requests that ended within a sliding window, by model and endpoint."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from otel_lifecycle.analysis.live.tally import Ended, Tally
from otel_lifecycle.analysis.routes import counted_endpoints, endpoint_name
from otel_lifecycle.model import Outcome
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.route import EndpointSnapshot
from otel_lifecycle.model.timestamps import parse_timestamp

SLICES = 20
OTHER_MODELS = "(other models)"

_MAX_MODELS = 50  # clients invent names
_MAX_SERIES = 1_000
_IDLE_WINDOWS = 10
_KEPT_PER_SLICE = 8
_LAG_NS = 10_000_000_000  # a writer waits some seconds before it writes


class Key(NamedTuple):
    """What a series is of.

    Attributes:
        role: `leader`, `prefill` or `decode`; empty: all requests of a model.
        endpoint: Name of the endpoint; empty: all requests of a model.
        model: The model.
    """

    role: str
    endpoint: str
    model: str


@dataclass
class _Slice:
    number: int
    tally: Tally = field(default_factory=Tally)
    peak: int = 0


class Series:
    """The requests of one endpoint and model.

    Attributes:
        last_slice: The newest slice with a request.
        dispatched_at: When the newest request was dispatched.
        snapshot: The endpoint as the router saw it then.
    """

    def __init__(self) -> None:
        self.last_slice = 0
        self.dispatched_at = ""
        self.snapshot: EndpointSnapshot | None = None
        self._slices: deque[_Slice] = deque()
        self._earlier = Tally()  # all slices but the newest: most requests are counted once

    def add(self, number: int, request: Ended, *, ttft: bool = True, tpot: bool = True) -> None:
        """Count a request that ended in a slice."""
        self.last_slice = max(self.last_slice, number)
        part = self._slice(number)
        part.tally.add(request, ttft=ttft, tpot=tpot)
        if part is not self._slices[-1]:
            self._earlier.add(request, ttft=ttft, tpot=tpot)

    def see(self, number: int, snapshot: EndpointSnapshot, dispatched_at: str) -> None:
        """Remember the state of the endpoint, if it is the newest."""
        if snapshot.inflight is not None:
            part = self._slice(number)
            part.peak = max(part.peak, snapshot.inflight.requests + 1)
        if dispatched_at >= self.dispatched_at:
            self.dispatched_at, self.snapshot = dispatched_at, snapshot

    def forget(self, before: int) -> None:
        """Forget the requests of earlier slices."""
        while self._slices and self._slices[0].number < before:
            tally = self._slices.popleft().tally
            if self._slices:
                self._earlier.merge(tally, -1)

    def total(self) -> Tally:
        """Return what is counted of the window."""
        total = Tally()
        if self._slices:
            total.merge(self._earlier)
            total.merge(self._slices[-1].tally)
        return total

    def slices(self) -> Iterator[tuple[int, Tally, int]]:
        """Yield number, tally and highest number of requests in flight of each slice."""
        return ((one.number, one.tally, one.peak) for one in self._slices)

    def _slice(self, number: int) -> _Slice:
        slices = self._slices
        if slices and slices[-1].number == number:
            return slices[-1]
        place = len(slices)
        while place and slices[place - 1].number > number:
            place -= 1
        if place and slices[place - 1].number == number:
            return slices[place - 1]
        if slices and place == len(slices):
            self._earlier.merge(slices[-1].tally)
        slices.insert(place, _Slice(number))
        return slices[place]


class _Kept:
    """The requests of one slice worth a look."""

    def __init__(self) -> None:
        self.longest: dict[str, list[tuple[float, int, LifecycleRecord]]] = {}
        self.last: dict[str, deque[LifecycleRecord]] = {}

    def rank(self, kind: str, value: float | None, order: int, record: LifecycleRecord) -> None:
        if value is None:
            return
        heap = self.longest.setdefault(kind, [])
        if len(heap) < _KEPT_PER_SLICE:
            heapq.heappush(heap, (value, order, record))
        elif value > heap[0][0]:
            heapq.heapreplace(heap, (value, order, record))

    def append(self, kind: str, record: LifecycleRecord) -> None:
        self.last.setdefault(kind, deque(maxlen=_KEPT_PER_SLICE)).append(record)


class LiveWindow:
    """Takes finished requests, and forgets those that ended before the window. Not thread-safe.

    The window ends now. If no request ended within it since the view was opened, it ends with the
    newest request. Its memory depends on the numbers of endpoints and models, not of requests.

    Args:
        window_ns: Length in nanoseconds.

    Attributes:
        series: The series by what they are of.
        read: Requests read since the start.
        newest_ns: When the newest request ended, Unix nanoseconds; 0: there was none.
        end_ns: The end of the window.
        is_live: Whether it ends now.
    """

    def __init__(self, window_ns: int) -> None:
        self.window_ns = window_ns
        self.series: dict[Key, Series] = {}
        self.read = 0
        self.newest_ns = 0
        self.end_ns = 0
        self._first_ns = 0
        self._slice_ns = max(1, window_ns // SLICES)
        self.is_live = False
        self._kept: dict[int, _Kept] = {}
        self._order = count()
        self._models: dict[str, int] = {}

    def add(self, record: LifecycleRecord, now_ns: int) -> None:
        """Take a finished request into account.

        Args:
            record: Its record.
            now_ns: The present: a clock that is ahead elsewhere does not move the window.
        """
        ended_ns = min(now_ns, parse_timestamp(record.completed_at or record.started_at))
        self.read += 1
        self._first_ns = min(self._first_ns or ended_ns, ended_ns)
        self.newest_ns = max(self.newest_ns, ended_ns)
        self._move_to(max(self.end_ns, self.newest_ns))
        number = ended_ns // self._slice_ns
        if number < self._first_slice:
            return
        request = Ended(record)
        model = self._model(record.model, number)
        self._series(Key("", "", model)).add(number, request)
        for role, snapshot in counted_endpoints(record):
            series = self._series(Key(role, endpoint_name(snapshot), model))
            series.add(number, request, ttft=role != "decode", tpot=role != "prefill")
            series.see(number, snapshot, record.started_at)
        self._keep(number, request)

    def advance(self, now_ns: int) -> None:
        """Move the end of the window to the present."""
        self.is_live = self.is_live or now_ns - self.newest_ns <= self.window_ns
        if self.is_live:
            self._move_to(now_ns)

    @property
    def seconds(self) -> float:
        """The length of what the window covers so far, up to the newest request if it is recent."""
        start_ns = max(self._first_slice * self._slice_ns, self._first_ns)
        end_ns = self.end_ns if self.end_ns - self.newest_ns > _LAG_NS else self.newest_ns
        return max(end_ns - start_ns, self._slice_ns) / 1e9

    @property
    def slices(self) -> range:
        """The numbers of the slices, oldest first."""
        return range(self._first_slice, self._first_slice + SLICES)

    def kept(self, kind: str) -> list[LifecycleRecord]:
        """Return requests worth a look: `ttft` and `duration` longest first, else newest first.

        Args:
            kind: `ttft` or `duration` for the longest; `failed`, `resent` or `last`.
        """
        slices = [self._kept[number] for number in sorted(self._kept, reverse=True)]
        longest = [entry for one in slices for entry in one.longest.get(kind, ())]
        if longest:
            return [record for _, _, record in sorted(longest, reverse=True)]
        return [record for one in slices for record in reversed(one.last.get(kind, ()))]

    @property
    def _first_slice(self) -> int:
        return self.end_ns // self._slice_ns - SLICES + 1

    def _move_to(self, end_ns: int) -> None:
        first = self._first_slice
        self.end_ns = end_ns
        if self._first_slice == first:
            return
        for number in [one for one in self._kept if one < self._first_slice]:
            del self._kept[number]
        idle = self._first_slice - _IDLE_WINDOWS * SLICES
        for key, series in list(self.series.items()):
            series.forget(self._first_slice)
            if series.last_slice < idle:
                del self.series[key]
        for model in [one for one, last in self._models.items() if last < idle]:
            del self._models[model]

    def _model(self, name: str, number: int) -> str:
        if name not in self._models and len(self._models) >= _MAX_MODELS:
            return OTHER_MODELS
        self._models[name] = max(number, self._models.get(name, 0))
        return name

    def _series(self, key: Key) -> Series:
        series = self.series.get(key)
        if series is None:
            if len(self.series) >= _MAX_SERIES:
                del self.series[min(self.series, key=lambda one: self.series[one].last_slice)]
            series = self.series[key] = Series()
        return series

    def _keep(self, number: int, request: Ended) -> None:
        kept = self._kept.setdefault(number, _Kept())
        record, order = request.record, next(self._order)
        kept.rank("ttft", request.ttft_ms, order, record)
        kept.rank("duration", record.actual.e2e_ms, order, record)
        if record.outcome not in (Outcome.COMPLETED, Outcome.CLIENT_DISCONNECT):
            kept.append("failed", record)
        if record.rerouted or record.attempt > 1:
            kept.append("resent", record)
        kept.append("last", record)
