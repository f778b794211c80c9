"""The record of a finished request: one line of the file, and the source of its span.

The record is created when the request is dispatched and completed when it ends; after that it does
not change. The span's attributes are computed from it (`otel_lifecycle.telemetry.spans`), so they
cannot disagree. Names and meaning of the fields come from the seed, those of the prediction inputs
from hermes-router's `prediction.proto`. `CONTRIBUTING.md` explains how to add a field.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from otel_lifecycle.model import semconv
from otel_lifecycle.model.decision import Decision
from otel_lifecycle.model.endpoint import Load
from otel_lifecycle.model.features import MissingFeature, PredictionInput
from otel_lifecycle.model.fields import (
    Count,
    Fraction,
    Text,
    Timestamp,
    declare,
    record_name,
)
from otel_lifecycle.model.finish_reason import FinishReason
from otel_lifecycle.model.latency import ActualLatency, PredictionError
from otel_lifecycle.model.request import (
    InputTokenSource,
    LegOutcome,
    LegRole,
    Outcome,
    PromptBlocks,
)
from otel_lifecycle.model.route import LatencyPrediction, RouteSnapshot
from otel_lifecycle.model.slo import RecordedSLO

SCHEMA_VERSION = 1
MAX_REROUTES = 64  # a router may try again for as long as an engine takes to start


class ErrorInfo(msgspec.Struct, rename=record_name, gc=False):
    """The error a request ended with."""

    type: Annotated[
        Text,
        declare("A short type name, never a message.", attribute=semconv.ERROR_TYPE, always=True),
    ]


class Reroute(msgspec.Struct, rename=record_name, gc=False):
    """One change of route after dispatch; prefill and decode of a pair are joined by `+`."""

    at: Annotated[Timestamp, declare("Time of the change. On the span: the time of the event.")]
    from_endpoint: Annotated[
        str, declare("The previous route.", attribute="llm_router.route.from.id", always=True)
    ] = msgspec.field(name="from")
    to_endpoint: Annotated[
        str, declare("The new route.", attribute="llm_router.route.to.id", always=True)
    ] = msgspec.field(name="to")
    reason: Annotated[
        Text, declare("A short reason.", attribute="llm_router.route.reason", always=True)
    ]
    decision: Annotated[
        Decision | msgspec.UnsetType,
        declare("Why the new route; absent if the router named no candidates."),
    ] = msgspec.UNSET


class RecordedLeg(msgspec.Struct, rename=record_name, frozen=True, gc=False):
    """One call of the router for a request."""

    role: Annotated[
        LegRole,
        declare(
            "Purpose of the call: `encode`, `prefill`, `decode`, `leader`, `hedge` or `side`.",
            attribute=".role",
        ),
    ]
    endpoint: Annotated[Text, declare("The endpoint called.", attribute=".endpoint")]
    started_at: Annotated[
        Timestamp,
        declare(
            "Time of the call. On the span: time since the span's start.",
            "s",
            ".start",
            source="clock",
        ),
    ]
    ended_at: Annotated[
        Timestamp | None,
        declare(
            "Time of its end. On the span: time since the span's start, -1 for unknown.",
            "s",
            ".end",
            source="clock",
        ),
    ] = None
    outcome: Annotated[
        LegOutcome | None,
        declare("`completed`, `error` or `cancelled` (by the router).", attribute=".outcome"),
    ] = None


class LifecycleRecord(msgspec.Struct, rename=record_name, kw_only=True, gc=False):
    """One finished request.

    Timestamps are RFC 3339 text in UTC with nanoseconds. They start from the wall clock at dispatch
    and advance with a monotonic clock, so that setting the clock never makes a span run backwards.
    """

    schema_version: Annotated[int, declare("The version of this schema.", "1")] = SCHEMA_VERSION
    request_id: Annotated[
        Text,
        declare("The router's id of the request.", attribute=semconv.REQUEST_ID, at_start=True),
    ]
    model: Annotated[
        Text,
        declare(
            "The target model, after any rewrite.", attribute=semconv.REQUEST_MODEL, at_start=True
        ),
    ] = ""
    operation: Annotated[
        Text,
        declare(
            "`chat`, `text_completion`, ...; empty when unknown.",
            attribute=semconv.OPERATION_NAME,
            at_start=True,
        ),
    ] = ""
    provider: Annotated[
        Text,
        declare("`vllm`, ...; empty when unknown.", attribute=semconv.PROVIDER_NAME, at_start=True),
    ] = ""
    outcome: Annotated[
        Outcome,
        declare("How the request ended.", attribute=semconv.OUTCOME, section="result", always=True),
    ] = Outcome.COMPLETED
    finish_reason: Annotated[
        FinishReason | None,
        declare(
            "Why the engine stopped: `stop`, `length`, `tool_calls`, `content_filter`, `abort`, "
            "`error` or `other`.",
            attribute="llm_router.finish_reason",
            section="result",
            source="response",
        ),
    ] = None
    engine_finish_reason: Annotated[
        Text | None,
        declare(
            "The same in the engine's own word.",
            attribute="llm_router.engine.finish_reason",
            section="result",
            source="response",
        ),
    ] = None
    streaming: Annotated[
        bool | None,
        declare(
            "Whether the client asked for a stream, or received one.",
            attribute="gen_ai.request.stream",
            at_start=True,
        ),
    ] = None
    received_at: Annotated[
        Timestamp | None,
        declare("Time of arrival at the router. On the span: its start.", source="clock"),
    ] = None
    started_at: Annotated[
        Timestamp,
        declare(
            "Time of dispatch: the first call to the engine. Without such a call: the arrival. "
            f"On the span: the event `{semconv.EVENT_DISPATCH}`; its start if the arrival is "
            "unknown.",
            source="clock",
        ),
    ]
    first_byte_at: Annotated[
        Timestamp | None,
        declare(
            "Time of the answer's first byte, which may come before any output. On the span: time "
            "since dispatch.",
            "s",
            "llm_router.response.time_to_first_byte",
            section="result",
            source="clock",
            opt_in="first_byte_attribute",
        ),
    ] = None
    first_chunk_at: Annotated[
        Timestamp | None,
        declare(
            "Time of a stream's first chunk. On the span: the time of the event "
            f"`{semconv.EVENT_FIRST_CHUNK}`.",
            source="clock",
        ),
    ] = None
    completed_at: Annotated[
        Timestamp | None, declare("Time of the end. On the span: its end.", source="clock")
    ] = None
    input_token_length: Annotated[
        Count | None,
        declare(
            "Length of the prompt. On the span: the second attribute if it is an estimate.",
            "{token}",
            (semconv.INPUT_TOKENS, semconv.INPUT_TOKENS_ESTIMATE),
        ),
    ] = None
    input_token_source: Annotated[
        InputTokenSource,
        declare("Source of the prompt's length.", attribute=semconv.INPUT_TOKENS_SOURCE),
    ] = InputTokenSource.UNKNOWN
    prompt_blocks: Annotated[
        PromptBlocks | msgspec.UnsetType,
        declare("Keyed hashes of the prompt's blocks; absent unless `prompt.blocks` is set."),
    ] = msgspec.UNSET
    output_length: Annotated[
        Count | None,
        declare(
            "Completion tokens in the usage.", "{token}", semconv.OUTPUT_TOKENS, source="response"
        ),
    ] = None
    cached_tokens: Annotated[
        Count | None,
        declare(
            "Prompt tokens that the engine found in its prefix cache.",
            "{token}",
            "gen_ai.usage.cache_read.input_tokens",
            source="response",
        ),
    ] = None
    selected_endpoint: Annotated[
        Text, declare("The endpoint that the router selected: the leader of the route.")
    ] = ""
    served_endpoint: Annotated[
        Text | None,
        declare(
            "The endpoint that served the request. On the span: only if not the selected one.",
            attribute=semconv.ROUTE_SERVED_ID,
            section="route",
            source="response",
        ),
    ] = None
    tracked_endpoints: Annotated[
        list[str], declare("The endpoints whose load included the request.")
    ] = []
    candidates: Annotated[
        Count | None,
        declare(
            "Number of endpoints considered.",
            "{endpoint}",
            "llm_router.route.candidates.count",
        ),
    ] = None
    policy: Annotated[
        Text,
        declare(
            "Name of the routing policy; empty when unknown.",
            attribute=semconv.ROUTE_POLICY,
        ),
    ] = ""
    decision: Annotated[
        Decision | msgspec.UnsetType,
        declare(
            "Why the first route was chosen; absent if the router named no candidates. On the "
            "span: the choice of the decode (or selected) endpoint, and that of the prefill.",
            section="decision",
        ),
    ] = msgspec.UNSET
    engine_request_id: Annotated[
        Text | None,
        declare(
            "The id that the router sent to the engine.", attribute="llm_router.request.engine_id"
        ),
    ] = None
    attempt: Annotated[
        Count,
        declare(
            "Number of the attempt; 1 for the first dispatch.",
            "{attempt}",
            "llm_router.route.attempt",
            section="route",
            always=True,
        ),
    ] = 1
    rerouted: Annotated[
        list[Reroute],
        declare(
            f"The last {MAX_REROUTES} changes of route after dispatch. On the span: events "
            f"`{semconv.EVENT_REROUTED}`.",
            section="event " + semconv.EVENT_REROUTED,
        ),
    ] = []
    legs: Annotated[
        tuple[RecordedLeg, ...] | msgspec.UnsetType,
        declare(
            "The calls that the router made, in order; absent unless there were several. On the "
            "span: one array per field.",
            attribute="llm_router.legs",
            section="leg",
        ),
    ] = msgspec.UNSET
    dispatch_inflight: Annotated[
        Load | None,
        declare(
            "Load of the selected endpoint at dispatch, without this request.",
            attribute="llm_router.dispatch.inflight",
            section="load",
            source="load",
        ),
    ] = None
    prefix_cache_score: Annotated[
        Fraction | None,
        declare(
            "Fraction of the prompt cached on the prefill (or selected) endpoint.",
            attribute="llm_router.prefix_cache.score",
            section="prediction",
        ),
    ] = None
    prediction: Annotated[
        LatencyPrediction,
        declare(
            "The predicted latencies.",
            attribute="llm_router.prediction",
            section="prediction",
        ),
    ]
    prediction_mode: Annotated[
        str,
        declare(
            "`active`: by the router; `shadow`: only for the record; empty: no prediction.",
            attribute="llm_router.prediction.mode",
            section="prediction",
        ),
    ] = ""
    prediction_inputs: Annotated[
        list[PredictionInput], declare("The features of each endpoint that carried the request.")
    ] = []
    missing_feature_reasons: Annotated[
        list[MissingFeature],
        declare(
            "Which of these features are null, and why. On the span: two parallel arrays.",
            attribute=(semconv.MISSING_FEATURES, semconv.MISSING_REASONS),
            section="prediction",
        ),
    ] = []
    selected_route: Annotated[
        RouteSnapshot | None,
        declare(
            "The route; null if the request ended before the router had chosen.",
            attribute="llm_router.route",
            section="role",
        ),
    ]
    route_mismatch: Annotated[
        bool,
        declare(
            "Whether the dispatched route and the endpoint's own PD group disagreed.",
            attribute="llm_router.route.mismatch",
            section="route",
        ),
    ] = False
    endpoint_deleted: Annotated[
        list[str],
        declare(
            "Roles whose endpoint was deleted while the request was in flight on it.",
            attribute="llm_router.route.deleted_roles",
            section="route",
        ),
    ] = []
    error: Annotated[
        ErrorInfo | None,
        declare(
            "The error, for the outcomes `error` and `rejected`.", attribute=".", section="result"
        ),
    ] = None
    actual: Annotated[
        ActualLatency,
        declare("The measured latencies.", attribute=".", section="result", source="clock"),
    ]
    prediction_error: Annotated[
        PredictionError,
        declare(
            "Actual minus predicted latency, where both exist.",
            attribute="llm_router.prediction",
            section="prediction",
            source="clock",
        ),
    ]
    labels: Annotated[
        dict[str, str] | msgspec.UnsetType,
        declare(
            "What the setting `labels` or the program wants recorded of the request; absent if "
            "there is none.",
            attribute=f"{semconv.LABEL}<name>",
            section="label",
        ),
    ] = msgspec.UNSET
    slo: Annotated[
        RecordedSLO | msgspec.UnsetType,
        declare(
            "The targets of its latencies; absent if there are none.",
            attribute="llm_router.slo",
            section="slo",
            source="clock",
        ),
    ] = msgspec.UNSET
    trace_id: Annotated[str | None, declare("Id of the trace.", source="trace")] = None
    span_id: Annotated[str | None, declare("Id of the span.", source="trace")] = None
    parent_span_id: Annotated[str | None, declare("Id of the parent span.", source="trace")] = None
    trace_flags: Annotated[int | None, declare("W3C trace flags.", "1", source="trace")] = None
    trace_state: Annotated[str, declare("W3C trace state.", source="trace")] = ""
    span_kind: Annotated[str | None, declare("`server` or `internal`.", source="trace")] = None
    resource: Annotated[
        dict[str, str],
        declare("`service.name` and `service.instance.id` of the router.", source="trace"),
    ] = {}
