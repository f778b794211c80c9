"""Why a request went where it went: the endpoints considered, and how the chosen one compares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from otel_lifecycle.model.endpoint import Endpoint, EndpointMetrics, Load
from otel_lifecycle.model.fields import (
    Count,
    Fraction,
    Milliseconds,
    Score,
    Text,
    declare,
    record_name,
)
from otel_lifecycle.model.route import LatencyPrediction

NOT_A_CANDIDATE = "not_a_candidate"
"""The reason of a decision whose chosen endpoint is not among those considered."""

ROLES = ("leader", "prefill", "decode")


class Candidate(msgspec.Struct, frozen=True):
    """One endpoint that a router considered.

    Attributes:
        endpoint: The endpoint.
        score: What the router ranked it by; higher is better. A router that ranks by cost gives the
            negative of it. None is no score.
        scores: The parts of the score by name; at most 16 are recorded.
        prefix_cache_score: Fraction of the prompt that is cached there, 0 to 1.
        prediction: Latencies predicted for it.
        role: `prefill` or `decode` of a PD route; empty or `leader` for the selected endpoint.
        metrics: State of its engine. Default: what the router said last, or what was collected.
    """

    endpoint: Endpoint
    score: float | None = None
    scores: Mapping[str, float] = {}
    prefix_cache_score: float | None = None
    prediction: LatencyPrediction | None = None
    role: str = ""
    metrics: EndpointMetrics | None = None


class RecordedCandidate(msgspec.Struct, rename=record_name, omit_defaults=True, gc=False):
    """One endpoint that was considered, as it was at that moment; what is unknown is absent."""

    id: Annotated[Text, declare("`pod://namespace/pod`, else `addr://host:port`.")] = ""
    name: Annotated[Text, declare("Name that distinguishes the ranks of a pod.")] = ""
    score: Annotated[Score | None, declare("What the router ranked it by; higher is better.")] = (
        None
    )
    scores: Annotated[dict[str, float], declare("The parts of the score, by name.", "1")] = {}
    prefix_cache_score: Annotated[
        Fraction | None, declare("Fraction of the prompt cached on it.")
    ] = None
    prediction: Annotated[LatencyPrediction | None, declare("The latencies predicted for it.")] = (
        None
    )
    inflight: Annotated[Load | None, declare("Load, without this request.", source="load")] = None
    waiting: Annotated[
        Count | None, declare("Requests in the engine's queue.", "{request}", source="engine")
    ] = None
    kv_cache_usage: Annotated[
        Fraction | None, declare("Fraction of the KV cache in use.", source="engine")
    ] = None

    @property
    def label(self) -> str:
        """The name on the span and in metrics: `Endpoint.label`."""
        return f"{self.id}#{self.name}" if self.name else self.id


class Pick(msgspec.Struct, rename=record_name, gc=False):
    """The choice of one endpoint."""

    role: Annotated[Text, declare("The role it was chosen for: `leader`, `prefill` or `decode`.")]
    chosen_rank: Annotated[
        Count | None,
        declare(
            "1 plus the number of candidates with a higher score than the chosen endpoint; null if "
            "it has no score.",
            "1",
        ),
    ] = None
    margin: Annotated[
        Score | None,
        declare(
            "Score of the chosen endpoint minus the highest score of the others: negative if a "
            "better one was passed over."
        ),
    ] = None
    regret_ms: Annotated[
        Milliseconds | None,
        declare(
            "Predicted TTFT (of a decode: TPOT) of the chosen endpoint minus the lowest of all "
            "candidates; null unless all were predicted."
        ),
    ] = None
    candidates: Annotated[
        list[RecordedCandidate],
        declare(
            "The candidates, best first: at most `decision_candidates`, always with the chosen one."
        ),
    ] = []


class Decision(msgspec.Struct, rename=record_name, gc=False):
    """Why one route was chosen."""

    reason: Annotated[
        Text,
        declare(
            "The router's reason in a short word, if it has one; "
            f"`{NOT_A_CANDIDATE}`: the chosen endpoint is not among the candidates."
        ),
    ] = ""
    filtered: Annotated[
        Count | None,
        declare("Number of endpoints dropped before the others were ranked.", "{endpoint}"),
    ] = None
    picks: Annotated[list[Pick], declare("One for each role that was chosen.")] = []
