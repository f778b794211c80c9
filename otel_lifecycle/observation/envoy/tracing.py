"""Where the span of a request belongs."""

from __future__ import annotations

import hashlib
import re

from otel_lifecycle.model import sanitize
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.observation.envoy.entry import Entry, known

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_TRACE_ID, _SPAN_ID = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{16}")
_SAMPLED = 1


def set_trace(record: LifecycleRecord, end: Entry, key: str) -> None:
    """Make the span a child of Envoy's, else of the client's, else the root of its own trace.

    Its id is derived from the request, so that a request read twice is the same span.
    """
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()
    record.span_id, record.trace_id = digest[:16], digest[16:]
    record.span_kind, record.trace_flags = "server", _SAMPLED
    told = _TRACEPARENT.fullmatch(known(end.tp))
    if told is not None:
        trace_id, record.parent_span_id, flags = told.groups()
        record.trace_id, record.trace_flags = trace_id, int(flags, 16) & _SAMPLED
        if end.ts:
            record.trace_state = sanitize.trace_state(known(end.ts))
    trace, span = end.trace, end.span
    if trace and span and _TRACE_ID.fullmatch(trace) and _SPAN_ID.fullmatch(span):
        record.trace_id, record.parent_span_id, record.span_kind = trace, span, "internal"


def trace_of(end: Entry) -> tuple[str, bool]:
    """Return the trace of a request, empty if unknown, and whether others may have sampled it."""
    trace = known(end.trace)
    told = _TRACEPARENT.fullmatch(known(end.tp))
    if told is None:
        return trace, True
    return trace or told[1], bool(int(told[3], 16) & _SAMPLED)
