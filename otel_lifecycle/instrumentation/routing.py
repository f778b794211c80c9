"""Where one inference request goes: what its router tells, and what its calls show."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from otel_lifecycle.model import Candidate, Endpoint, Route, RouteEndpoint

ENCODE: Final = "encode"
PREFILL: Final = "prefill"
DECODE: Final = "decode"
SIDE: Final = "side"


class Routing:
    """What is known of one request's route; it grows while the router works.

    A leg is an engine of the route: the prefill or the decode of a PD route, or the only one there
    is, which counts as decode.

    Attributes:
        policy: Name of what chose the endpoint.
        candidates: The endpoints it chose from, or their number.
        decision_reason: Why it chose, in a short word.
        input_tokens: Length of the prompt, where the router itself tokenized it.
        prefix_cache_score: Cached part of the prompt on the chosen endpoint, 0 to 1.
        request_id: What the router calls the request.
        rebuilds_answers: The router passes on no answer as it is, and counts tokens itself.
    """

    __slots__ = (
        "_encoder",
        "_known",
        "_legs",
        "_planned",
        "_route",
        "_told",
        "candidates",
        "decision_reason",
        "input_tokens",
        "policy",
        "prefix_cache_score",
        "rebuilds_answers",
        "request_id",
    )

    def __init__(self) -> None:
        self.policy = ""
        self.candidates: int | list[Candidate] | None = None
        self.decision_reason = ""
        self.input_tokens: int | None = None
        self.prefix_cache_score: float | None = None
        self.request_id = ""
        self.rebuilds_answers = False
        self._known: dict[tuple[str, str], RouteEndpoint] = {}
        self._planned: dict[str, tuple[str, str]] = {}
        self._legs: dict[str, RouteEndpoint] = {}
        self._encoder: RouteEndpoint | None = None
        self._route: Route | None = None  # as long as nothing changes it
        self._told: int | list[Candidate] | None = None

    @property
    def route(self) -> Route:
        """The route as far as it is known; there has to be a leg, or an encoder."""
        if self._route is None:
            self._route = self._find_route()
        return self._route

    def _find_route(self) -> Route:
        prefill, decode = self._legs.get(PREFILL), self._legs.get(DECODE)
        if decode is None:
            leader = prefill or self._encoder
            assert leader is not None
            return Route(leader, prefill)
        # The router itself leads a PD pair: its client talks to the decode endpoint.
        return Route(decode) if prefill is None else Route(decode, prefill, decode)

    def choose_from(self, candidates: Iterable[Candidate]) -> None:
        """The router chooses an endpoint for one role among these; the other roles stay.

        Nothing is known of a choice from none.
        """
        new = list(candidates)
        if not new:
            return
        roles = {candidate.role for candidate in new}
        old = self.candidates if isinstance(self.candidates, list) else []
        self.candidates = [*(one for one in old if one.role not in roles), *new]

    def news(self) -> dict[str, Any]:
        """What the router says of its choice; of its candidates only once."""
        is_told, self._told = self._told is self.candidates, self.candidates
        return {
            "prefix_cache_score": self.prefix_cache_score,
            "candidates": None if is_told else self.candidates,
            "decision_reason": "" if is_told else self.decision_reason,
        }

    def know(self, endpoint: RouteEndpoint) -> None:
        """The router knows more of an endpoint than its address."""
        self._known[_address(endpoint)] = endpoint

    def plan(self, leg: str, endpoint: RouteEndpoint) -> None:
        """The router has chosen an endpoint for one leg of a PD route."""
        self.know(endpoint)
        self._planned[leg] = _address(endpoint)
        self.go(leg, endpoint)

    def leg(self, address: str, port: str) -> str | None:
        """The leg that is planned for an address, if it is one and not both."""
        if not self._planned:
            return None
        planned = [leg for leg, there in self._planned.items() if there == (address, port)]
        return planned[0] if len(planned) == 1 else None

    def at(self, address: str, port: str) -> RouteEndpoint:
        """What is known of the endpoint at an address."""
        return self._known.get((address, port)) or _plain(address, port)

    def encode(self, endpoint: RouteEndpoint) -> None:
        """An encoder is called, which stands for the route as long as there is no leg."""
        self._encoder = endpoint
        self._route = None

    def go(self, leg: str, endpoint: RouteEndpoint) -> None:
        """A leg goes to an endpoint."""
        self._legs[leg] = endpoint
        self._route = None

    def begin_anew(self) -> None:
        """The route is chosen anew."""
        self._legs.clear()
        self._route = None

    def drop(self, leg: str) -> None:
        """The router goes on without a leg."""
        self._legs.pop(leg, None)
        self._route = None


def endpoint_at(url: str) -> Endpoint:
    """The endpoint at a URL, or at `host:port`.

    Raises:
        ValueError: There is no host or no valid port in it.
    """
    parts = urlsplit(url if "//" in url else f"//{url}")
    if not parts.hostname:
        raise ValueError("no host")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return Endpoint(address=parts.hostname, port=str(port))


@lru_cache(maxsize=1024)
def _plain(address: str, port: str) -> RouteEndpoint:
    """The endpoint at an address of which nothing else is known."""
    return RouteEndpoint(Endpoint(address=address, port=port))


def _address(entry: RouteEndpoint) -> tuple[str, str]:
    return entry.endpoint.address, entry.endpoint.port
