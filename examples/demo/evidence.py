"""Checks that requests, records, spans and gauges of a demo agree."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo.otlp_receiver import OTLPReceiver
from demo.replay import Answer
from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.model import semconv
from otel_lifecycle.records import read_records

SETTLE_SECONDS = 60.0  # reached only where something is missing
TELL_SECONDS = 5.0
POLL_SECONDS = 0.25

_NOT_SEEN = "exported as OTEL_EXPORTER_OTLP_* configure, not counted here"
_RECORDS = "a record of each request"
_EVERYTHING = "a record and a span of each request, and gauges of every endpoint back at 0"


@dataclass(frozen=True)
class Evidence:
    """The counts at the end of a run.

    Attributes:
        endpoints: Number of endpoints that the router has.
        answers: Number of requests by their end, as the clients saw it.
        records_path: The record file.
        record_span_ids: The span id of each record.
        span_ids: The id of each exported span; None: they were sent elsewhere.
        inflight: The last exported in-flight gauges, by endpoint; None: they were sent elsewhere.
        inflight_peak: Their highest values.
    """

    endpoints: int
    answers: Counter[Answer]
    records_path: Path
    record_span_ids: list[str]
    span_ids: list[str] | None
    inflight: dict[str, float] | None
    inflight_peak: float

    @property
    def agrees(self) -> bool:
        """Return whether each request has one record and one span, and nothing is in flight."""
        records = len(self.record_span_ids)
        if records != self.answers.total() or records != len(set(self.record_span_ids)):
            return False
        if self.span_ids is None or self.inflight is None:
            return True
        return (
            sorted(self.span_ids) == sorted(self.record_span_ids)
            and len(self.inflight) == self.endpoints
            and not any(self.inflight.values())
        )

    def print(self, console: Console, page: Path, *, kept: bool) -> None:
        """Print the counts, and where to look next.

        Args:
            console: Where.
            page: The report.
            kept: Whether records and logs stay.
        """
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        answers = ", ".join(f"{number:,} {answer.value}" for answer, number in self._answers())
        table.add_row("clients", f"{plural(self.answers.total(), 'request')}: {answers}")
        records = f"{len(self.record_span_ids):,}"
        table.add_row("records", f"{records} in {self.records_path}" if kept else records)
        table.add_row("spans", self._spans())
        table.add_row("in flight", self._inflight())
        command = "otel-lifecycle" if shutil.which("otel-lifecycle") else sys.argv[0]
        table.add_row("page", f"{page}, to open in a browser")
        if kept:
            table.add_row("logs", str(self.records_path.with_name("logs")))
            table.add_row("report", f"{command} report {self.records_path}")
        else:
            table.add_row("keep", f"records and logs: {command} demo --output DIR")
        image = "jaegertracing/jaeger:2.13.0"
        table.add_row("Jaeger", f"docker run --rm -p 4317:4317 -p 16686:16686 {image}")
        table.add_row("", f"OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 {command} demo")
        table.add_row("", "and look at http://localhost:16686")
        console.print(table)

    def _answers(self) -> list[tuple[Answer, int]]:
        return [(answer, self.answers[answer]) for answer in Answer if self.answers[answer]]

    def _spans(self) -> str:
        if self.span_ids is None:
            return _NOT_SEEN
        same = sorted(self.span_ids) == sorted(self.record_span_ids)
        return f"{len(self.span_ids):,} exported, {'' if same else 'NOT '}those of the records"

    def _inflight(self) -> str:
        if self.inflight is None:
            return _NOT_SEEN
        if not self.inflight:
            return "no gauge was exported"
        left = [f"{name} {value:g}" for name, value in self.inflight.items() if value]
        now = f"NOT back at 0: {', '.join(left)}" if left else "back at 0"
        endpoints = plural(len(self.inflight), "endpoint")
        if len(self.inflight) != self.endpoints:
            endpoints += f" instead of {self.endpoints}"
        return f"gauges of {endpoints} {now}; the highest was {self.inflight_peak:g} requests"


async def gather_evidence(
    endpoints: int,
    answers: Counter[Answer],
    records: Path,
    receiver: OTLPReceiver | None,
    tell: Callable[[str], None],
) -> Evidence:
    """Count, and wait a while for unfinished work.

    The newest export may be older than the engine that came back last.

    Args:
        endpoints: Number of endpoints that the router has.
        answers: Number of requests by their end, as the clients saw it.
        records: The record file.
        receiver: The receiver of the router's exports; None: they are sent elsewhere.
        tell: Called once, if waiting takes long, with what is waited for.
    """
    loop = asyncio.get_running_loop()
    started, told = loop.time(), False
    while True:
        evidence = _evidence(endpoints, answers, records, receiver)
        waited = loop.time() - started
        if evidence.agrees or waited > SETTLE_SECONDS:
            return evidence
        if waited > TELL_SECONDS and not told:
            told = True
            awaited = _RECORDS if receiver is None else _EVERYTHING
            tell(f"waiting up to {SETTLE_SECONDS:g} s for {awaited}")
        await asyncio.sleep(POLL_SECONDS)


def _evidence(
    endpoints: int, answers: Counter[Answer], records: Path, receiver: OTLPReceiver | None
) -> Evidence:
    spans = inflight = None
    peak = 0.0
    if receiver is not None:
        spans = [
            span.span_id.hex()
            for span in receiver.spans(semconv.SCOPE)
            if not any(attribute.key == semconv.PHASE for attribute in span.attributes)
        ]
        inflight = {
            str(dict(attributes)[semconv.ENDPOINT_ID]): value
            for attributes, value in receiver.gauge(semconv.METRIC_INFLIGHT_REQUESTS).items()
        }
        peak = max(receiver.peak(semconv.METRIC_INFLIGHT_REQUESTS).values(), default=0.0)
    return Evidence(
        endpoints=endpoints,
        answers=answers,
        records_path=records,
        record_span_ids=[record.span_id or "" for record in read_records(records)],
        span_ids=spans,
        inflight=inflight,
        inflight_peak=peak,
    )
