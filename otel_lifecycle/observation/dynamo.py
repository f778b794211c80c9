"""Request traces of NVIDIA Dynamo's frontend: one JSON line a request, as records.

Dynamo's fields are described at
https://docs.nvidia.com/dynamo/dev/reference/observability/request-traces. Times count from the
receipt of the request: `prefill_wait_time_ms` to the begin of the prefill, which is the dispatch,
`ttft_ms` to the first token, `total_time_ms` to the end.
"""

from __future__ import annotations

import math
from typing import cast

import msgspec
from opentelemetry.trace import NoOpTracerProvider

from otel_lifecycle.model import (
    Endpoint,
    InputTokenSource,
    Load,
    MissingReason,
    Outcome,
    RequestCompletion,
    RequestStart,
    Route,
    RouteEndpoint,
    sanitize,
)
from otel_lifecycle.model.endpoint_state import EndpointState, EndpointView
from otel_lifecycle.model.features import POD_TYPES, MissingFeature
from otel_lifecycle.model.fields import MAX_MILLISECONDS
from otel_lifecycle.model.latency import prediction_error
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.request import BlockUnit, PromptBlocks
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.live_span import SpanMaker
from otel_lifecycle.telemetry.told import Manner
from otel_lifecycle.tracking.arrival import Timing
from otel_lifecycle.tracking.dispatch import begin_record, complete_record, dispatch
from otel_lifecycle.tracking.lifecycle import Lifecycle
from otel_lifecycle.tracking.prompts import PromptNotes

SCHEMA = "dynamo.request.trace.v1"
_REQUEST_END = "request_end"
_END_OF_TIME_MS = (1 << 63) // 1_000_000
_FAILED = "error"


class _Worker(msgspec.Struct):
    prefill_worker_id: int | None = None
    prefill_dp_rank: int | None = None
    decode_worker_id: int | None = None
    decode_dp_rank: int | None = None


class _Finish(msgspec.Struct):
    finish_reason: str | None = None


class _Replay(msgspec.Struct):
    input_length: int | None = None
    trace_block_size: int | None = None
    input_sequence_hashes: list[int] | None = None


class _Request(msgspec.Struct):
    request_id: str
    x_request_id: str | None = None
    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    request_received_ms: int | None = None
    prefill_wait_time_ms: float | None = None
    ttft_ms: float | None = None
    total_time_ms: float | None = None
    kv_hit_rate: float | None = None
    worker: _Worker | None = None
    finish_reason_metadata: _Finish | None = None
    replay: _Replay | None = None


class _Event(msgspec.Struct):
    schema: str
    event_type: str
    event_time_unix_ms: int | None = None
    request: _Request | None = None


class _Wrapped(msgspec.Struct):
    event: msgspec.Raw


def record_of_line(line: bytes, prompts: PromptNotes | None = None) -> LifecycleRecord | None:
    """Return the record of a request's line; None for a line that is about something else.

    Args:
        line: The line.
        prompts: What hashes Dynamo's hashes of prompts with a key; None: leave them out.

    Raises:
        ValueError: The line is none of Dynamo's; the text gives the reason.
    """
    try:
        event = _decode(line)
    except msgspec.ValidationError:
        event = _decode(msgspec.json.decode(line, type=_Wrapped).event)  # as some sinks write it
    except RecursionError as error:
        raise ValueError(str(error)) from error
    if event.schema != SCHEMA:
        raise ValueError(f"schema is {event.schema[:40]!r}, and this version reads {SCHEMA!r}")
    if event.event_type != _REQUEST_END:
        return None
    if event.request is None or not event.request.request_id:
        raise ValueError("has no request, or no request_id")
    return _record(event, event.request, prompts)


