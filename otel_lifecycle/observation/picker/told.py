"""What a picker has told of one request, from one of its sources."""

from __future__ import annotations

from datetime import datetime

import msgspec

MOST_CANDIDATES = 1_024
MOST_PICKS = 8
MOST_SCORERS = 16
LONGEST_NAME = 253  # of anything in Kubernetes


class Considered(msgspec.Struct, gc=False, omit_defaults=True):
    """One endpoint of a profile's candidates; None is unknown.

    Attributes:
        name: `namespace/name`.
        score: The weighted sum of its scores.
        address: Its `host:port`; empty is unknown.
        running: Requests that its engine executes.
        waiting: Requests in its engine's queue.
        kv_cache_usage: Fraction of its KV cache in use.
        updated: When the picker read these three.
    """

    name: str
    score: float | None = None
    address: str = ""
    running: int | None = None
    waiting: int | None = None
    kv_cache_usage: float | None = None
    updated: datetime | None = None


class Predicted(msgspec.Struct, gc=False, omit_defaults=True):
    """What the picker's predictor says of one endpoint; None is unknown.

    Attributes:
        ttft_ms: Milliseconds to the first token.
        tpot_ms: Milliseconds for each further token.
        prefix_cache_score: Fraction of the prompt in its prefix cache.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    prefix_cache_score: float | None = None


class ProfileRun(msgspec.Struct, gc=False, omit_defaults=True):
    """One run of a scheduling profile, which chooses one endpoint.

    Attributes:
        profile: Its name; empty is unknown.
        candidates: What was ranked, in any order.
        count: How many were ranked; more than `candidates` if those are only the best.
        scores: The scores of each scorer, by the names of scorer and endpoint.
        prefix_scorers: Those of the scorers whose score is the cached fraction of the prompt.
        weights: The weights of scorers.
        filtered: How many endpoints were dropped before; None is unknown.
    """

    profile: str = ""
    candidates: list[Considered] = []
    count: int = 0
    scores: dict[str, dict[str, float]] = {}
    prefix_scorers: list[str] = []
    weights: dict[str, float] = {}
    filtered: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all that was ranked is known."""
        return len(self.candidates) == self.count


class Told(msgspec.Struct, gc=False, omit_defaults=True):
    """What one source tells of one request.

    Attributes:
        at_ns: When the picker began with it, Unix nanoseconds; 0 is unknown.
        trace_id: The trace of the spans that tell; empty: it was no trace.
        runs: The runs of profiles, in order.
        predictions: The predictions, by name of the endpoint.
        prefix_hit: Fraction of the prompt in the prefix cache of the endpoint chosen first.
        reason: Which profiles the picker decided for, and so for which kind of route.
        prefill: The prefill endpoint, `host:port`.
        is_complete: Whether the picker has finished with it.
        is_mixed: Whether it may be that of several requests with the same id.
    """

    at_ns: int = 0
    trace_id: str = ""
    runs: list[ProfileRun] = []
    predictions: dict[str, Predicted] = {}
    prefix_hit: float | None = None
    reason: str = ""
    prefill: str = ""
    is_complete: bool = False
    is_mixed: bool = False
