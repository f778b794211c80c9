"""The shapes of what a scheduler hands to the seed's hooks.

They are those of the Gateway API Inference Extension v1.5.0 and of hermes-router, with attributes
in snake_case (`interface/scheduling/types.go`, `interface/datalayer`, `interface/requestcontrol`).
"Optional" names what is read where it is there, and need not be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


class SchedulingRequest(Protocol):
    """`LLMRequest`.

    Optional: `tokenized_prompt.token_ids`, `prompt_tokens` (reported), `prompt_tokens_estimate`,
    `request_size_bytes`, `body.stream`, `attempt`, `operation`, `received_at` (an aware datetime).
    """

    @property
    def request_id(self) -> str:
        """The id; an empty one is not tracked."""
        ...

    @property
    def target_model(self) -> str:
        """The model after any rewrite."""
        ...


class EndpointMetadata(Protocol):
    """`EndpointMetadata`; an `Endpoint` of ours is taken too.

    Optional: `namespaced_name` (`.namespace`, `.name`), `labels`.
    """

    @property
    def pod_name(self) -> str:
        """The pod's name, shared by its ranks."""
        ...

    @property
    def address(self) -> str:
        """Host or IP address."""
        ...

    @property
    def port(self) -> str:
        """The port, as text."""
        ...


class SchedulingEndpoint(Protocol):
    """A scheduler's endpoint; its attributes are frozen at scheduling."""

    @property
    def metadata(self) -> EndpointMetadata | None:
        """Who it is."""
        ...

    @property
    def metrics(self) -> object | None:
        """`Metrics` as last scraped, or `EndpointMetrics`."""
        ...

    def get(self, key: str, /) -> object | None:
        """The attribute under a key, None where there is none."""
        ...


class ProfileRunResult(Protocol):
    """What one profile picked, best first.

    Optional: `.score` of its targets, as GIE's `ScoredEndpoint` has it (higher is better), and
    `.scores`, the parts of that by name: then all targets are candidates.
    """

    @property
    def target_endpoints(self) -> Sequence[SchedulingEndpoint]:
        """The pick, and its fallbacks."""
        ...


class SchedulingResult(Protocol):
    """What the scheduler decided.

    Optional: `primary_route` (`.leader`, `.prefill`, `.decode` metadata of the dispatched PD
    route), `candidates` (their number, or `Candidate` values), `policy`, `reason` (a short word),
    `filtered` (how many endpoints were dropped before the others were ranked). The profiles
    `prefill` and `decode` of a PD route tell of the candidates for these.
    """

    @property
    def primary_profile_name(self) -> str:
        """The profile whose pick is dispatched."""
        ...

    @property
    def profile_results(self) -> Mapping[str, ProfileRunResult | None]:
        """The profiles by name."""
        ...


class Response(Protocol):
    """A chunk of the response.

    Optional: `usage` (`.prompt_tokens`, `.completion_tokens`,
    `.prompt_token_details.cached_tokens`) on the last. A request that did not complete must say so
    there, or it is recorded as `completed`: by `termination_cause` (`client-disconnect`,
    `evicted`, `error`) or by `error`, an exception or a short type name.
    """

    @property
    def end_of_stream(self) -> bool:
        """Whether it is the last."""
        ...
