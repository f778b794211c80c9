"""Begins a record when a request is dispatched, and completes it when the request ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from enum import Enum
from operator import is_
from typing import cast

import msgspec

from otel_lifecycle.model import (
    Endpoint,
    InputTokenSource,
    LatencyPrediction,
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
    PredictionInput,
    missing_request_features,
    prediction_input,
)
from otel_lifecycle.model.fields import fields_of
from otel_lifecycle.model.latency import ActualLatency, PredictionError
from otel_lifecycle.model.record import ErrorInfo, LifecycleRecord, RecordedLeg, Reroute
from otel_lifecycle.model.route import EndpointSnapshot, RouteSnapshot
from otel_lifecycle.model.timestamps import format_timestamp
from otel_lifecycle.tracking.lifecycle import Dispatch, Lifecycle

_MAX_REROUTES = 64  # a router may try again for as long as an engine takes to start
_NO_PREDICTION = LatencyPrediction()
_SPAN_FIELDS = [
    field.name for field in fields_of(LifecycleRecord) if field.declared.source == "trace"
]
_MAX_LEGS = 256
_END_OF_TIME_NS = 1 << 63
_LEG_ROLES = {role.value: role for role in LegRole}
_LEG_OUTCOMES = {outcome.value: outcome for outcome in LegOutcome}
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


def begin_record(
    start: RequestStart,
    look: Callable[[RouteEndpoint], EndpointView],
    *,
    started_ns: int,
    now_ns: int,
    stale_after_ns: int,
) -> Dispatch:
    """Begins the record of a request that is about to be dispatched, or rejected.

    Args:
        start: What the router says; made safe here.
        look: Makes an endpoint safe, or has done so before.
        started_ns: First dispatch of the request, Unix nanoseconds.
        now_ns: This dispatch.
        stale_after_ns: Age from which engine metrics count as stale; 0 never.
    """
    tokens, source = _input_tokens(start)
    score = sanitize.fraction(start.prefix_cache_score)
    prediction = _prediction(start.prediction)
    request_id, model, operation, provider, policy, engine_request_id = sanitize.texts(
        start.request_id,
        start.model,
        start.operation,
        start.provider,
        start.policy,
        start.engine_request_id,
    )
    record = LifecycleRecord(
        request_id=request_id,
        model=model,
        operation=operation,
        provider=provider,
        streaming=start.streaming if isinstance(start.streaming, bool) else None,
        started_at=format_timestamp(started_ns),
        input_token_length=tokens,
        input_token_source=source,
        candidates=_candidates(start.candidates),
        policy=policy,
        engine_request_id=engine_request_id or None,
        attempt=max(1, sanitize.count(start.attempt) or 1),
        prefix_cache_score=score,
        prediction=prediction,
        prediction_mode=latency.prediction_mode(prediction),
        selected_route=None,
        route_mismatch=start.route_mismatch is True,
        actual=ActualLatency(),
        prediction_error=PredictionError(),
    )
    route = start.route
    if route is None:
        return Dispatch(record, {}, ())
    # Each looked at once: what is collected may be replaced at any moment.
    leader = look(route.leader)
    record.selected_endpoint = leader.id
    views = {"leader": leader}
    if route.is_prefill_alone:
        views["prefill"] = leader
        record.selected_route = RouteSnapshot(leader.identify(), leader.snapshot())
    elif route.prefill is None or route.decode is None:
        record.selected_route = RouteSnapshot(leader.snapshot())
    else:
        prefill, decode = look(route.prefill), look(route.decode)
        views |= {"prefill": prefill, "decode": decode}
        record.selected_route = RouteSnapshot(
            leader.identify(), prefill.snapshot(), decode.snapshot()
        )
    counted = route.counted
    missing = missing_request_features(counted, tokens, start.prefix_cache_score, score)
    for role in counted:
        view = views[role]
        record.tracked_endpoints.append(view.id)
        missing += view.missing(role, now_ns, stale_after_ns)
    record.missing_feature_reasons = missing
    return Dispatch(record, views, counted)


def take_over(lifecycle: Lifecycle, dispatch: Dispatch, now_ns: int, reason: str | None) -> None:
    """Takes over into a record begun anew what the request has told before.

    Args:
        lifecycle: The request.
        dispatch: The request as it is sent now; its record is changed.
        now_ns: When, in Unix nanoseconds.
        reason: Why it is sent somewhere else; None when its route is only known better.
    """
    old, record = lifecycle.record, dispatch.record
    for field in _SPAN_FIELDS:
        setattr(record, field, getattr(old, field))
    record.rerouted = old.rerouted
    if reason is not None:
        change = Reroute(
            format_timestamp(now_ns),
            "+".join(old.tracked_endpoints),
            "+".join(record.tracked_endpoints),
            sanitize.text(reason),
        )
        record.rerouted = [*old.rerouted, change][-_MAX_REROUTES:]


def invalid_values(start: RequestStart, record: LifecycleRecord) -> int:
    """How many of the router's own values could not be used as they are."""
    given = (
        start.request_id,
        start.model,
        start.operation,
        start.provider,
        start.policy,
        start.input_tokens,
        start.prefix_cache_score,
        start.engine_request_id or None,
    )
    kept = (
        record.request_id,
        record.model,
        record.operation,
        record.provider,
        record.policy,
        record.input_token_length,
        record.prefix_cache_score,
        record.engine_request_id,
    )
    invalid = start.candidates is not None and record.candidates is None
    if not all(map(is_, given, kept)):
        invalid += sum(map(_is_lost, given, kept))
    for field in ("ttft_ms", "tpot_ms"):
        if getattr(record.prediction, field) is None:
            invalid += getattr(start.prediction, field, None) is not None
    return invalid


