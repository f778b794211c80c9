"""Joins the entries of each request, and makes a lifecycle of them.

Envoy makes an entry when a request arrives, when an attempt to reach an endpoint begins and ends,
and when the request ends. Only the last is needed for a record. The others tell of the load of the
endpoints while requests are in flight, and of attempts that failed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from otel_lifecycle.instrumentation.http.requests.operations import paths
from otel_lifecycle.model import Outcome, RequestCompletion
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.observation.envoy.entry import (
    END,
    READY,
    UPSTREAM_END,
    Entry,
    known,
    selected,
    unix_ns,
)
from otel_lifecycle.observation.envoy.lifecycles import Lifecycles
from otel_lifecycle.observation.envoy.requests import Attempt, Observed, SavedRequest
from otel_lifecycle.observation.picker.picker import Picker

_NO_INFERENCE = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_GRACE_SECONDS = 1.0  # for the entries of attempts, which may come after that of the end
_ENDED = 16_384
_MOST_HELD = 16_384  # ended requests of which something may still be told
_MOST_ALIKE = 16  # requests in flight with the same id, among which attempts are told apart
_MOST_ATTEMPTS = 64
_MOST_ORPHANS = 1_024


@dataclass
class Counts:
    """What became of entries and requests, as numbers.

    Attributes:
        entries: Valid entries.
        records: Records made.
        abandoned: Records of requests whose end never came.
        not_inference: Requests that were none for a model.
        without_id: Requests without an id.
        late: Entries of requests that had ended.
    """

    entries: int = 0
    records: int = 0
    abandoned: int = 0
    not_inference: int = 0
    without_id: int = 0
    late: int = 0


class _Orphan(NamedTuple):
    """An entry of an attempt whose request was not seen yet."""

    entry: Entry
    began_ns: int
    seen_at: float


class Joiner:
    """Takes the entries of a log, and hands over the requests that they complete.

    The entries of one request may come in any order, and between those of others. Not thread-safe.

    Args:
        lifecycles: Makes lifecycles of requests.
        done: Receives each finished record.
        abandon_after: Seconds after which a request whose end did not come counts as abandoned.
        picker: What it tells of requests that have ended is waited for.
        max_open: Requests in flight; beyond it the oldest are abandoned.
        monotonic: Seconds, for time limits.

    Attributes:
        counts: What became of entries and requests.
    """

    def __init__(
        self,
        lifecycles: Lifecycles,
        done: Callable[[LifecycleRecord], None],
        *,
        abandon_after: float,
        picker: Picker | None = None,
        max_open: int = 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counts()
        self._lifecycles = lifecycles
        self._done = done
        self._abandon_after = abandon_after
        self._picker = picker
        self._grace = _GRACE_SECONDS if picker is None else max(_GRACE_SECONDS, picker.patience)
        self._max_open = max_open
        self._monotonic = monotonic
        self._operation = paths(lifecycles.config.paths).operation
        self._open: dict[str, Observed] = {}  # the oldest first
        self._by_id: dict[str, dict[str, Observed]] = {}
        self._held: dict[str, Observed] = {}  # ended, but not all attempts are known
        # A dictionary would look for its first key among all that were deleted before it.
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._orphans: dict[str, list[_Orphan]] = {}  # attempts of requests not seen yet, by id
        self._newest_ns = 0
        self._tells_attempts = False

    @property
    def waiting(self) -> int:
        """How many requests have ended, and something of them may still be told."""
        return len(self._held)

    @property
    def open_requests(self) -> int:
        """How many requests are in flight."""
        return len(self._open)

    def request_ids(self) -> Iterable[str]:
        """Return the ids of the requests in flight."""
        return self._by_id

    def take(self, entry: Entry) -> None:
        """Take one entry.

        Raises:
            ValueError: A value that is needed is invalid; the entry is left out.
        """
        arrived_ns, kind = unix_ns(entry.t), entry.type
        self._newest_ns = arrived_ns
        self.counts.entries += 1
        headers, entry.headers = entry.headers, None  # neither kept nor saved
        rid = known(entry.rid)
        if not rid:
            self.counts.without_id += kind == END
        elif kind in (READY, UPSTREAM_END):
            self._tells_attempts = True
            self._attempt(entry, rid, arrived_ns)
        elif kind == END:
            self._end(entry, arrived_ns, headers)
        elif self._is_inference(entry):
            self._begin(entry, arrived_ns)

    def expire(self, *, at_end: bool = False) -> None:
        """Finish what has waited too long for entries that did not come.

        Args:
            at_end: Nothing more will be read. Requests that have ended wait no longer, and the
                others are as old as the log says.
        """
        now = self._monotonic()
        self._finish_completed()
        while self._orphans:
            first = next(iter(self._orphans.values()))[0]
            if not at_end and now - first.seen_at < _GRACE_SECONDS:
                break
            self._drop_orphans()
        while self._held:
            oldest = next(iter(self._held.values()))
            is_patient = len(self._held) <= _MOST_HELD and now - oldest.seen_at < self._grace
            if is_patient and not at_end:
                break
            self._finish(oldest)
        while self._open:
            oldest = next(iter(self._open.values()))
            age = now - oldest.seen_at
            if at_end:
                age = (self._newest_ns - oldest.arrived_ns) / 1e9
            if age < self._abandon_after and len(self._open) <= self._max_open:
                break
            if oldest.end is None:
                self._abandon(oldest)
            else:
                self._finish(oldest)

    def _keep_orphan(self, orphan: _Orphan) -> None:
        alike = self._orphans.setdefault(known(orphan.entry.rid), [])
        if len(alike) < _MOST_ATTEMPTS:
            alike.append(orphan)
        else:
            self.counts.late += 1
        if len(self._orphans) > _MOST_ORPHANS:
            self._drop_orphans()

    def _drop_orphans(self) -> None:
        """Leave out the oldest attempts whose request did not come."""
        self.counts.late += len(self._orphans.pop(next(iter(self._orphans))))

    def saved(self) -> list[SavedRequest]:
        """Return the requests in flight, for `restore`."""
        return [
            SavedRequest(
                request.entry,
                request.end,
                request.attempts,
                self._lifecycles.save(request),
                dict(request.labels),
                request.slo,
            )
            for request in self._open.values()
        ]

    def restore(self, saved: list[SavedRequest]) -> None:
        """Continue with requests that were in flight."""
        for each in saved:
            request = self._add(_key(each.entry), each.entry, unix_ns(each.entry.t))
            request.attempts = each.attempts
            request.labels, request.slo = each.labels, each.slo
            if each.dispatch is not None:
                self._lifecycles.restore(request, each.dispatch)
            if each.end is not None:
                self._hold(request, each.end)
            self._tells_attempts = self._tells_attempts or bool(each.attempts)

    def _is_inference(self, entry: Entry) -> bool:
        if entry.method in _NO_INFERENCE:
            return False
        path = known(entry.path)
        return not path or self._operation(path) is not None

    def _begin(self, entry: Entry, arrived_ns: int) -> None:
        key = _key(entry)
        if key in self._open or key in self._ended:
            self.counts.late += 1
        else:
            self._add(key, entry, arrived_ns)

    def _add(self, key: str, entry: Entry, arrived_ns: int) -> Observed:
        request = Observed(key, entry, arrived_ns, self._monotonic())
        self._open[key] = request
        alike = self._by_id.get(request.request_id)
        if alike is None:
            self._by_id[request.request_id] = {key: request}
        else:
            alike[key] = request
        for orphan in self._orphans.pop(request.request_id, ()) if self._orphans else ():
            self._attempt(orphan.entry, request.request_id, orphan.began_ns)
        return request

    def _attempt(self, entry: Entry, rid: str, began_ns: int) -> None:
        request = self._request_of(entry, rid, began_ns)
        if request is None:
            self._keep_orphan(_Orphan(entry, began_ns, self._monotonic()))
            return
        attempt = None
        for each in request.attempts:
            if each.began == entry.t:
                attempt = each
        if attempt is None:
            if len(request.attempts) >= _MOST_ATTEMPTS:
                return
            attempt = Attempt(entry.t, known(entry.up) or selected(entry))
            request.attempts.append(attempt)
        if entry.type == READY:
            if request.end is None and request.lifecycle is None:
                self._lifecycles.dispatch(request, selected(entry), entry.pf, began_ns)
        else:
            attempt.end = entry
            attempt.address = known(entry.up) or attempt.address
        if request.end is not None:
            self._finish_if_ready(request)

    def _request_of(self, entry: Entry, rid: str, began_ns: int) -> Observed | None:
        """Return the request in flight that an attempt belongs to: the last that came before."""
        found = None
        for request in self._alike(rid):
            is_same = not entry.conn or not request.connection or entry.conn == request.connection
            if is_same and request.arrived_ns <= began_ns:
                return request
            found = request if is_same else found
        return found

    def _alike(self, rid: str) -> Iterable[Observed]:
        """Return the requests in flight with an id, the latest first."""
        alike = self._by_id.get(rid)
        if alike is None or len(alike) == 1:
            return () if alike is None else alike.values()
        return islice(reversed(alike.values()), _MOST_ALIKE)

    def _end(self, entry: Entry, arrived_ns: int, headers: Mapping[str, Any] | None) -> None:
        key = _key(entry)
        request = self._open.get(key)
        if not (request is not None and _is_same_call(request.entry, entry)) and (
            not self._is_inference(entry)
        ):
            self.counts.not_inference += 1
            return
        if request is None:
            if key in self._ended:
                self.counts.late += 1
                return
            request = self._add(key, entry, arrived_ns)
        elif request.end is not None:
            self.counts.late += 1
            return
        self._lifecycles.ask(request, headers)
        self._hold(request, entry)
        self._finish_if_ready(request)

    def _finish_if_ready(self, request: Observed) -> None:
        """Finish a request that has ended, unless something of it may still be told."""
        is_complete = request.is_complete or not self._tells_attempts
        if is_complete and not self._lifecycles.is_expecting(request):
            self._finish(request)

    def _finish_completed(self) -> None:
        """Finish requests of which the picker has told the rest since."""
        for request_id in () if self._picker is None else self._picker.completed():
            for request in list(self._by_id.get(request_id, {}).values()):
                if request.end is not None:
                    self._finish_if_ready(request)

    def _hold(self, request: Observed, end: Entry) -> None:
        request.end = end
        request.seen_at = self._monotonic()
        self._lifecycles.release(request)
        self._held[request.key] = request

    def _finish(self, request: Observed) -> None:
        self._forget(request)
        self.counts.records += 1
        self._done(self._lifecycles.finish(request))

    def _abandon(self, request: Observed) -> None:
        self._forget(request)
        self.counts.records += 1
        self.counts.abandoned += 1
        self._done(self._lifecycles.finish(request, RequestCompletion(outcome=Outcome.ABANDONED)))

    def _forget(self, request: Observed) -> None:
        key = request.key
        del self._open[key]
        alike = self._by_id[request.request_id]
        if len(alike) == 1:
            del self._by_id[request.request_id]
        else:
            del alike[key]
        self._held.pop(key, None)
        self._ended[key] = None
        if len(self._ended) > _ENDED:
            self._ended.popitem(last=False)


def _is_same_call(begin: Entry, end: Entry) -> bool:
    return begin.path == end.path and begin.method == end.method


def _key(entry: Entry) -> str:
    """Return what the entries of one request have in common: clients may repeat ids."""
    return f"{entry.rid} {entry.t} {entry.conn or ''}"
