"""Notes what a router considered at each dispatch.

On the path of a request only the load of each candidate is looked up. Ranking, cleaning and
building wait until the record is made.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from typing import Any, Final, NamedTuple, cast

import msgspec

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import Candidate, RequestStart, sanitize
from otel_lifecycle.model.decision import ROLES
from otel_lifecycle.model.endpoint_state import EndpointState
from otel_lifecycle.model.route import Route
from otel_lifecycle.tracking.decisions.crowd import MOST_HELD, rank_crowd
from otel_lifecycle.tracking.decisions.ranking import (
    Considerable,
    Entry,
    Ranking,
    chosen_for,
    ranked,
    role_of,
)
from otel_lifecycle.tracking.scheduling import NOBODY, ScoredTarget

_MAX_REROUTES: Final = 64
_NO_STATE: Final = (0, 0, None, None)
_LEADERS: Final = frozenset({"", "leader"})


class Round(NamedTuple):
    """What was considered at one dispatch.

    Attributes:
        at_ns: When, Unix nanoseconds.
        route: Where it went.
        reason: The router's reason.
        filtered: How many endpoints it did not rank.
        entries: What it considered.
        rankings: The same, if they were too many to be held.
    """

    at_ns: int
    route: Route
    reason: object
    filtered: object
    entries: Sequence[Entry]
    rankings: Sequence[Ranking] = ()

    @property
    def roles(self) -> set[str]:
        """The roles that there are candidates for."""
        return {role_of(entry[0]) for entry in self.entries} | {
            ranking.role for ranking in self.rankings
        }

    def ranked(self) -> list[Ranking]:
        """The candidates for each role, best first."""
        by_role: dict[str, list[Entry]] = {}
        for entry in self.entries:
            by_role.setdefault(role_of(entry[0]), []).append(entry)
        return [
            *self.rankings,
            *(
                ranked(role, chosen_for(role, self.route), by_role[role])
                for role in ROLES
                if role in by_role
            ),
        ]


class Considered:
    """What a router considered for one request; takes the place of `RequestStart.candidates`.

    Attributes:
        notes: What noted it.
        count: The number of candidates at the last dispatch that named any.
        rounds: One for each dispatch; None where the router named no candidates.
    """

    __slots__ = ("count", "notes", "rounds")

    def __init__(self, notes: DecisionNotes, count: int, rounds: tuple[Round | None, ...]) -> None:
        self.notes = notes
        self.count = count
        self.rounds = rounds

    def __len__(self) -> int:
        return self.count


class DecisionNotes:
    """Notes what the routers of one tracker consider; thread-safe.

    Args:
        states: The endpoints that the store knows, by identity.
        config: How many candidates to record, and when engine metrics count as stale.

    Attributes:
        limit: How many candidates of a pick to record.
        stale_after_ns: Age from which engine metrics count as stale; 0 never.
    """

    def __init__(self, states: Mapping[Hashable, EndpointState], config: TrackerConfig) -> None:
        self._states = states
        self.limit = config.decision_candidates
        self.stale_after_ns = round(config.stale_after.total_seconds() * 1e9)

    def take(self, start: RequestStart, at_ns: int) -> RequestStart:
        """Returns a start whose candidates are copied, with their load at this moment.

        Args:
            start: What the router says.
            at_ns: When, Unix nanoseconds.
        """
        given = start.candidates
        if given is None or type(given) is int or isinstance(given, Considered):
            return start
        if not isinstance(given, Sized) or isinstance(given, (str, bytes)):
            return start
        considered = Considered(self, len(given), (self._round(start, given, at_ns),))
        return _with(start, considered if considered.rounds[0] else considered.count)

    def take_again(
        self, old: RequestStart, new: RequestStart, at_ns: int, reason: str | None
    ) -> RequestStart:
        """Returns the start of a request in flight, with what was considered before.

        Args:
            old: What the router said before.
            new: What it says now.
            at_ns: When, Unix nanoseconds.
            reason: Why it is dispatched again; None when its route is known better.
        """
        before = old.candidates if isinstance(old.candidates, Considered) else None
        is_news = new.candidates is not old.candidates
        new = self.take(new, at_ns)
        now = new.candidates if is_news and isinstance(new.candidates, Considered) else None
        if before is None and now is None:
            return new
        rounds = (None,) if before is None else before.rounds
        latest = None if now is None else now.rounds[0]
        if reason is not None:
            first, *later = rounds
            rounds = (first, *[*later, latest][-_MAX_REROUTES:])
        else:
            rounds = (*rounds[:-1], _extended(rounds[-1], latest, new.route))
        counted = new.candidates if is_news else old.candidates
        count = len(counted) if isinstance(counted, Sized) else sanitize.count(counted)
        return _with(new, Considered(self, count or 0, rounds))

    def _round(self, start: RequestStart, given: Sized, at_ns: int) -> Round | None:
        if start.route is None:
            return None
        try:
            considered = list(cast("Iterable[object]", given))
            if len(considered) > MOST_HELD:
                entries, rankings = (), self._rank_crowd(start.route, considered)
            else:
                entries, rankings = self._look(considered), ()
        except Exception:  # a sequence of the router's own, that cannot be read
            return None
        if not entries and not rankings:
            return None
        return Round(at_ns, start.route, start.decision_reason, start.filtered, entries, rankings)

    def _rank_crowd(self, route: Route, given: list[object]) -> list[Ranking]:
        candidates = cast("list[Considerable]", given)
        by_role: dict[str, list[Considerable]] = {}
        try:
            if _LEADERS.issuperset({one.role for one in candidates}):
                by_role["leader"] = candidates
        except (AttributeError, TypeError):  # something else is among them
            candidates = [one for one in given if isinstance(one, (Candidate, ScoredTarget))]
        if not by_role:
            for one in candidates:
                by_role.setdefault(role_of(one), []).append(one)
        return [
            rank_crowd(role, chosen_for(role, route), by_role[role], self._look)
            for role in ROLES
            if role in by_role
        ]

    def _look(self, given: Iterable[object]) -> list[Entry]:
        states, entries = self._states, list[Entry]()
        for candidate in given:
            if isinstance(candidate, Candidate):
                identity = candidate.endpoint.identity
            elif isinstance(candidate, ScoredTarget):
                identity = candidate.identity
                if identity == NOBODY:
                    continue
            else:
                continue
            state = states.get(identity)
            entries.append(
                (candidate, *_NO_STATE)
                if state is None
                else (candidate, state.requests, state.tokens, state.collected, state.metrics)
            )
        return entries


def _extended(last: Round | None, latest: Round | None, route: Route | None) -> Round | None:
    """What was considered at a dispatch whose route is known better now."""
    if last is None or route is None:
        return latest or last
    if latest is None:
        return last._replace(route=route)
    new = latest.roles - last.roles
    return last._replace(
        route=route,
        entries=(*last.entries, *(entry for entry in latest.entries if role_of(entry[0]) in new)),
        rankings=(*last.rankings, *(one for one in latest.rankings if one.role in new)),
    )


def _with(start: RequestStart, candidates: object) -> RequestStart:
    changes: dict[str, Any] = {"candidates": candidates}
    return msgspec.structs.replace(start, **changes)
