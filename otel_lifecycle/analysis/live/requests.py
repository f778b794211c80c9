"""The table of requests worth a look."""

from __future__ import annotations

from typing import Final

from otel_lifecycle.analysis.formatting import compact, latency, printable
from otel_lifecycle.analysis.live.snapshot import Snapshot
from otel_lifecycle.analysis.live.table import Column
from otel_lifecycle.analysis.routes import counted_endpoints, endpoint_name
from otel_lifecycle.model import Outcome
from otel_lifecycle.model.record import LifecycleRecord
from otel_lifecycle.model.timestamps import parse_timestamp

LIST_TITLES: Final = {
    "ttft": "LONGEST TTFT",
    "duration": "LONGEST",
    "failed": "FAILED",
    "resent": "SENT AGAIN",
    "last": "LAST FINISHED",
}


def request_columns(snapshot: Snapshot, which: str) -> list[Column[LifecycleRecord]]:
    """Return all columns, from left to right.

    Args:
        snapshot: For the present.
        which: The list that is shown.
    """
    with_error = 18 if which == "failed" else 9
    return [
        Column(
            LIST_TITLES[which], lambda one: printable(one.request_id), 15, 0, widest=24, left=True
        ),
        Column("TTFT", _ttft, 6, 1, style=_slow),
        Column("PRED", lambda one: latency(one.prediction.ttft_ms), 6, 6),
        Column("TPOT", lambda one: latency(one.actual.tpot_ms), 6, 7),
        Column("TIME", lambda one: latency(one.actual.e2e_ms), 6, 3),
        Column("IN", lambda one: compact(one.input_token_length), 6, 8),
        Column("CACHED", lambda one: compact(one.cached_tokens), 6, 9),
        Column("OUT", lambda one: compact(one.output_length), 6, 10),
        Column("ROUTE", route, 20, 5, widest=44, left=True),
        Column("MODEL", lambda one: printable(one.model), 12, 11, widest=30, left=True),
        Column("OUTCOME", outcome, with_error, 2, widest=26, left=True, style=_outcome_style),
        Column("AGO", lambda one: ago(snapshot.now_ns - ended_ns(one)), 4, 4),
    ]


def ended_ns(record: LifecycleRecord) -> int:
    """Return when a request ended, in Unix nanoseconds."""
    return parse_timestamp(record.completed_at or record.started_at)


def ago(nanoseconds: int) -> str:
    """Format the time since something: `4s`, `3m`, `2h`, `5d`."""
    seconds = max(0, nanoseconds) // 1_000_000_000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def span(seconds: float) -> str:
    """Format a duration in its largest whole unit: `60 s`, `5 min`, `24 h`."""
    for size, unit in ((3_600, "h"), (60, "min")):
        if seconds > size and seconds % size == 0:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:g} s"


def route(record: LifecycleRecord) -> str:
    """Return the endpoints of a request, without their namespaces."""
    names = [
        endpoint_name(snapshot).rpartition("/")[2] for _, snapshot in counted_endpoints(record)
    ]
    return " → ".join(names) or "no endpoint"


def outcome(record: LifecycleRecord) -> str:
    """Return how a request ended, and the error."""
    name = record.outcome.value.replace("_", " ")
    return name if record.error is None else f"{name} {printable(record.error.type)}"


def _ttft(record: LifecycleRecord) -> str:
    ttft = record.actual.ttft_ms
    return latency(None if ttft is None else record.actual.since_arrival(ttft))


def _slow(record: LifecycleRecord) -> str:
    actual, predicted = record.actual.ttft_ms, record.prediction.ttft_ms
    return "yellow" if actual and predicted and actual > 2 * predicted else ""


def _outcome_style(record: LifecycleRecord) -> str:
    if record.outcome is Outcome.COMPLETED:
        return "green"
    return "yellow" if record.outcome is Outcome.CLIENT_DISCONNECT else "red"