def _record(event: _Event, request: _Request, prompts: PromptNotes | None) -> LifecycleRecord:
    received_ms = request.request_received_ms
    if received_ms is None or not 0 <= received_ms < _END_OF_TIME_MS:
        raise ValueError("request_received_ms is missing, or no time between 1970 and 2262")
    received_ns = received_ms * 1_000_000
    waited_ns = _ns(request.prefill_wait_time_ms)
    started_ns = received_ns + (waited_ns or 0)
    route = _route(request.worker)
    tokens = request.input_tokens
    if tokens is None and request.replay is not None:
        tokens = request.replay.input_length
    start = RequestStart(
        request.x_request_id or request.request_id,
        route,
        model=request.model or "",
        input_tokens=tokens,
        input_token_source=None if tokens is None else InputTokenSource.TOKENIZED,
        streaming=None,
        prefix_cache_score=request.kv_hit_rate,
        engine_request_id=request.request_id,
        prompt=None if prompts is None else _prompt(request.replay),
    )
    if prompts is not None:
        start = prompts.take(start)
    sent = dispatch(start, _look, started_ns)
    timing = Timing(started_ns, started_ns, started_ns - received_ns)
    lifecycle = Lifecycle(_NOBODY, _MANNER, _SPANS, sent, timing, 0)
    # The snapshots take these loads, and an unknown one is None there.
    lifecycle.loads = cast("tuple[Load, ...]", (None,) * len(sent.counted))
    record = begin_record(lifecycle)
    record.missing_feature_reasons += [
        MissingFeature(POD_TYPES[role], "inflightTokens", MissingReason.INFLIGHT_MISSING)
        for role in sent.counted
    ]
    first_ns, ended_ns = _ns(request.ttft_ms), _end_ns(event, request, received_ns)
    if first_ns is not None:
        lifecycle.first_chunk_ns = max(0, received_ns + first_ns - started_ns)
    lifecycle.ended_ns = max(started_ns, ended_ns or started_ns)
    complete_record(record, lifecycle, _completion(request))
    record.dispatch_inflight = None
    if waited_ns is None:
        record.actual.queue_ms = None
    if ended_ns is None:
        record.completed_at = record.actual.e2e_ms = record.actual.tpot_ms = None
        record.prediction_error = prediction_error(record.actual, record.prediction)
    lifecycle.told.let_go()
    return record


def _prompt(replay: _Replay | None) -> PromptBlocks | None:
    if replay is None or not replay.trace_block_size or replay.input_sequence_hashes is None:
        return None
    hashes = tuple(replay.input_sequence_hashes)
    return PromptBlocks(BlockUnit.TOKEN, replay.trace_block_size, hashes)


def _completion(request: _Request) -> RequestCompletion:
    finish = request.finish_reason_metadata
    reason = None if finish is None else finish.finish_reason
    failed = reason == _FAILED
    return RequestCompletion(
        outcome=Outcome.ERROR if failed else Outcome.COMPLETED,
        error_type="engine_error" if failed else None,
        output_tokens=request.output_tokens,
        cached_tokens=request.cached_tokens,
        finish_reason=reason,
    )


def _route(worker: _Worker | None) -> Route | None:
    if worker is None:
        return None
    prefill = _endpoint(worker.prefill_worker_id, worker.prefill_dp_rank)
    decode = _endpoint(worker.decode_worker_id, worker.decode_dp_rank)
    if decode is None:
        return None if prefill is None else Route(prefill)
    if prefill is None or prefill == decode:
        return Route(decode)
    return Route(decode, prefill, decode)


def _endpoint(worker_id: int | None, rank: int | None) -> RouteEndpoint | None:
    """Return a worker, of which Dynamo tells neither address nor pod."""
    if worker_id is None:
        return None
    name = f"worker-{worker_id}" if rank is None else f"worker-{worker_id}-rank-{rank}"
    return RouteEndpoint(Endpoint(name=name))


def _end_ns(event: _Event, request: _Request, received_ns: int) -> int | None:
    total_ns = _ns(request.total_time_ms)
    if total_ns is not None:
        return received_ns + total_ns
    ended_ms = event.event_time_unix_ms
    if ended_ms is None or not 0 <= ended_ms < _END_OF_TIME_MS:
        return None
    return max(received_ns, ended_ms * 1_000_000)


def _ns(milliseconds: float | None) -> int | None:
    if milliseconds is None or not math.isfinite(milliseconds):
        return None
    known = sanitize.milliseconds(milliseconds) if milliseconds <= MAX_MILLISECONDS else None
    return None if known is None else round(known * 1e6)


def _look(*raw: RouteEndpoint, **_: object) -> list[EndpointView]:
    return [EndpointView(EndpointState(one.endpoint), one, None) for one in raw]


def _ignore(_: str) -> None:
    """Nothing fails later: the record is made at once."""


class _Nobody:
    """The owner of requests that have long ended."""

    def supersede(self, lifecycle: Lifecycle) -> None:
        """Do nothing."""

    def abandon(self, lifecycle: Lifecycle) -> None:
        """Do nothing."""


_NOBODY = _Nobody()
_MANNER = Manner("", Details(), _ignore)
_SPANS = SpanMaker(NoOpTracerProvider(), phases=False)  # records alone are made
_SPANS.resource = {}
_decode = msgspec.json.Decoder(_Event, strict=False).decode
