"""Why a request went where it went: what the picker told of it, in Envoy's log and elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import Candidate, Endpoint, RequestStart, Route, sanitize
from otel_lifecycle.model.decision import Decision
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.observation.endpoints import Endpoints
from otel_lifecycle.observation.envoy.entry import DESTINATION, Entry, selected
from otel_lifecycle.observation.envoy.requests import Observed
from otel_lifecycle.observation.envoy.times import end_ns
from otel_lifecycle.observation.envoy.tracing import trace_of
from otel_lifecycle.observation.picker.decision import Deciding, deciding
from otel_lifecycle.observation.picker.picker import Asked, Picker
from otel_lifecycle.observation.picker.told import MOST_CANDIDATES, Considered, Told
from otel_lifecycle.tracking.decisions import Considered as Noted
from otel_lifecycle.tracking.decisions import DecisionNotes
from otel_lifecycle.tracking.lifecycle import Lifecycle
from otel_lifecycle.tracking.store import LifecycleStore

_SCORES = f"{DESTINATION}-scores"
_NOTHING = Deciding()
_END_OF_TIME_NS = 1 << 63


class Settled(msgspec.Struct, frozen=True):
    """A decision as far as it is known at the end of a request.

    Attributes:
        known: What the picker told.
        considered: How many candidates there were; None is unknown.
        is_late: Whether the candidates became known only after the dispatch, and so their load at
            that moment is not.
    """

    known: Deciding
    considered: int | None
    is_late: bool


class Decisions:
    """Adds decisions to the starts and the records of requests. Not thread-safe.

    Args:
        config: Settings of the tracker whose work this does.
        store: Tells the load of the candidates.
        endpoints: Turns addresses and names into endpoints.
        picker: Tells of its decisions; None: nothing but Envoy's log is known.
    """

    def __init__(
        self,
        config: TrackerConfig,
        store: LifecycleStore,
        endpoints: Endpoints,
        picker: Picker | None,
    ) -> None:
        self._notes = DecisionNotes(store.states, config)
        self._late_notes = DecisionNotes({}, config)
        self._endpoints = endpoints
        self._picker = picker

    def told(self, request: Observed) -> list[Told]:
        """Return what the picker has told of a request so far."""
        return [] if self._picker is None else self._picker.told(_asked(request))

    def is_expecting(self, request: Observed) -> bool:
        """Return whether the picker may still tell something of a request that has ended."""
        if self._picker is None or request.end is None or not selected(request.end):
            return False
        return self._picker.is_expected(_asked(request))

    def forget(self, request: Observed, told: Sequence[Told]) -> None:
        """Forget what was told of a request of which there is a record now."""
        if self._picker is not None:
            self._picker.forget(request.request_id, told)

    def note(self, start: RequestStart, told: Sequence[Told], at_ns: int) -> RequestStart:
        """Return the start with its candidates, and their load now, as far as they are known."""
        if not told or start.route is None:
            return start
        known = self._deciding(told, start.route)
        if not known.candidates:
            return start
        return self._notes.take(_with(start, candidates=known.candidates), at_ns)

    def settle(self, lifecycle: Lifecycle, end: Entry, told: Sequence[Told]) -> Settled | None:
        """Complete the start of a request that has ended by what is known of its decision.

        Returns:
            What is known of it; None if that is nothing.
        """
        start = lifecycle.dispatch.start
        route = start.route
        if route is None or not (told or end.lb):
            return None
        known = self._deciding(told, route) if told else _NOTHING
        is_late = not isinstance(start.candidates, Noted)
        scores = (end.lb or {}).get(_SCORES)
        considered, candidates = known.considered, known.candidates
        if is_late and isinstance(scores, dict):
            considered = considered or len(cast("dict[str, Any]", scores))
            candidates = self._with_scores(candidates, cast("dict[str, Any]", scores), route)
        if known is not _NOTHING:
            start = _with(
                start,
                policy=known.policy,
                prefix_cache_score=known.prefix_cache_score,
                prediction=known.prediction,
                decision_reason=known.reason,
                filtered=known.filtered,
            )
        if is_late and candidates:
            start = _with(start, candidates=candidates)
            start = self._late_notes.take(start, lifecycle.started_ns)
        lifecycle.dispatch = msgspec.structs.replace(lifecycle.dispatch, start=start)
        return Settled(known, considered, is_late)

    def _deciding(self, told: Sequence[Told], route: Route) -> Deciding:
        prefill = None if route.prefill is None else route.prefill.endpoint
        return deciding(told, self._find, route.leader.endpoint, prefill)

    def _find(self, considered: Considered) -> Endpoint | None:
        return self._endpoints.named(considered.name, considered.address)

    def _with_scores(
        self, known: Sequence[Candidate], scores: dict[str, Any], route: Route
    ) -> Sequence[Candidate]:
        """Add what Envoy's log has: the scores of the main profile, by address."""
        role = "" if route.prefill is None else "decode"
        if len(scores) > MOST_CANDIDATES or any(one.role == role for one in known):
            return known
        candidates: list[Candidate] = []
        for address, score in scores.items():
            found = self._endpoints.of(address)
            if found is None:
                return known  # the others cannot be compared with it
            candidates.append(Candidate(found.endpoint, score, role=role))
        return [*candidates, *known] if known else candidates


def complete(record: LifecycleRecord, settled: Settled) -> None:
    """Complete the decision in a record."""
    known, decision = settled.known, record.decision
    if settled.considered is not None:
        record.candidates = sanitize.count(settled.considered)
    if not isinstance(decision, Decision):
        return
    if settled.is_late:
        for pick in decision.picks:
            for candidate in pick.candidates:
                candidate.inflight = None
    else:  # it was noted at the dispatch, and this may have become known since
        decision.reason = sanitize.text(known.reason) or decision.reason
        decision.filtered = sanitize.count(known.filtered)


def _asked(request: Observed) -> Asked:
    end = request.end
    if end is None:
        return Asked(request.request_id, "", True, request.arrived_ns, _END_OF_TIME_NS)
    trace_id, is_sampled = trace_of(end)
    ended_ns = end_ns(end, request.arrived_ns) or request.arrived_ns
    return Asked(request.request_id, trace_id, is_sampled, request.arrived_ns, ended_ns)


def _with(start: RequestStart, **changes: Any) -> RequestStart:
    return msgspec.structs.replace(start, **changes)
