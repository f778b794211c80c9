"""The load and state of endpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class State:
    """The load and state of an endpoint; None is unknown.

    Attributes:
        requests: Requests in flight.
        tokens: Their prompt tokens.
        running: Requests running on the engine.
        waiting: Requests in its queue.
        kv_cache: Fraction of its KV cache in use.
        busy: Fraction of its NPUs' or GPUs' compute in use, averaged over them.
    """

    requests: float | None = None
    tokens: float | None = None
    running: float | None = None
    waiting: float | None = None
    kv_cache: float | None = None
    busy: float | None = None


@dataclass(frozen=True)
class Gauges:
    """What all metrics pages said last.

    Attributes:
        endpoints: The state by name of the endpoint.
        problems: Why pages are missing, one line each.
    """

    endpoints: Mapping[str, State]
    problems: Sequence[str] = ()
