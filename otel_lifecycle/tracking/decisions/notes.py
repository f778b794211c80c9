"""Notes what a router considered at each dispatch.

On the path of a request only the load of the endpoints is noted. Finding that of each candidate,
ranking, cleaning and building wait until the record is made.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Sized
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import replace

from otel_lifecycle.config import TrackerConfig
from otel_lifecycle.model import Candidate, RequestStart, sanitize
from otel_lifecycle.model.decision import ROLES
from otel_lifecycle.model.endpoint import EndpointMetrics
from otel_lifecycle.model.endpoint_state import Collected, EndpointState
from otel_lifecycle.model.route import Route
from otel_lifecycle.tracking.decisions.crowd import MOST_HELD, rank_crowd
from otel_lifecycle.tracking.decisions.ranking import (
    Considerable,
    Ranking,
    chosen_for,
    ranked,
    role_of,
)
from otel_lifecycle.tracking.scheduling import ScoredTarget

_MAX_REROUTES: Final = 64
_LEADERS: Final = frozenset({"", "leader"})
_KINDS: Final = frozenset({Candidate, ScoredTarget})

# An endpoint with requests and tokens in flight on it, and what was collected and said of it.
Known: TypeAlias = tuple[EndpointState, int, int, Collected | None, EndpointMetrics | None]


class Round(msgspec.Struct, frozen=True):
    """What was considered at one moment.

    Attributes:
        at_ns: When, Unix nanoseconds.
        route: Where it went.
        reason: The router's reason.
        filtered: How many endpoints it did not rank.
        known: Endpoints as they were then: of those that are held all that were known, and at
            most twice as many as are held.
        given: What the router named; it may be anything.
        rankings: The candidates, if they were too many to be held.
    """

    at_ns: int
    route: Route
    reason: object
    filtered: object
    known: Sequence[Known]
    given: Sequence[object]
    rankings: Sequence[Ranking] = ()

    @property
    def candidates(self) -> list[Considerable]:
        """The candidates that are held."""
        return [*_usable(self.given), *_held(self.rankings)]

    @property
    def roles(self) -> set[str]:
        """The roles that there are candidates for."""
        return {role_of(one) for one in _usable(self.given)} | {one.role for one in self.rankings}

    def without(self, roles: set[str]) -> Round:
        """The same without the candidates for some roles."""
        return replace(
            self,
            given=[one for one in _usable(self.given) if role_of(one) not in roles],
            rankings=[one for one in self.rankings if one.role not in roles],
        )

    def ranked(self) -> list[Ranking]:
        """The candidates for each role, best first."""
        try:
            by_role = _by_role(_usable(self.given))
            rankings = [
                *self.rankings,
                *(
                    ranked(role, chosen_for(role, self.route), by_role[role])
                    for role in ROLES
                    if role in by_role
                ),
            ]
        except Exception:  # an endpoint that is none
            return []
        return [ranking for ranking in rankings if ranking.candidates]


class Considered(msgspec.Struct, frozen=True):
    """What a router considered for one request; takes the place of `RequestStart.candidates`.

    Attributes:
        notes: What noted it.
        count: The number of candidates at the last dispatch that named any.
        dispatches: The rounds of each dispatch: none where the router named no candidates, several
            where it named those for one role later.
    """

    notes: DecisionNotes
    count: int
    dispatches: tuple[tuple[Round, ...], ...]

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
        given: Any = start.candidates
        if given is None or type(given) is int or isinstance(given, Considered):
            return start
        if type(given) not in (tuple, list) and not _is_collection(given):
            return start
        count = len(given)
        noted = self._round(start, given, at_ns)
        candidates: Any = Considered(self, count, ((noted,),)) if noted else count
        return replace(start, candidates=candidates)

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
        dispatches = ((),) if before is None else before.dispatches
        latest = () if now is None else now.dispatches[0]
        if reason is not None:
            first, *later = dispatches
            dispatches = (first, *[*later, latest][-_MAX_REROUTES:])
        else:
            dispatches = (*dispatches[:-1], _extended(dispatches[-1], latest, new.route))
        counted = new.candidates if is_news else old.candidates
        count = len(counted) if isinstance(counted, Sized) else sanitize.count(counted)
        candidates: Any = Considered(self, count or 0, dispatches)
        return replace(new, candidates=candidates)

    def _round(self, start: RequestStart, given: Any, at_ns: int) -> Round | None:
        route, states = start.route, self._states
        if route is None:
            return None
        rankings: Sequence[Ranking] = ()
        try:
            held = given = tuple(given)
            if len(given) > MOST_HELD:
                rankings, given = _rank_crowd(route, given), ()
                held = _held(rankings)
            # To find an endpoint takes as long as to note the load of three or four.
            found = [*states.values()] if len(states) <= 2 * len(held) else self._find(held)
        except Exception:  # a sequence of the router's own, that cannot be read
            return None
        known = [
            (state, state.requests, state.tokens, state.collected, state.metrics) for state in found
        ]
        return Round(at_ns, route, start.decision_reason, start.filtered, known, given, rankings)

    def _find(self, given: Sequence[object]) -> list[EndpointState]:
        get = self._states.get
        found = [
            get(one.endpoint.identity)
            if isinstance(one, Candidate)
            else get(one.identity)
            if isinstance(one, ScoredTarget)
            else None
            for one in given
        ]
        return list(filter(None, found))


def _is_collection(given: object) -> bool:
    return isinstance(given, Sized) and not isinstance(given, (str, bytes))


def _usable(given: Iterable[object]) -> list[Considerable]:
    return [one for one in given if isinstance(one, (Candidate, ScoredTarget))]


def _held(rankings: Iterable[Ranking]) -> list[Considerable]:
    return [one for ranking in rankings for one in ranking.candidates]


def _by_role(candidates: Iterable[Considerable]) -> dict[str, list[Considerable]]:
    by_role: dict[str, list[Considerable]] = {}
    for one in candidates:
        by_role.setdefault(role_of(one), []).append(one)
    return by_role


def _rank_crowd(route: Route, given: Sequence[Considerable]) -> list[Ranking]:
    usable = given if _KINDS.issuperset(map(type, given)) else _usable(given)
    try:
        are_leaders = _LEADERS.issuperset({one.role for one in usable})
    except TypeError:  # a role that is no text
        are_leaders = False
    by_role = {"leader": usable} if are_leaders else _by_role(usable)
    return [
        rank_crowd(role, chosen_for(role, route), by_role[role])
        for role in ROLES
        if role in by_role
    ]


def _extended(
    last: tuple[Round, ...], latest: tuple[Round, ...], route: Route | None
) -> tuple[Round, ...]:
    """What was considered at a dispatch whose route is known better now."""
    if not last or route is None:
        return latest or last
    roles = set[str]().union(*(noted.roles for noted in last))
    new = [noted.without(roles) for noted in latest if noted.roles - roles]
    return tuple(replace(noted, route=route) for noted in (*last, *new))
