"""What OTLP costs: encoding a span, ours and the SDK's, and `otel-lifecycle ship`.

Run with `python -m benchmarks.otlp`. The encoders take turns in one process; `ship` is a process of
its own, whose start is left out, and sends to a collector that reads and forgets.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

from benchmarks import sink
from benchmarks.budget import Budget
from benchmarks.requests import (
    AGGREGATED,
    DISAGGREGATED,
    FORTY_ATTRIBUTES,
    start,
    told,
    tracker,
)
from benchmarks.timing import Spread, Variant, interleave, load, ratio
from otel_lifecycle import Route, RouteEndpoint
from otel_lifecycle.model.endpoint_state import EndpointState
from otel_lifecycle.telemetry.attributes import Details
from otel_lifecycle.telemetry.otlp.encoders import SpanEncoder
from otel_lifecycle.telemetry.otlp.request import encode_request
from otel_lifecycle.telemetry.spans import Recorded, moments, span_from_record

ROUNDS = 30
BATCH = 64
SHIPPED = 20_000
ENDPOINTS = 16
SHIP_ROUNDS = 3

KINDS = (
    ("40 attributes", FORTY_ATTRIBUTES),
    ("one endpoint and its NPUs", AGGREGATED),
    ("prefill and decode", DISAGGREGATED),
)


class FinishedSpan(ReadableSpan):
    """A lifecycle span of which nobody has read the attributes."""

    recorded: Recorded | None = None


@dataclass(frozen=True)
class Encoding:
    """What it takes to encode the span of one kind of request, microseconds.

    Attributes:
        title: Which kind.
        stock: The SDK's encoder.
        span: Ours, reading the attributes of the span.
        record: Ours, from the record.
        to_stock: The last to the first.
    """

    title: str
    stock: Spread
    span: Spread
    record: Spread
    to_stock: float


@dataclass(frozen=True)
class Costs:
    """All that was measured.

    Attributes:
        encodings: By kind of request.
        ship_us: CPU of `ship` a record, by kind of request.
    """

    encodings: Sequence[Encoding]
    ship_us: Sequence[float]

    @property
    def budgets(self) -> list[Budget]:
        """The promises."""
        return [
            *(
                Budget(
                    f"one finished request as OTLP, {each.title}",
                    12,
                    each.record.median,
                    "us",
                    why="A quarter to half a microsecond for each attribute and event, by compiled "
                    f"code; the SDK's encoder takes {each.stock.median:.0f}",
                )
                for each in self.encodings
            ),
            Budget(
                "any other span as OTLP",
                45,
                max(each.span.median for each in self.encodings),
                "us",
            ),
            *(
                Budget(
                    f"`ship`, {each.title}",
                    60,
                    us,
                    "us CPU a record",
                    why=f"Of it {each.record.median:.0f} us encode the span; the rest reads, "
                    "decodes and sends",
                )
                for each, us in zip(self.encodings, self.ship_us, strict=True)
            ),
        ]


def measure() -> Costs:
    """Takes about a minute."""
    with tempfile.TemporaryDirectory() as folder:
        encodings = [_encoding(Path(folder), title, route) for title, route in KINDS]
        ship_us = [_ship_us(Path(folder), title, route) for title, route in KINDS]
    return Costs(encodings, ship_us)


def _encoding(folder: Path, title: str, route: Route) -> Encoding:
    variants = encoders(folder, route)
    interleave(variants, ROUNDS, 4)
    stock, any_span, from_record = (
        Spread.of([us / BATCH for us in variant.timed.path_us]) for variant in variants
    )
    return Encoding(
        title,
        stock,
        any_span,
        from_record,
        ratio(variants[2].timed.path_us, variants[0].timed.path_us),
    )


def encoders(folder: Path, route: Route) -> list[Variant]:
    """Encode a batch of spans: by the SDK's encoder, by ours, and by ours from their records."""
    record, _ = told(folder, route)
    span = span_from_record(record, Details())
    spans = [span] * BATCH
    encoder = SpanEncoder()
    views = {
        role: EndpointState(each.endpoint).view(each)
        for role in ("leader", "prefill", "decode")
        if (each := getattr(route, role)) is not None
    }
    finished = FinishedSpan(
        span.name,
        span.context,
        span.parent,
        span.resource,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
    finished.recorded = Recorded(record, moments(record), Details(), views)
    return [
        Variant("the SDK's", lambda _: encode_spans(spans).SerializeToString()),
        Variant("ours", lambda _: encode_request(map(encoder.encode, spans))),
        Variant(
            "ours, from the record",
            lambda _: encode_request(map(encoder.encode, [finished] * BATCH)),
        ),
    ]


def _ship_us(folder: Path, title: str, route: Route) -> float:
    """CPU of `ship` a record: of a file of many, above that of a file of one."""
    many, one = (_records(folder, f"{title} {count}", route, count) for count in (SHIPPED, 1))
    with sink.running() as collector:
        url = collector.url
        costs = [
            (_ship_seconds(folder, many, url) - _ship_seconds(folder, one, url)) / SHIPPED * 1e6
            for _ in range(SHIP_ROUNDS)
        ]
    return sorted(costs)[SHIP_ROUNDS // 2]


def _records(folder: Path, name: str, route: Route, count: int) -> Path:
    """A file as a router writes it: each of its endpoints is scraped anew every few requests."""
    lifecycles = tracker(folder, name, TracerProvider(shutdown_on_exit=False))
    chance = random.Random(1)
    known = [_scraped(route.leader, chance, number) for number in range(ENDPOINTS)]
    for number in range(count):
        if number % 13 == 0:
            index = number // 13 % ENDPOINTS
            known[index] = _scraped(route.leader, chance, index)
        chosen = Route(chance.choice(known))
        if route.prefill is not None:
            chosen = Route(route.leader, chance.choice(known[:8]), chance.choice(known[8:]))
        request = msgspec.structs.replace(
            start(f"{chance.getrandbits(128):032x}", chosen),
            input_tokens=chance.randint(1, 8_000),
            prefix_cache_score=round(chance.random(), 3),
        )
        tracked = lifecycles.track(request)
        tracked.chunk()
        tracked.complete(chance.randint(2, 900), chance.randint(0, 4_000))
        if number % 2_000 == 0:
            lifecycles.flush()
    lifecycles.close()
    return folder / f"{name}.jsonl"


def _scraped(known: RouteEndpoint, chance: random.Random, number: int) -> RouteEndpoint:
    now = datetime.now(timezone.utc)
    metrics, npu = known.metrics, known.npu
    assert metrics is not None
    metrics = msgspec.structs.replace(
        metrics,
        running_requests=chance.randint(0, 60),
        waiting_requests=chance.randint(0, 9),
        kv_cache_usage=round(chance.random(), 4),
        update_time=now,
    )
    if npu is not None:
        npu = msgspec.structs.replace(
            npu, ai_core_utilization_avg=float(chance.randint(0, 100)), observation_time=now
        )
    named = msgspec.structs.replace(known.endpoint, pod_name=f"qwen-{number}")
    return RouteEndpoint(named, metrics, npu)


def _ship_seconds(folder: Path, path: Path, url: str) -> float:
    checkpoint = folder / "checkpoint.json"
    checkpoint.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    command = [sys.executable, "-c", "from otel_lifecycle.cli import main; main()"]
    with subprocess.Popen(
        [*command, "ship", "--once", "--checkpoint", str(checkpoint), str(path)],
        env=environment,
        stderr=subprocess.DEVNULL,
    ) as ship:
        _, status, used = os.wait4(ship.pid, 0)
        ship.returncode = os.waitstatus_to_exitcode(status)
    assert ship.returncode == 0, "`ship` failed"
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Prints the tables."""
    costs = measure()
    print(f"Python {sys.version.split()[0]}, {ROUNDS} rounds, load {load():.1f}")
    for each in costs.encodings:
        print(
            f"{each.title}: the SDK {each.stock.median:.1f} us a span, ours "
            f"{each.span.median:.1f}, from the record {each.record.median:.1f} "
            f"({each.to_stock:.2f} x)"
        )
    print("\n".join(map(str, costs.budgets)))


if __name__ == "__main__":
    main()
