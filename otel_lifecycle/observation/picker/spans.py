"""Holds the spans of a picker that tell of its decisions, and puts together those of a request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from math import isfinite
from typing import Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_lifecycle.observation.picker.held import Held
from otel_lifecycle.observation.picker.told import (
    LONGEST_NAME,
    MOST_CANDIDATES,
    MOST_PICKS,
    MOST_SCORERS,
    Considered,
    ProfileRun,
    Told,
)

_MOST_VALUES = 500_000  # about 100 MB
_MOST_SPANS = 512  # of one trace
_RECENT_SECONDS = 60.0

_EPP = "llm_d.epp."
_REQUEST_ID = "gen_ai.request.id"
_ORCHESTRATION = "gateway.request_orchestration"
_RUN, _FILTER, _SCORING, _PICK = (
    "run_scheduler_profile",
    "filter_endpoints",
    f"{_EPP}scoring",
    "pick_endpoints",
)
_SCORER = f"{_EPP}scorer."
_DECISION, _PREPARE = "pick_disagg_profile", "prepare_disaggregation"
_NAMES = frozenset({_ORCHESTRATION, _RUN, _FILTER, _SCORING, _PICK, _DECISION, _PREPARE})
_COMPLETE = "complete_"


class _Span(msgspec.Struct, gc=False):
    """What is of use of one span."""

    name: str
    parent: str
    start_ns: int
    request_id: str
    facts: dict[str, Any]


class SavedTrace(msgspec.Struct):
    """The spans of one trace, by id."""

    trace_id: str
    spans: dict[str, _Span]


class PickerSpans:
    """Holds what spans tell until it is asked for; thread-safe.

    Spans of a trace may come in any order, and may come again.

    Args:
        saved: What another has held.
        hold_for: Seconds after which what nobody asked for is forgotten.
        monotonic: Seconds, for ages.

    Attributes:
        has_any: Whether a picker has sent any.
    """

    def __init__(
        self,
        saved: Iterable[SavedTrace] = (),
        *,
        hold_for: float = 3600.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.has_any = False
        self._lock = threading.Lock()
        self._traces: Held[dict[str, _Span]] = Held(_MOST_VALUES, hold_for, monotonic)
        self._by_id: Held[dict[str, None]] = Held(_MOST_VALUES, hold_for, monotonic)
        self._completed: list[str] = []
        for each in saved:
            self._add(each.trace_id, each.spans)

    def take(self, request: ExportTraceServiceRequest) -> int:
        """Take the spans of one export; return how many spans it has."""
        total = 0
        found: dict[str, dict[str, _Span]] = {}
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                total += len(scope.spans)
                for span in scope.spans:
                    if span.name in _NAMES or span.name.startswith(_SCORER):
                        spans = found.setdefault(span.trace_id.hex(), {})
                        spans[span.span_id.hex()] = _read(span)
        with self._lock:
            for trace_id, spans in found.items():
                self._add(trace_id, spans)
        return total

    def completed(self) -> list[str]:
        """Return the ids of requests that the picker has finished with since the last call."""
        with self._lock:
            completed, self._completed = self._completed, []
        return completed

    def told(self, request_id: str, trace_id: str) -> list[Told]:
        """Return what is known of the requests of an id.

        Args:
            request_id: The id.
            trace_id: The trace of the request. If the picker has sent nothing of it, its traces of
                that id count: it began traces of its own.
        """
        with self._lock:
            traces = self._by_id.get(request_id) or {}
            wanted = [trace_id] if trace_id in traces else list(traces)
            found = [(each, self._traces.get(each)) for each in wanted]
            return [_told(each, spans, request_id) for each, spans in found if spans]

    def forget(self, request_id: str, trace_id: str) -> None:
        """Forget what is not needed any more."""
        with self._lock:
            spans = self._traces.get(trace_id)
            if spans is not None and _ids(spans) <= {request_id}:
                self._traces.drop(trace_id)
            traces = self._by_id.get(request_id)
            if traces is not None:
                traces.pop(trace_id, None)
                if not traces:
                    self._by_id.drop(request_id)

    def saved(self, in_flight: Iterable[str]) -> list[SavedTrace]:
        """Return what another can continue with.

        Args:
            in_flight: The ids of requests that have not ended.
        """
        with self._lock:
            wanted = dict.fromkeys(self._traces.younger(_RECENT_SECONDS))
            for request_id in in_flight:
                wanted.update(dict.fromkeys(self._by_id.get(request_id) or ()))
            found = [(trace_id, self._traces.get(trace_id)) for trace_id in wanted]
            return [SavedTrace(trace_id, dict(spans)) for trace_id, spans in found if spans]

    def _add(self, trace_id: str, spans: dict[str, _Span]) -> None:
        self.has_any = True
        held = self._traces.get(trace_id)
        if held is None:
            held = dict[str, _Span]()
            self._traces.add(trace_id, held)
        for span_id, span in spans.items():
            if span_id not in held and len(held) < _MOST_SPANS:
                held[span_id] = span
                self._traces.grow(trace_id, 4 + 2 * len(span.facts.get("top_endpoints", ())))
            if span.request_id:
                self._index(span.request_id, trace_id)
        if any(span.name == _ORCHESTRATION for span in spans.values()):
            self._completed += _ids(held)

    def _index(self, request_id: str, trace_id: str) -> None:
        traces = self._by_id.get(request_id)
        if traces is None:
            traces = dict[str, None]()
            self._by_id.add(request_id, traces)
        if trace_id not in traces:
            traces[trace_id] = None
            self._by_id.grow(request_id, 1)


def _ids(spans: dict[str, _Span]) -> set[str]:
    return {span.request_id for span in spans.values()} - {""}


def _told(trace_id: str, spans: dict[str, _Span], request_id: str) -> Told:
    """Put together what the spans of a request say; its runs are told apart by their parents."""
    told = Told(trace_id=trace_id)
    runs: dict[str, ProfileRun] = {}
    scorings: dict[str, ProfileRun] = {}
    roots: set[str] = set()
    for span_id, span in sorted(spans.items(), key=lambda each: each[1].start_ns):
        if span.request_id != request_id:
            continue
        told.at_ns = told.at_ns or span.start_ns
        if span.name in (_FILTER, _SCORING, _PICK):
            run = runs.get(span.parent)
            if run is None:
                run = runs[span.parent] = ProfileRun()
            if span.name == _SCORING:
                scorings[span_id] = run
            else:
                _describe(run, span.facts)
        else:
            roots.add(span.parent)
            told.reason = span.facts.get("reason") or told.reason
            told.prefill = span.facts.get("prefill") or told.prefill
    for span in spans.values():
        scored = scorings.get(span.parent)
        if scored is not None and span.name.startswith(_SCORER):
            _weigh(scored, span.facts)
    for span_id, run in runs.items():
        within = spans.get(span_id)
        if within is not None:
            run.profile = within.facts.get("profile", "")
            roots.add(within.parent)
    told.runs = list(runs.values())[:MOST_PICKS]
    told.is_complete = not roots.isdisjoint(spans)
    return told


def _weigh(run: ProfileRun, facts: dict[str, Any]) -> None:
    scorer, weight = facts.get("scorer"), facts.get("weight")
    if scorer and weight is not None and len(run.weights) < MOST_SCORERS:
        run.weights[scorer] = weight


def _describe(run: ProfileRun, facts: dict[str, Any]) -> None:
    before, left = facts.get("before"), facts.get("left")
    if before is not None and left is not None and 0 <= left <= before:
        run.filtered = before - left
    scores = facts.get("top_scores", ())
    names = facts.get("top_endpoints", ())
    if len(names) == len(scores):
        run.candidates = [Considered(*each) for each in zip(names, scores, strict=True)]
        run.count = max(facts.get("count", 0), len(names))


def _read(span: Span) -> _Span:
    given = {each.key: each.value for each in span.attributes}
    facts: dict[str, Any] = {}
    for name, (key, read) in _FACTS.items():
        value = given.get(key)
        if value is not None:
            fact = read(value)
            if fact is not None:
                facts[name] = fact
    decision = facts.get("reason", "")
    # Each step of the decision has a span; the last says what it came to.
    facts["reason"] = decision.partition(_COMPLETE)[2]
    host, port = facts.pop("host", ""), facts.pop("port", "")
    if host and port:
        facts["prefill"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    request_id = given[_REQUEST_ID].string_value if _REQUEST_ID in given else ""
    return _Span(span.name, span.parent_span_id.hex(), span.start_time_unix_nano, request_id, facts)


def _text(value: Any) -> str | None:
    return value.string_value[:LONGEST_NAME] or None


def _number(value: Any) -> float | None:
    kind = value.WhichOneof("value")
    if kind not in ("double_value", "int_value"):
        return None
    number = float(getattr(value, kind))
    return number if isfinite(number) else None


def _count(value: Any) -> int | None:
    return value.int_value if value.WhichOneof("value") == "int_value" else None


def _texts(value: Any) -> list[str]:
    values = value.array_value.values[:MOST_CANDIDATES]
    return [each.string_value[: 2 * LONGEST_NAME] for each in values]


def _numbers(value: Any) -> list[float]:
    numbers = map(_number, value.array_value.values[:MOST_CANDIDATES])
    return [number for number in numbers if number is not None]


_FACTS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "profile": (f"{_EPP}scheduling.profile.name", _text),
    "before": (f"{_EPP}filter.candidate_endpoints", _count),
    "left": (f"{_EPP}filter.filtered_endpoints", _count),
    "scorer": (f"{_EPP}scorer.name", _text),
    "weight": (f"{_EPP}scorer.weight", _number),
    "count": (f"{_EPP}picker.candidate_endpoints", _count),
    "top_endpoints": (f"{_EPP}picker.top_endpoints", _texts),
    "top_scores": (f"{_EPP}picker.top_scores", _numbers),
    "reason": (f"{_EPP}profile_handler.decision", _text),
    "host": (f"{_EPP}pd.prefill_pod_address", _text),
    "port": (f"{_EPP}pd.prefill_pod_port", _text),
}
