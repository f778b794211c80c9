"""A request as the router reports it, at its dispatch and at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum
from types import MappingProxyType
from typing import Annotated, NamedTuple

import msgspec

from otel_lifecycle.model.decision import Candidate
from otel_lifecycle.model.endpoint import Endpoint
from otel_lifecycle.model.fields import Count, declare, record_name
from otel_lifecycle.model.route import LatencyPrediction, Route


class Outcome(str, Enum):
    """How a request ended.

    The first four are llm-d-router's termination causes. Only instrumentations report `REJECTED`:
    the router answered without choosing an endpoint.
    """

    COMPLETED = "completed"
    CLIENT_DISCONNECT = "client_disconnect"
    EVICTED = "evicted"
    ERROR = "error"
    REJECTED = "rejected"
    SUPERSEDED = "superseded"
    ABANDONED = "abandoned"
    SHUTDOWN = "shutdown"


class InputTokenSource(str, Enum):
    """The source of the input token count."""

    TOKENIZED = "tokenized"
    REPORTED = "reported"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


class BlockUnit(str, Enum):
    """What the blocks of a prompt are counted in."""

    TOKEN = "token"
    BYTE = "byte"


class PromptBlocks(msgspec.Struct, rename=record_name, frozen=True, gc=False):
    """The blocks of a prompt, from its beginning."""

    unit: Annotated[
        BlockUnit,
        declare("What a block is counted in: `token`, or `byte` of the prompt's text in UTF-8."),
    ]
    block_size: Annotated[Count, declare("Size of a block; the last one may be shorter.", "1")]
    hashes: Annotated[
        tuple[Count, ...],
        declare(
            "One number for each block, below 2^53. It depends on the block and on all blocks "
            "before it, so equal numbers mean equal beginnings.",
            "1",
        ),
    ]


class TokenIds(NamedTuple):
    """Token ids as a JSON array, which is parsed off the request's path.

    Attributes:
        json: The array.
    """

    json: bytes | memoryview


class LegRole(str, Enum):
    """What a call of the router was for.

    A `SIDE` call is not part of the route: a guard, an embedding, a classifier. A `HEDGE` repeats a
    call to another endpoint while the first is unanswered.
    """

    ENCODE = "encode"
    PREFILL = "prefill"
    DECODE = "decode"
    LEADER = "leader"
    SIDE = "side"
    HEDGE = "hedge"


class LegOutcome(str, Enum):
    """How a call of the router ended; `CANCELLED` means by the router."""

    COMPLETED = "completed"
    ERROR = "error"
    CANCELLED = "cancelled"


class Leg(msgspec.Struct, frozen=True):
    """One call of the router for a request.

    Attributes:
        role: Its purpose.
        endpoint: The endpoint called.
        started_ns: Time of the call, Unix nanoseconds.
        ended_ns: Time of its end, Unix nanoseconds; None is unknown.
        outcome: How it ended; None is unknown.
    """

    role: LegRole
    endpoint: Endpoint
    started_ns: int
    ended_ns: int | None = None
    outcome: LegOutcome | None = None


class SLO(msgspec.Struct, frozen=True):
    """Targets of a request's latencies, as its client sees them: counted from the arrival.

    Attributes:
        ttft_ms: Of the time to the first token, milliseconds; None: no target.
        tpot_ms: Of the time per output token, milliseconds.
        e2e_ms: Of the time to the end, milliseconds.
    """

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None


NO_LABELS: Mapping[str, str | int | float | bool] = MappingProxyType({})


class RequestStart(msgspec.Struct, frozen=True):
    """A routed request, as the router reports it before dispatch.

    Attributes:
        request_id: The router's id of the request; a request with an empty id is not tracked.
        route: Its route; None only if it ended before the router had chosen.
        model: The target model, after any rewrite.
        input_tokens: Length of the prompt in tokens; None is unknown.
        input_token_source: Source of `input_tokens`. Default: `reported` if they are known.
        streaming: Whether the client asked for a stream; None is unknown. Only a stream has a
            time to first token.
        prefix_cache_score: Fraction of the prompt that is cached on the prefill (or selected)
            endpoint, 0 to 1.
        prediction: Predicted TTFT of the prefill and TPOT of the decode (or selected) endpoint.
        candidates: The endpoints considered, or their number. What is no `Candidate` only counts.
        policy: Name of the routing policy.
        engine_request_id: The id that the router sends to the engine, which may differ; None is
            unknown.
        attempt: 1 for the first dispatch.
        operation: GenAI operation: `chat`, `text_completion`, ...
        provider: GenAI provider: `vllm`, ...
        route_mismatch: Whether the dispatched route and the endpoint's own PD group disagreed;
            `route` is the dispatched one.
        received_at: When the request reached the router: an aware datetime of the wall clock, like
            `EndpointMetrics.update_time`. None is unknown. So is a naive time, a time after the
            dispatch, and a time more than 1e9 ms (11 days) before it.
        decision_reason: Why the route was chosen, in a short word: `prefix_match`, `fallback`, ...
        filtered: Number of endpoints dropped before the candidates were ranked; None is unknown.
        labels: What else to record of the request, by name: at most 16, of up to 256 characters.
            Recorded as they are, unless the setting `labels` has the name too. They come before
            what the setting reads.
        slo: Targets of its latencies; they come before those of the setting `slo`.
        prompt: The prompt: text (bytes are UTF-8), token ids, or the router's own hashes of its
            blocks. Read only if `prompt.blocks` is set, and forgotten once its blocks are hashed.
            Default: no blocks are recorded.
    """

    request_id: str
    route: Route | None
    model: str = ""
    input_tokens: int | None = None
    input_token_source: str | None = None
    streaming: bool | None = True
    prefix_cache_score: float | None = None
    prediction: LatencyPrediction | None = None
    candidates: int | Sequence[Candidate] | Sequence[object] | None = None
    policy: str = ""
    engine_request_id: str | None = None
    attempt: int = 1
    operation: str = ""
    provider: str = ""
    route_mismatch: bool = False
    received_at: datetime | None = None
    decision_reason: str = ""
    filtered: int | None = None
    labels: Mapping[str, str | int | float | bool] = NO_LABELS
    slo: SLO | None = None
    prompt: str | bytes | memoryview | Sequence[int] | TokenIds | PromptBlocks | None = None


class RequestCompletion(msgspec.Struct, frozen=True):
    """How a request ended, as the router reports it.

    Attributes:
        outcome: How it ended.
        output_tokens: Completion tokens of the usage, never a count of chunks; None is unknown.
        cached_tokens: Prompt tokens found in the engine's prefix cache; None is unknown.
        input_tokens: Prompt tokens of the usage. They replace an estimate in the record, but not in
            the load.
        served_endpoint: The endpoint that served it, if it may differ from the selected one.
        error_type: Short name of the error, for the outcome `error`.
        prefill_ms: Duration of a PD route's prefill, from its call to its answer; None is unknown.
        finish_reason: Why the engine stopped, in its own word: `stop`, `length`, `end_turn`, ...
        legs: The calls that the router made for it, in order. The record has them if there is more
            than one, and at most 256.
        calls_tools: Whether the client is to call tools although the engine's word only says that
            it stopped, as in Gemini's and Ollama's answers.
    """

    outcome: Outcome = Outcome.COMPLETED
    output_tokens: int | None = None
    cached_tokens: int | None = None
    served_endpoint: Endpoint | None = None
    error_type: str | None = None
    input_tokens: int | None = None
    prefill_ms: float | None = None
    finish_reason: str | None = None
    legs: Sequence[Leg] = ()
    calls_tools: bool = False
