"""Requests, routing decisions and responses.

Names here and in `endpoint` follow the Gateway API Inference Extension.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hermes_router.endpoint import EndpointMetadata, EndpointMetrics
from hermes_router.prompt import Prompt

LATENCY_PREDICTION = "LatencyPredictionInfoKey"
PREFIX_CACHE_MATCH = "PrefixCacheMatchInfoKey"
NPU_STATE = "NPUStateKey"
PD_GROUP = "PDGroupInfoKey"


@dataclass(frozen=True)
class PrefixCacheMatchInfo:
    """How much of a prompt an endpoint has probably cached.

    Attributes:
        total_blocks: At least 1; the last block may be partial, and is then never cached.
    """

    match_blocks: int
    total_blocks: int
    block_size_tokens: int

    @property
    def score(self) -> float:
        """The cached fraction."""
        return self.match_blocks / self.total_blocks


@dataclass(frozen=True)
class LatencyPredictionInfo:
    """Expected latency in milliseconds; None is unpredicted, never 0."""

    ttft: float | None = None
    tpot: float | None = None


@dataclass(frozen=True)
class ScheduledEndpoint:
    """A candidate at the time of scheduling.

    Attributes:
        score: The sum it was ranked by.
        scores: The parts of that sum, by name.
    """

    metadata: EndpointMetadata
    metrics: EndpointMetrics | None
    attributes: Mapping[str, object]
    score: float = 0.0
    scores: Mapping[str, float] = field(default_factory=dict[str, float])

    def get(self, key: str) -> object | None:
        """Return the attribute of that name, if there is one."""
        return self.attributes.get(key)


@dataclass(frozen=True)
class SelectedPod:
    """One half of a prefill/decode pair."""

    endpoint: ScheduledEndpoint


@dataclass(frozen=True)
class PDGroupInfo:
    """The pair of a leader."""

    selected_prefill_pod: SelectedPod
    selected_decode_pod: SelectedPod


@dataclass(frozen=True)
class Route:
    """Where a disaggregated request goes."""

    leader: EndpointMetadata
    prefill: EndpointMetadata
    decode: EndpointMetadata


@dataclass(frozen=True)
class ProfileRunResult:
    """The candidates of one scheduling profile, best first: the first is its pick."""

    target_endpoints: list[ScheduledEndpoint]


@dataclass(frozen=True)
class SchedulingResult:
    """The decision for one attempt of a request.

    Attributes:
        profile_results: `default`, and in disaggregated mode `prefill` and `decode`.
        primary_route: Set in disaggregated mode only.
        candidates: Number of endpoints considered.
        policy: Name of the policy.
        reason: A short word if the policy did not decide.
    """

    primary_profile_name: str
    profile_results: dict[str, ProfileRunResult]
    primary_route: Route | None
    candidates: int
    policy: str
    reason: str = ""

    @property
    def target(self) -> ScheduledEndpoint:
        """The endpoint that the request is sent to."""
        return self.profile_results[self.primary_profile_name].target_endpoints[0]


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt given as token ids."""

    token_ids: Sequence[int]


@dataclass(frozen=True)
class RequestBody:
    """The body as received; it is forwarded byte by byte."""

    path: str
    content: bytes
    stream: bool


@dataclass(eq=False)
class InferenceRequest:
    """One request with all its attempts.

    Attributes:
        headers: Headers for the engine; set anew for every attempt.
        prompt_tokens_estimate: An estimate, if the prompt is not tokenized.
        attempt: 1 for the first.
        retry_reason: Why the previous attempt failed.
    """

    request_id: str
    target_model: str
    body: RequestBody
    prompt: Prompt
    inbound_headers: Mapping[str, str]
    tokenized_prompt: TokenizedPrompt | None = None
    prompt_tokens_estimate: int | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    attempt: int = 1
    retry_reason: str = ""

    @property
    def prompt_length(self) -> int:
        """Tokens of the prompt, exact or estimated."""
        if self.tokenized_prompt is not None:
            return len(self.tokenized_prompt.token_ids)
        return self.prompt_tokens_estimate or 0


@dataclass(frozen=True)
class PromptTokenDetails:
    """Details of the prompt's tokens."""

    cached_tokens: int | None


@dataclass(frozen=True)
class Usage:
    """Token counts as the engine reported them."""

    prompt_tokens: int | None
    completion_tokens: int | None
    prompt_token_details: PromptTokenDetails


@dataclass(eq=False)
class InferenceResponse:
    """The answer so far; one instance grows with the request.

    Attributes:
        termination_cause: On the last call: `natural`, `client-disconnect`, `evicted` or `error`.
        error: An exception, or a short name such as `stream_truncated` or `http_400`.
    """

    end_of_stream: bool = False
    usage: Usage | None = None
    termination_cause: str | None = None
    error: BaseException | str | None = None
