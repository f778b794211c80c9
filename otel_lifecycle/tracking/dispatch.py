"""Begins a record when a request is dispatched, and completes it when the request ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, cast

import msgspec

from otel_lifecycle.model import (
    Endpoint,
    InputTokenSource,
    Leg,
    LegOutcome,
    LegRole,
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
    RouteEndpoint,
    latency,
    sanitize,
)
from otel_lifecycle.model.endpoint_state import EndpointView
from otel_lifecycle.model.features import (
    POD_TYPES,
    MissingFeature,
    MissingReason,
    PredictionInput,
    missing_request_features,
    prediction_input,
)
from otel_lifecycle.model.finish_reason import FinishReason, finish_reason
from otel_lifecycle.model.latency import ActualLatency, PredictionError
from otel_lifecycle.model.record import (
    MAX_REROUTES,
    ErrorInfo,
    LifecycleRecord,
    RecordedLeg,
    Reroute,
)
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.model.slo import judge_slo
from otel_lifecycle.model.timestamps import format_timestamp
from otel_lifecycle.telemetry.live_span import link
from otel_lifecycle.telemetry.told import Kept
from otel_lifecycle.tracking.decisions import decide, invalid_candidate_values
from otel_lifecycle.tracking.prompts import Prompt
from otel_lifecycle.tracking.usable import (
    NO_PREDICTION,
    clean_prediction,
    invalid_values,
    is_lost,
    usable,
)

if TYPE_CHECKING:
    from otel_lifecycle.tracking.lifecycle import Lifecycle

_LEADER, _PREFILL, _PAIR = ("leader",), ("prefill",), ("prefill", "decode")
ERRORS = (Outcome.ERROR, Outcome.REJECTED)
_MAX_LEGS = 256
_END_OF_TIME_NS = 1 << 63
_LEG_ROLES = {role.value: role for role in LegRole}
_LEG_OUTCOMES = {outcome.value: outcome for outcome in LegOutcome}
_PREFILL_TOKENS_MISSING = {
    role: MissingFeature(pod_type, "prefillTokens", MissingReason.INFLIGHT_MISSING)
    for role, pod_type in POD_TYPES.items()
}
_SOURCES = {source.value: source for source in InputTokenSource}


def is_trackable(start: object) -> bool:
    """Whether there is a request, an id, a selected endpoint and its metadata (the seed's rule)."""
    return (
        isinstance(start, RequestStart)
        and isinstance(start.request_id, str)  # pyright: ignore[reportUnnecessaryIsInstance]
        and start.request_id != ""
        and isinstance(start.route, Route)  # pyright: ignore[reportUnnecessaryIsInstance]
        and _is_endpoint(start.route.leader)
        and (start.route.prefill is None or _is_endpoint(start.route.prefill))
        and (start.route.decode is None or _is_endpoint(start.route.decode))
    )


class Dispatch(msgspec.Struct, frozen=True):
    """A request as it is sent to the endpoints of one route.

    Attributes:
        start: What the router says.
        at_ns: When, in Unix nanoseconds.
        counted: The roles of the endpoints that carry its load: `Route.counted`.
        leader: The endpoint that the router selected; None if there is no route.
        prefill: That of the prefill.
        decode: That of the decode.
    """

    start: RequestStart
    at_ns: int
    counted: tuple[str, ...] = ()
    leader: EndpointView | None = None
    prefill: EndpointView | None = None
    decode: EndpointView | None = None

    @property
    def kept(self) -> dict[str, Kept]:
        """What its endpoints keep for other requests too, by role."""
        roles = {"leader": self.leader, "prefill": self.prefill, "decode": self.decode}
        return {role: Kept(view.attributes) for role, view in roles.items() if view is not None}

    @property
    def counted_ids(self) -> list[str]:
        """The endpoints that carry its load."""
        if self.counted is _LEADER:
            assert self.leader is not None
            return [self.leader.id]
        return [getattr(self, role).id for role in self.counted]


def dispatch(start: RequestStart, look: Callable[..., list[EndpointView]], at_ns: int) -> Dispatch:
    """Notes what a router says of a request, and what is known of its endpoints now.

    Args:
        start: What the router says.
        look: Makes endpoints safe as a model's requests see them, or has done so before.
        at_ns: When, in Unix nanoseconds.
    """
    route = start.route
    if route is None:
        return Dispatch(start, at_ns)
    # Each looked at once: what is collected may be replaced at any moment.
    if route.prefill is None or route.decode is None:
        (leader,) = look(route.leader, model=start.model)
        if route.prefill is not None and route.is_prefill_alone:
            return Dispatch(start, at_ns, _PREFILL, leader, leader)
        return Dispatch(start, at_ns, _LEADER, leader)
    leader, prefill, decode = look(route.leader, route.prefill, route.decode, model=start.model)
    is_shared = prefill.state is decode.state
    return Dispatch(start, at_ns, _PREFILL if is_shared else _PAIR, leader, prefill, decode)


def whole_record(
    lifecycle: Lifecycle, completion: RequestCompletion
) -> tuple[LifecycleRecord, int]:
    """Makes the record of a request that has ended as `completion` says.

    Returns:
        The record, and how many values of the router it could not use.
    """
    record = begin_record(lifecycle)
    invalid = invalid_values(lifecycle.dispatch.start, record)
    complete_record(record, lifecycle, completion)
    start = lifecycle.dispatch.start
    return record, invalid + _invalid_completion_values(completion, record, start)


def begin_record(lifecycle: Lifecycle) -> LifecycleRecord:
    """Begins the record of a request: what the router said of it is made safe here."""
    sent = lifecycle.dispatch
    start, leader = sent.start, sent.leader
    used = usable(start)
    tokens, score, prediction = used.input_token_length, used.prefix_cache_score, used.prediction
    record = LifecycleRecord(
        request_id=used.request_id,
        started_at=format_timestamp(lifecycle.started_ns),
        prediction=prediction,
        selected_route=None,
        actual=ActualLatency(),
        prediction_error=PredictionError(),
    )
    # Of so many fields, to name one in the call costs more than to set it.
    record.model = used.model
    record.operation = used.operation
    record.provider = used.provider
    record.streaming = lifecycle.streaming
    record.input_token_length = tokens
    record.input_token_source = _source(start.input_token_source, tokens)
    record.candidates = used.candidates
    record.policy = used.policy
    record.engine_request_id = used.engine_request_id
    record.attempt = used.attempt
    record.prefix_cache_score = score
    record.resource = lifecycle.spans.resource
    if lifecycle.rerouted:
        record.rerouted = list(lifecycle.rerouted)
    if prediction is not NO_PREDICTION:
        record.prediction_mode = latency.prediction_mode(prediction)
    if start.route_mismatch is True:
        record.route_mismatch = True
    if start.labels:
        record.labels = cast("dict[str, str]", dict(start.labels))
    link(record, lifecycle.context, lifecycle.parent, lifecycle.kind)
    if leader is None:
        return record
    record.selected_endpoint = leader.id
    prefill, decode = sent.prefill, sent.decode
    if prefill is None:
        record.selected_route = RouteSnapshot(leader.snapshot())
    elif decode is None:
        record.selected_route = RouteSnapshot(leader.identify(), prefill.snapshot())
    else:
        record.selected_route = RouteSnapshot(
            leader.identify(), prefill.snapshot(), decode.snapshot()
        )
    record.tracked_endpoints = sent.counted_ids
    missing = missing_request_features(sent.counted, tokens, start.prefix_cache_score, score)
    for role in sent.counted:
        missing += getattr(sent, role).missing(role, sent.at_ns, lifecycle.stale_after_ns)
    record.missing_feature_reasons = missing
    return record


def rerouted(lifecycle: Lifecycle, to: Dispatch, reason: str | None) -> tuple[Reroute, ...]:
    """The changes of route of a request that goes somewhere else.

    Args:
        lifecycle: The request.
        to: Where it goes.
        reason: Why; None when its route is only known better.
    """
    if reason is None:
        return lifecycle.rerouted
    change = Reroute(
        format_timestamp(to.at_ns),
        "+".join(lifecycle.dispatch.counted_ids),
        "+".join(to.counted_ids),
        sanitize.text(reason),
    )
    return (*lifecycle.rerouted, change)[-MAX_REROUTES:]


def _invalid_completion_values(
    completion: RequestCompletion, record: LifecycleRecord, start: RequestStart
) -> int:
    """The same for what the router said when the request ended, and of all its candidates."""
    return (
        invalid_candidate_values(start)
        + (start.prompt is not None and record.prompt_blocks is msgspec.UNSET)
        + (completion.outcome != record.outcome)
        + (completion.output_tokens is not None and record.output_length is None)
        + (completion.cached_tokens is not None and record.cached_tokens is None)
        + (completion.prefill_ms is not None and record.actual.prefill_ms is None)
        + is_lost(completion.finish_reason or None, record.engine_finish_reason)
    )


def complete_record(
    record: LifecycleRecord, lifecycle: Lifecycle, completion: RequestCompletion
) -> None:
    """Completes the record of a request that has ended as `completion` says."""
    e2e_ns = lifecycle.ended_ns - lifecycle.started_ns
    first_chunk_ns = lifecycle.first_chunk_ns
    waited_ns = lifecycle.waited_ns
    if waited_ns is not None:
        record.received_at = format_timestamp(lifecycle.started_ns - waited_ns)
    record.outcome = outcome_of(completion)
    record.completed_at = format_timestamp(lifecycle.ended_ns)
    if lifecycle.first_byte_ns is not None:
        record.first_byte_at = format_timestamp(lifecycle.started_ns + lifecycle.first_byte_ns)
    if first_chunk_ns is not None:
        record.first_chunk_at = format_timestamp(lifecycle.started_ns + first_chunk_ns)
    record.output_length = sanitize.count(completion.output_tokens)
    record.cached_tokens = sanitize.count(completion.cached_tokens)
    _set_reported_length(record, sanitize.count(completion.input_tokens))
    if completion.finish_reason:
        word = sanitize.text(completion.finish_reason)
        record.finish_reason, record.engine_finish_reason = finish_reason(word), word or None
        if completion.calls_tools is True and record.finish_reason is FinishReason.STOP:
            record.finish_reason = FinishReason.TOOL_CALLS
    if isinstance(completion.served_endpoint, Endpoint):
        record.served_endpoint = sanitize.text(completion.served_endpoint.id) or None
    record.legs = _legs(completion.legs)
    start = lifecycle.dispatch.start
    decide(record, start)
    if isinstance(start.prompt, Prompt):
        record.prompt_blocks = start.prompt.blocks() or msgspec.UNSET
    if record.selected_route is not None:
        record.dispatch_inflight = lifecycle.dispatch_load
    if lifecycle.deleted_roles:
        record.endpoint_deleted = list(lifecycle.deleted_roles)
    if record.outcome in ERRORS:
        record.error = ErrorInfo(sanitize.text(completion.error_type) or "_OTHER")
    predicted = lifecycle.predicted
    if predicted is not None and latency.is_prediction(predicted):
        record.prediction = clean_prediction(predicted)
        record.prediction_mode = latency.PREDICTION_MODE_SHADOW
    record.actual = latency.actual_latency(e2e_ns, first_chunk_ns, record.output_length)
    if record.selected_route is not None and waited_ns is not None:
        record.actual.queue_ms = waited_ns / 1e6
    if start.slo is not None:
        record.slo = judge_slo(start.slo, record.outcome, record.actual)
    route = record.selected_route
    if route is not None and route.prefill is not None and completion.prefill_ms is not None:
        record.actual.prefill_ms = sanitize.milliseconds(completion.prefill_ms)
    if record.prediction is not NO_PREDICTION:
        record.prediction_error = latency.prediction_error(record.actual, record.prediction)
    inputs: list[PredictionInput] = []
    counted, left = lifecycle.dispatch.counted, lifecycle.prefill_tokens
    for place, (role, load) in enumerate(zip(counted, lifecycle.loads, strict=False)):
        snapshot: EndpointSnapshot = getattr(route, role)
        snapshot.inflight = load
        if left:
            snapshot.prefill_tokens = left[place]
        else:
            record.missing_feature_reasons.append(_PREFILL_TOKENS_MISSING[role])
        inputs.append(
            prediction_input(
                role,
                snapshot,
                input_tokens=record.input_token_length,
                score=record.prefix_cache_score,
                missing=record.missing_feature_reasons,
            )
        )
    record.prediction_inputs = inputs
    if route is not None and route.decode is not None and "decode" not in counted:
        # One endpoint does both.
        route.decode.inflight = None if route.prefill is None else route.prefill.inflight


def _legs(given: object) -> tuple[RecordedLeg, ...] | msgspec.UnsetType:
    """The calls of a request, where there is more than one."""
    if not isinstance(given, (tuple, list)) or not given:
        return msgspec.UNSET
    legs = tuple(filter(None, map(_leg, cast("Sequence[object]", given)[:_MAX_LEGS])))
    return legs if len(legs) > 1 else msgspec.UNSET


def _leg(leg: object) -> RecordedLeg | None:
    if not isinstance(leg, Leg) or not isinstance(leg.endpoint, Endpoint):  # pyright: ignore[reportUnnecessaryIsInstance]
        return None
    role = _LEG_ROLES.get(sanitize.text(leg.role))
    started_ns, ended_ns = _unix_ns(leg.started_ns), _unix_ns(leg.ended_ns)
    if role is None or started_ns is None:
        return None
    return RecordedLeg(
        role,
        sanitize.text(leg.endpoint.id),
        format_timestamp(started_ns),
        None if ended_ns is None else format_timestamp(max(started_ns, ended_ns)),
        _LEG_OUTCOMES.get(sanitize.text(leg.outcome)),
    )


def _unix_ns(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < _END_OF_TIME_NS else None


def _set_reported_length(record: LifecycleRecord, tokens: int | None) -> None:
    """The engine's own count of the prompt is better than an estimate, or than none."""
    if tokens is None or record.input_token_source is InputTokenSource.TOKENIZED:
        return
    if record.input_token_length is None:
        record.missing_feature_reasons = [
            missing
            for missing in record.missing_feature_reasons
            if missing.feature != "inputTokenLength"
        ]
    record.input_token_length = tokens
    record.input_token_source = InputTokenSource.REPORTED


def _is_endpoint(entry: object) -> bool:
    return isinstance(entry, RouteEndpoint) and isinstance(entry.endpoint, Endpoint)  # pyright: ignore[reportUnnecessaryIsInstance]


def _source(given: object, tokens: int | None) -> InputTokenSource:
    if tokens is None:
        return InputTokenSource.UNKNOWN
    if type(given) is InputTokenSource:
        source = given
    else:
        word = given.value if isinstance(given, Enum) else given
        source = _SOURCES.get(cast("str", word) or "", InputTokenSource.REPORTED)
    return InputTokenSource.REPORTED if source is InputTokenSource.UNKNOWN else source


def outcome_of(completion: RequestCompletion) -> Outcome:
    """How a request ended; an end that is none is an error."""
    outcome = completion.outcome
    if type(outcome) is Outcome:
        return outcome
    try:
        return Outcome(outcome)
    except ValueError:
        return Outcome.ERROR