def invalid_completion_values(completion: RequestCompletion, record: LifecycleRecord) -> int:
    """The same for what the router said when the request ended."""
    return (
        (completion.outcome != record.outcome)
        + (completion.output_tokens is not None and record.output_length is None)
        + (completion.cached_tokens is not None and record.cached_tokens is None)
        + (completion.prefill_ms is not None and record.actual.prefill_ms is None)
        + _is_lost(completion.finish_reason or None, record.finish_reason)
    )


def complete_record(
    lifecycle: Lifecycle, completion: RequestCompletion, ended_monotonic_ns: int
) -> LifecycleRecord:
    """Completes the record of a request that the store has finished; may be repeated."""
    record = lifecycle.record
    e2e_ns = max(0, ended_monotonic_ns - lifecycle.started_monotonic_ns)
    first_chunk_ns = lifecycle.first_chunk_ns
    waited_ns = lifecycle.waited_ns
    if waited_ns is not None:
        record.received_at = format_timestamp(lifecycle.started_ns - waited_ns)
    record.outcome = _outcome(completion.outcome)
    record.completed_at = format_timestamp(lifecycle.started_ns + e2e_ns)
    if lifecycle.first_byte_ns is not None:
        record.first_byte_at = format_timestamp(lifecycle.started_ns + lifecycle.first_byte_ns)
    if first_chunk_ns is not None:
        record.first_chunk_at = format_timestamp(lifecycle.started_ns + first_chunk_ns)
    _set_reported_length(record, completion.input_tokens)
    record.output_length = sanitize.count(completion.output_tokens)
    record.cached_tokens = sanitize.count(completion.cached_tokens)
    record.finish_reason = sanitize.text(completion.finish_reason) or None
    if isinstance(completion.served_endpoint, Endpoint):
        record.served_endpoint = sanitize.text(completion.served_endpoint.id) or None
    record.legs = _legs(completion.legs)
    if record.selected_route is not None:
        record.dispatch_inflight = lifecycle.dispatch_load
    record.endpoint_deleted = lifecycle.deleted_roles
    if record.outcome in (Outcome.ERROR, Outcome.REJECTED):
        record.error = ErrorInfo(sanitize.text(completion.error_type) or "_OTHER")
    shadow = lifecycle.shadow
    if shadow is not None and shadow[0] is record and latency.is_prediction(shadow[1]):
        record.prediction = _prediction(shadow[1])
        record.prediction_mode = latency.PREDICTION_MODE_SHADOW
    record.actual = latency.actual_latency(e2e_ns, first_chunk_ns, record.output_length)
    if record.selected_route is not None and waited_ns is not None:
        record.actual.queue_ms = waited_ns / 1e6
    if record.selected_route is not None and record.selected_route.prefill is not None:
        record.actual.prefill_ms = sanitize.milliseconds(completion.prefill_ms)
    record.prediction_error = latency.prediction_error(record.actual, record.prediction)
    inputs: list[PredictionInput] = []
    for role, load in lifecycle.role_loads.items():
        snapshot: EndpointSnapshot = getattr(record.selected_route, role)
        snapshot.inflight = load
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
    route = record.selected_route
    if route is not None and route.decode is not None and "decode" not in lifecycle.role_loads:
        route.decode.inflight = lifecycle.role_loads.get("prefill")  # one endpoint does both
    return record


def _legs(given: object) -> tuple[RecordedLeg, ...] | msgspec.UnsetType:
    """The calls of a request, where there is more than one."""
    if not isinstance(given, (tuple, list)):
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


def _set_reported_length(record: LifecycleRecord, given: int | None) -> None:
    """The engine's own count of the prompt is better than an estimate, or than none."""
    tokens = sanitize.count(given)
    if tokens is None or record.input_token_source is InputTokenSource.TOKENIZED:
        return
    record.input_token_length = tokens
    record.input_token_source = InputTokenSource.REPORTED
    record.missing_feature_reasons = [
        missing
        for missing in record.missing_feature_reasons
        if missing.feature != "inputTokenLength"
    ]


def _is_lost(given: object, kept: object) -> bool:
    """Whether a value is not what was given, or a number is unknown."""
    if isinstance(given, str):
        return given != kept
    return given is not None and (kept is None or isinstance(kept, str))


def _is_endpoint(entry: object) -> bool:
    return isinstance(entry, RouteEndpoint) and isinstance(entry.endpoint, Endpoint)  # pyright: ignore[reportUnnecessaryIsInstance]


def _input_tokens(start: RequestStart) -> tuple[int | None, InputTokenSource]:
    tokens = sanitize.count(start.input_tokens)
    if tokens is None:
        return None, InputTokenSource.UNKNOWN
    given = start.input_token_source
    if isinstance(given, Enum):
        given = given.value
    source = _SOURCES.get(given or "", InputTokenSource.REPORTED)
    return tokens, InputTokenSource.REPORTED if source is InputTokenSource.UNKNOWN else source


def _prediction(given: object) -> LatencyPrediction:
    if not isinstance(given, LatencyPrediction):
        return _NO_PREDICTION
    return LatencyPrediction(
        sanitize.milliseconds(given.ttft_ms), sanitize.milliseconds(given.tpot_ms)
    )


def _outcome(given: object) -> Outcome:
    if isinstance(given, Outcome):
        return given
    try:
        return Outcome(given)
    except ValueError:
        return Outcome.ERROR


def _candidates(given: object) -> int | None:
    if type(given) is int or given is None:
        return sanitize.count(given)
    if isinstance(given, Sized) and not isinstance(given, (str, bytes)):
        return len(given)
    return sanitize.count(given)
