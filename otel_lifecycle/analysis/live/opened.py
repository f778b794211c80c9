"""One request: its waterfall, and why it went where it went."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from rich.text import Text

from otel_lifecycle.analysis.formatting import (
    UNKNOWN,
    compact,
    latency,
    milliseconds,
    printable,
)
from otel_lifecycle.analysis.live.endpoints import percentage
from otel_lifecycle.analysis.live.requests import ended_ns, outcome
from otel_lifecycle.analysis.live.table import Column, fitting, head, row_line, shorten
from otel_lifecycle.analysis.routes import counted_endpoints, name_of_label
from otel_lifecycle.analysis.waterfalls import LABEL_WIDTH, LEGEND, axis, bar, facts
from otel_lifecycle.model.decision import Decision, Pick, RecordedCandidate
from otel_lifecycle.model.record import LifecycleRecord, RecordedLeg
from otel_lifecycle.model.timestamps import parse_timestamp

_QUEUE, _CALL = "·", "━"
_NARROWEST_BAR = 10


def opened_lines(record: LifecycleRecord, width: int) -> Iterator[Text]:
    """Yield the lines that show one request."""
    title, latencies, *_ = facts(record).split("\n")
    yield Text(" · ".join(filter(None, (title, printable(record.model)))), style="bold")
    yield Text(f" {latencies}")
    end = " ".join(filter(None, (outcome(record), printable(record.finish_reason or ""))))
    yield Text(f" {end} · dispatched at {record.started_at[11:23]} UTC")
    yield from _waterfall(record, width)
    for reroute in record.rerouted:
        places = f"{name_of_label(reroute.from_endpoint)} → {name_of_label(reroute.to_endpoint)}"
        yield Text(f" sent again: {printable(reroute.reason)}, {places}", style="yellow")
    yield from _decision(record, width)
    if record.trace_id:
        yield Text(f" trace {printable(record.trace_id)}", style="dim")


def _waterfall(record: LifecycleRecord, width: int) -> Iterator[Text]:
    room = width - LABEL_WIDTH - 1
    if room < _NARROWEST_BAR:
        return
    arrived_ns = parse_timestamp(record.received_at or record.started_at)
    total_ms = max(ended_ns(record) - arrived_ns, 0) / 1e6 or 1.0
    queued_ms = min(max(record.actual.queue_ms or 0.0, 0.0), total_ms)
    queue = round(queued_ms / total_ms * room)
    legend = f"{_QUEUE} in the router  {LEGEND}" if queue else LEGEND
    yield Text(" " * LABEL_WIDTH + axis(total_ms, room), style="dim")
    pieces = bar(record, total_ms - queued_ms or 1.0, room - queue) if queue < room else []
    yield Text.assemble(" request".ljust(LABEL_WIDTH), (_QUEUE * queue, "magenta"), *pieces)
    for leg in record.legs or ():
        yield _leg(leg, arrived_ns, total_ms, room)
    yield Text(" " * LABEL_WIDTH + legend, style="dim")


def _leg(leg: RecordedLeg, arrived_ns: int, total_ms: float, room: int) -> Text:
    def place(at: str | None) -> int:
        ms = total_ms if at is None else (parse_timestamp(at) - arrived_ns) / 1e6
        return round(min(max(ms / total_ms, 0.0), 1.0) * room)

    start = min(place(leg.started_at), room - 1)
    line = _CALL * max(1, place(leg.ended_at) - start)
    name = name_of_label(leg.endpoint).rpartition("/")[2]
    label = shorten(f" {leg.role.value} {name}", LABEL_WIDTH - 1)
    failed = leg.outcome is not None and leg.outcome.value != "completed"
    return Text.assemble(label.ljust(LABEL_WIDTH), " " * start, (line, "red" if failed else "blue"))


def _decision(record: LifecycleRecord, width: int) -> Iterator[Text]:
    facts = [f"policy {printable(record.policy)}" if record.policy else "policy unknown"]
    if record.candidates is not None:
        facts.append(f"{record.candidates:,} candidates")
    if record.attempt > 1:
        facts.append(f"attempt {record.attempt:,}")
    decision = record.decision
    if isinstance(decision, Decision) and decision.reason:
        facts.append(printable(decision.reason))
    yield Text.assemble((" Decision  ", "bold"), " · ".join(facts))
    if decision is msgspec.UNSET:
        yield Text("  no candidates are recorded", style="dim")
        return
    chosen = {name_of_label(one.label) for _, one in counted_endpoints(record)}
    for pick in decision.picks:
        yield from _pick(pick, chosen, width)


def _pick(pick: Pick, chosen: set[str], width: int) -> Iterator[Text]:
    facts = [f"{name} {value}" for name, value in _measures(pick) if value != UNKNOWN]
    columns = fitting(_candidate_columns(pick), width - 1)
    yield Text(" ") + head(columns)
    for candidate in pick.candidates:
        is_chosen = name_of_label(candidate.label) in chosen
        yield Text(" ") + row_line(columns, candidate, marked=is_chosen)
    if facts:
        yield Text("  " + " · ".join(facts), style="dim")


def _measures(pick: Pick) -> Iterator[tuple[str, str]]:
    yield "rank of the chosen", compact(pick.chosen_rank)
    yield "margin", compact(pick.margin)
    regret = pick.regret_ms
    yield "regret", UNKNOWN if regret is None else f"{milliseconds(regret)} ms"


def _candidate_columns(pick: Pick) -> list[Column[RecordedCandidate]]:
    def predicted(one: RecordedCandidate) -> str:
        prediction = one.prediction
        if prediction is None:
            return UNKNOWN
        return latency(prediction.tpot_ms if pick.role == "decode" else prediction.ttft_ms)

    title = f"{printable(pick.role).upper()} CANDIDATE"
    return [
        Column(title, lambda one: name_of_label(one.label), 14, 0, widest=44, left=True),
        Column("SCORE", lambda one: compact(one.score), 7, 1),
        Column("CACHED%", lambda one: percentage(one.prefix_cache_score), 7, 2),
        Column("PREDICTED", predicted, 9, 3),
        Column("INFL", lambda one: compact(one.inflight and one.inflight.requests), 5, 4),
        Column("TOKENS", lambda one: compact(one.inflight and one.inflight.tokens), 6, 7),
        Column("WAIT", lambda one: compact(one.waiting), 4, 5),
        Column("KV%", lambda one: percentage(one.kv_cache_usage), 4, 6),
    ]
